"""How much memory this machine has to spare, and how much room its disk."""

import shutil
from pathlib import Path

_SPARED = 0.85
"""Share of the free memory that is planned with: other programs go on meanwhile."""


def spare_bytes() -> int:
    """Memory that can be taken without swapping, as the system tells it, less a margin."""
    import psutil  # noqa: PLC0415 - the server reads plans, and a client waits for its start

    return int(_SPARED * psutil.virtual_memory().available)


def free_disk_bytes(folder: Path) -> int:
    """Room where a folder lies."""
    return shutil.disk_usage(folder).free
