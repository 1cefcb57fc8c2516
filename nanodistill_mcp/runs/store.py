"""Runs as a collection: create, open, list, move to trash. Reads only what it shows."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from nanodistill_mcp.errors import DamagedRunError, RunStateError, UserInputError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir, read_json, read_lines, write_atomic, write_json, write_lines
from nanodistill_mcp.runs.paths import RUN_ID, RunPaths, run_id_of
from nanodistill_mcp.runs.records import SCHEMA_VERSION, RunBudget, RunManifest, RunSpec, RunTags, Seed, TaskPolicy

_R = TypeVar("_R", bound=BaseModel)
_SHOWN_CHARS = 60


def now() -> str:
    """The wall clock, for records that say when."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_record(path: Path, kind: type[_R]) -> _R | None:
    """Read one record; None when the file is absent.

    Raises:
        DamagedRunError: The file is there and is not such a record.
    """
    value = read_json(path)
    if value is None:
        return None
    try:
        return kind.model_validate(value)
    except ValidationError:
        raise DamagedRunError(
            f"{path.name} of this run does not have the fields it should have.",
            next_step="Restore the file from a copy, or redo the stage that writes it with restart=true.",
        ) from None


def read_records(path: Path, kind: type[_R], *, appended: bool = False) -> Iterator[_R]:
    """Yield the records of a JSONL file; nothing when there is none. Of an appended one, a torn last line is left out.

    Raises:
        DamagedRunError: A line is not such a record.
    """
    for number, row in enumerate(read_lines(path, appended=appended), 1):
        try:
            yield kind.model_validate(row)
        except ValidationError:
            raise DamagedRunError(
                f"Line {number} of {path.name} does not have the fields it should have.",
                next_step="Restore the file from a copy, or redo the stage that writes it with restart=true.",
            ) from None


@contextlib.contextmanager
def saying_what_is_damaged(run_id: str) -> Generator[None]:
    """Take what goes wrong while a run's files are put into words for damage to them, which is what it nearly always is.

    The log has the traceback, and with it the file.

    Raises:
        DamagedRunError: Something did.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        traceback.print_exception(error)
        what = errno.errorcode.get(error.errno or 0, "error") if isinstance(error, OSError) else type(error).__name__
        raise DamagedRunError(
            f"A file of run {run_id!r} does not hold what it should ({what}).",
            next_step="The server's log says where. Restore it from a copy, or redo its stage with restart=true.",
        ) from None


@dataclass(frozen=True)
class Run:
    """One run folder, opened."""

    paths: RunPaths

    @property
    def run_id(self) -> str:
        return self.paths.run_id

    @cached_property
    def manifest(self) -> RunManifest:
        """The run's manifest.

        Raises:
            DamagedRunError: It is missing or unreadable.
        """
        manifest = read_record(self.paths.manifest, RunManifest)
        if manifest is None:
            raise DamagedRunError(
                f"Run {self.run_id!r} has no run.json.",
                next_step="Restore the file, or delete_run and create it again.",
            )
        return manifest

    def check_writable(self) -> None:
        """Refuse to write a run that a newer version made.

        Raises:
            RunStateError: The run's schema is newer than this code knows.
        """
        if self.manifest.schema_version > SCHEMA_VERSION:
            raise RunStateError(
                f"Run {self.run_id!r} was made by a newer version (schema {self.manifest.schema_version}); it can be read, not changed.",
                next_step="Update nanodistill-mcp, then call the tool again.",
            )

    def budget(self) -> RunBudget:
        """What the run may spend in all: as it was created, or as it was last changed."""
        if changed := read_record(self.paths.budget, RunBudget):
            return changed
        spec = self.manifest.spec
        caps = {name: spec.options.get(name) for name in ("max_calls", "max_total_tokens")}
        return RunBudget.model_validate({"usd": spec.budget_usd, **caps})

    def seeds(self) -> list[Seed]:
        """The user's examples, in the order given."""
        return list(read_records(self.paths.seeds, Seed))

    def inputs(self) -> list[str]:
        """Real inputs for the teacher to answer, in the order given."""
        return [str(row["input"]) for row in read_lines(self.paths.inputs)]

    def tags(self) -> list[str]:
        """The words the user finds the run by."""
        found = read_record(self.paths.tags, RunTags)
        return found.tags if found else []

    def policy(self) -> TaskPolicy | None:
        """The current policy; None before it was extracted."""
        return read_record(self.paths.policy, TaskPolicy)


@dataclass(frozen=True)
class RunStore:
    """All runs below one data directory."""

    home: Path

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    def prepare(self) -> None:
        """Make the data directory, private to its user.

        Raises:
            RunStateError: It lies where files are synced or evicted, or cannot be made.
        """
        if any(part in ("CloudStorage", "Mobile Documents") for part in self.home.parts):
            raise RunStateError(
                "The data directory lies in a folder that a cloud service syncs; locks and atomic files do not hold there.",
                next_step="Set NANODISTILL_HOME to a local folder in the server's configuration.",
            )
        try:
            for directory in (self.home, self.runs_dir):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RunStateError(
                f"The data directory cannot be made ({errno.errorcode.get(error.errno or 0, 'error')}).",
                next_step="Set NANODISTILL_HOME to a folder this user may write, in the server's configuration.",
            ) from None

    def names(self) -> list[str]:
        """Run ids, newest first by the folder's time."""
        found: list[tuple[int, str]] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.runs_dir) as entries:
            for entry in filter(_is_run, entries):
                with contextlib.suppress(FileNotFoundError):  # moved to trash since
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found, reverse=True)]

    def open(self, run_id: str) -> Run:
        """Open a run.

        Raises:
            UserInputError: There is no such run; the answer names those there are.
        """
        try:
            run = Run(RunPaths(self.runs_dir / run_id_of(run_id)))
        except UserInputError:
            run = None
        if run is None or not run.paths.root.is_dir() or run.paths.root.is_symlink():
            known = self.names()[:20]
            raise UserInputError(
                f"There is no run {run_id[:64]!r}.",
                next_step=f"Known runs: {', '.join(known)}."
                if known
                else "There are no runs yet: call create_run first.",
            )
        return run

    def find(self, name: str) -> Run | None:
        """The run of this name without regard to case, if there is one."""
        wanted = run_id_of(name).casefold()
        for existing in self.names():
            if existing.casefold() == wanted:
                return Run(RunPaths(self.runs_dir / existing))
        return None

    def create(
        self,
        manifest: RunManifest,
        seeds: list[Seed],
        *,
        inputs: Sequence[str] = (),
        wordings: Mapping[str, str] | None = None,
        fill: Callable[[RunPaths], None] | None = None,
    ) -> tuple[Run, bool]:
        """Make a run folder appear whole, or attach to the equal one that is there.

        Args:
            manifest: What was asked for, and the plan.
            seeds: The user's examples.
            inputs: Real inputs for the teacher to answer.
            wordings: Prompts that replace the package's, by template.
            fill: Puts further files into the folder before it appears.

        Returns:
            The run, and whether this call made it.

        Raises:
            UserInputError: The name is taken by a run with another spec; says what differs.
        """
        if existing := self.find(manifest.run_id):
            return _same_or_refuse(existing, manifest), False
        self.prepare()
        final = RunPaths(self.runs_dir / manifest.run_id)
        draft = RunPaths(self.runs_dir / f".{manifest.run_id}.{secrets.token_hex(4)}.tmp")
        fault("create.mkdir")
        draft.root.mkdir(mode=0o700)
        try:
            draft.jobs.mkdir(mode=0o700)
            write_lines(draft.seeds, [seed.model_dump() for seed in seeds])
            if inputs:
                write_lines(draft.inputs, [{"input": text} for text in inputs])
            if wordings:
                draft.prompts.mkdir(mode=0o700)
            for template, text in (wordings or {}).items():
                write_atomic(draft.prompts / f"{template}.md", text.encode())
            if fill:
                fill(draft)
            write_json(draft.manifest, manifest.model_dump())
            with _alone_in(self.runs_dir):
                # Another server may have been first, with this name or the same in other case.
                if existing := self.find(manifest.run_id):
                    return _same_or_refuse(existing, manifest), False
                fault("create.rename")
                os.rename(draft.root, final.root)
                fault("create.fsync_dir")
                fsync_dir(self.runs_dir)
                fault("create.done")
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
                raise UserInputError(
                    f"The name {manifest.run_id!r} is taken by something that is not a run.",
                    next_step="Choose another name.",
                ) from None
            raise
        finally:
            shutil.rmtree(draft.root, ignore_errors=True)  # there is nothing to remove once it was renamed
        return Run(final), True

    def trash(self, run: Run) -> Path:
        """Move a run out of the list. Nothing is erased."""
        trash_dir = self.home / "trash"
        trash_dir.mkdir(mode=0o700, exist_ok=True)
        target = trash_dir / f"{run.run_id}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        fault("trash.rename")
        os.rename(run.paths.root, target)
        fault("trash.fsync_dir")
        fsync_dir(trash_dir)
        fsync_dir(self.runs_dir)
        fault("trash.done")
        return target

    def all(self) -> Iterator[Run]:
        """Every run, newest first."""
        return map(self.named, self.names())

    def named(self, name: str) -> Run:
        """The run of a name that :meth:`names` gave."""
        return Run(RunPaths(self.runs_dir / name))


def _is_run(entry: os.DirEntry[str]) -> bool:
    return RUN_ID.match(entry.name) is not None and entry.is_dir(follow_symlinks=False)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Generator[None, None, None]:
    """Keep the other processes out that take the same care."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _same_or_refuse(run: Run, manifest: RunManifest) -> Run:
    theirs, ours = run.manifest.spec, manifest.spec
    if theirs == ours:
        return run
    different = [name for name in RunSpec.model_fields if getattr(theirs, name) != getattr(ours, name)]
    shown = "; ".join(
        f"{name}: {_short(getattr(theirs, name))} there, {_short(getattr(ours, name))} here" for name in different
    )
    if different == ["budget_usd"]:
        raise UserInputError(
            f"Run {run.run_id!r} was created with a budget of ${theirs.budget_usd:g}, and create_run does not change it.",
            next_step=f"Give synthesize_cot, extract_policy or amplify the new total as budget_usd={ours.budget_usd:g}.",
        )
    raise UserInputError(
        f"There is already a run {run.run_id!r} with another specification ({shown}).",
        next_step="Choose another name, or repeat the call with the specification that is there to continue it.",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
