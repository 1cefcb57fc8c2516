"""``nanodistill-mcp bundle`` and ``import``: a run in one file, and back."""

from pathlib import Path

from nanodistill_mcp.pipeline.bundle import check_idle_for, check_target, write_bundle
from nanodistill_mcp.pipeline.unbundle import import_bundle
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.settings import load_settings


def bundle_run(home: Path, run_id: str, to: str, *, with_gguf: bool, as_is: bool) -> int:
    """Put a run into one file; an idle one, and never over a file that is there."""
    run = RunStore(home).open(run_id)
    target = Path(to or f"{run.run_id}.tar.gz").expanduser().absolute()
    check_idle_for(run)
    check_target(target)
    made = write_bundle(run, target, with_gguf=with_gguf, as_is=as_is)
    print(f"{made.path}: {made.files} files, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    return 0


def import_run(home: Path, file: str, name: str, student: str) -> int:
    """Make a run of a bundle."""
    archive = Path(file).expanduser()
    run, created = import_bundle(RunStore(home), load_settings(home), archive, name=name, student=student)
    print(f"Run {run.run_id} {'is imported' if created else 'was imported before'}: nanodistill-mcp show {run.run_id}")
    return 0
