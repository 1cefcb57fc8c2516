"""``nanodistill-mcp clean``: says what would be freed, and frees it only when told to."""

from collections.abc import Sequence
from pathlib import Path

from nanodistill_mcp.pipeline.cleaning import KINDS, Kind, free, leftovers
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server.artifacts import clean


def clean_up(home: Path, kinds: Sequence[Kind], *, yes: bool) -> int:
    """List what can go, of the kinds given or of all; remove it with ``yes``."""
    found = [leftover for leftover in leftovers(RunStore(home)) if not kinds or leftover.kind in kinds]
    if not found:
        print(f"There is nothing to free in {home}.")
        return 0
    freed_bytes = 0
    for kind, words in KINDS.items():
        of_kind = [leftover for leftover in found if leftover.kind == kind]
        if not of_kind:
            continue
        print(f"{kind}: {_megabytes(sum(leftover.size_bytes for leftover in of_kind))}, {words}")
        for leftover in of_kind:
            print(f"  {_megabytes(leftover.size_bytes):>10}  {clean(str(leftover.path.relative_to(home)))}")
            if yes and free(leftover):
                freed_bytes += leftover.size_bytes
    total_bytes = sum(leftover.size_bytes for leftover in found)
    if not yes:
        only = "".join(f" --only {kind}" for kind in kinds)
        print(f"Nothing was removed. To free {_megabytes(total_bytes)} for good: nanodistill-mcp clean{only} --yes")
        return 0
    stayed = total_bytes - freed_bytes
    print(
        f"Freed {_megabytes(freed_bytes)}." + (f" {_megabytes(stayed)} stay: a job began meanwhile." if stayed else "")
    )
    return 0


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
