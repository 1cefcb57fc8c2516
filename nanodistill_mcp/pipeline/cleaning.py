"""What takes room and is needed no more: named with its size, and freed only when that was asked for.

Never anything of a run that has a living job, nor what a run's own stages would read again.
"""

import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanodistill_mcp.jobs.locks import is_held, open_lock, try_lock
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run, RunStore

Kind = Literal["trash", "archive", "checkpoints", "temporary"]

KINDS: dict[Kind, str] = {
    "trash": "runs that delete_run put away",
    "archive": "what stages made before they were done again",
    "checkpoints": "steps of trainings that ended; the trained adapter stays",
    "temporary": "half-written files of processes that died",
}
_STALE_S = 3600.0


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go."""

    kind: Kind
    path: Path
    size_bytes: int
    run: Run | None = None


def leftovers(store: RunStore) -> Iterator[Leftover]:
    """Everything that can go, the trash first."""
    yield from (_found("trash", path) for path in _entries(store.home / "trash"))
    yield from (_found("temporary", path) for path in _entries(store.runs_dir) if _is_stale_draft(path))
    for run in store.all():
        paths = run.paths
        if is_held(paths.worker_lock) or is_held(paths.trainer_lock):
            continue
        yield from (_found("archive", path, run) for path in _entries(paths.archive))
        if paths.training.exists() and paths.checkpoints.is_dir() and _entries(paths.checkpoints):
            yield _found("checkpoints", paths.checkpoints, run)
        yield from (_found("temporary", path, run) for path in _temporary(paths))


def free(leftover: Leftover) -> bool:
    """Remove one; False when its run was taken up again since, and it stays."""
    if leftover.run is None:
        _remove(leftover.path)
        return True
    with _quiet(leftover.run) as quiet:
        if quiet:
            _remove(leftover.path)
    return quiet


@contextmanager
def _quiet(run: Run) -> Generator[bool]:
    """Hold the run's lock, so that no worker starts meanwhile; False when one works."""
    lock = open_lock(run.paths.worker_lock)
    try:
        yield try_lock(lock) and not is_held(run.paths.trainer_lock)
    finally:
        os.close(lock)


def _found(kind: Kind, path: Path, run: Run | None = None) -> Leftover:
    return Leftover(kind, path, _size_bytes(path), run)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _is_stale_draft(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp") and _is_stale(path)


def _is_stale(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _STALE_S


def _temporary(paths: RunPaths) -> Iterator[Path]:
    """Temporary files beside what they were to become; what is looked at above is left out."""
    apart = {paths.archive, paths.checkpoints}
    for folder, names, files in os.walk(paths.root):
        names[:] = [name for name in names if Path(folder, name) not in apart]
        for name in files:
            if name.endswith(".tmp") and _is_stale(path := Path(folder, name)):
                yield path


def _size_bytes(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in inside)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
