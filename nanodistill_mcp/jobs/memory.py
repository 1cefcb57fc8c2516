"""How much memory this machine has to spare, and how much room its disk."""

import shutil
from pathlib import Path

from nanodistill_mcp.jobs.guard import reserve_gb


def total_gb() -> float:
    """The machine's memory."""
    import psutil  # noqa: PLC0415 - the server reads plans, and a client waits for its start

    return psutil.virtual_memory().total / 1e9


def spare_gb() -> float:
    """Memory that can be taken without swapping, as the system tells it, less what is kept for the system."""
    from nanodistill_mcp.jobs import measuring  # noqa: PLC0415 - as above

    return max(0.0, measuring.available_gb() - reserve_gb(total_gb()))


def free_disk_bytes(folder: Path) -> int:
    """Room where a folder lies."""
    return shutil.disk_usage(folder).free
