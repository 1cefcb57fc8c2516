"""How much memory this machine has to spare, and how much room its disk."""

import shutil
from pathlib import Path

from nanodistill_mcp.jobs.guard import reserve_gb

CONTAINER = Path("/sys/fs/cgroup")


def total_gb() -> float:
    """The machine's memory, or as much of it as this container may have."""
    import psutil  # noqa: PLC0415 - the server reads plans, and a client waits for its start

    found = of_container()
    total = psutil.virtual_memory().total
    return (min(found[0], total) if found else total) / 1e9


def of_container(folder: Path = CONTAINER) -> tuple[int, int] | None:
    """Bytes that this container may have, and that it has left with what lies on the disk too; None where there is no limit."""
    try:
        limit, used = (int((folder / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        stat = (folder / "memory.stat").read_text("ascii").split()
        cached = int(stat[stat.index("inactive_file") + 1])
    except (OSError, ValueError, IndexError):  # "max" is no limit; outside of a container there are no such files
        return None
    return limit, max(0, limit - used + cached)


def spare_gb() -> float:
    """Memory that can be taken without swapping, as the system tells it, less what is kept for the system."""
    from nanodistill_mcp.jobs import measuring  # noqa: PLC0415 - as above

    return max(0.0, measuring.available_gb() - reserve_gb(total_gb()))


def free_disk_bytes(folder: Path) -> int:
    """Room where a folder lies."""
    return shutil.disk_usage(folder).free
