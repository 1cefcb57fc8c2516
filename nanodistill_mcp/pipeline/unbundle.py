"""A bundle becomes a run again, on this machine: every name, size and hash checked before anything has its place."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
import zlib
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from nanodistill_mcp.errors import DamagedRunError, NanodistillError, RunStateError, UserInputError
from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.pipeline.bundle import BUNDLE_VERSION, MANIFEST
from nanodistill_mcp.pipeline.bundle_contents import ALLOWED, public_variables
from nanodistill_mcp.pipeline.plan import check_student
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.pipeline.seeds import digest
from nanodistill_mcp.runs.files import read_object, sha256_of, write_json
from nanodistill_mcp.runs.journal import parse, spend_of
from nanodistill_mcp.runs.paths import RUN_ID, JobPaths, RunPaths, run_id_of
from nanodistill_mcp.runs.records import SCHEMA_VERSION, Exit, JobRequest, Rejected, RunManifest, Trace
from nanodistill_mcp.runs.store import Run, RunStore, read_record, read_records
from nanodistill_mcp.settings import Settings

_MOST_FILES = 5_000
_MOST_TIMES = 200
"""How many times larger than the archive its files may be: text is about ten times as large, a bomb a thousand times."""
_ALWAYS_ROOM = 64 << 20
_KEPT_FREE = 1 << 30
_MOST_MANIFEST = 4 << 20
_CHUNK = 1 << 20


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    bytes: int
    sha256: str


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    run_id: str
    schema_version: int
    files: dict[str, _File]
    order: dict[str, int] = {}


def import_bundle(
    store: RunStore, settings: Settings, archive: Path, *, name: str = "", student: str = ""
) -> tuple[Run, bool]:
    """Make a run of a bundle. Imported again under the same name, it is the same run.

    Args:
        store: Where the run goes.
        settings: This machine's: keys and endpoints are never taken from a bundle.
        archive: The bundle.
        name: The run's name here; else the one it had.
        student: A hub id or folder in place of the one it was made with.

    Returns:
        The run, and whether this call made it.

    Raises:
        UserInputError: It is no bundle, is damaged, holds what no bundle holds, or its name is taken.
        RunStateError: It was made by a newer version, or another import is under way.
    """
    store.prepare()
    lock = open_lock(store.home / "import.lock")
    try:
        if not try_lock(lock):
            raise RunStateError("Another bundle is being imported.", next_step="Wait for it, then try again.")
        unpacked = store.home / ".import"
        shutil.rmtree(unpacked, ignore_errors=True)  # of an import that was killed
        unpacked.mkdir(mode=0o700)
        try:
            return _placed(store, settings, _unpack(archive, unpacked), unpacked, name, student)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    finally:
        os.close(lock)


def _placed(
    store: RunStore, settings: Settings, manifest: _Manifest, unpacked: Path, name: str, student: str
) -> tuple[Run, bool]:
    bundle_sha = sha256_of(unpacked / MANIFEST)
    run_id = run_id_of(name or manifest.run_id)
    if existing := store.find(run_id):
        return _same_or_refuse(existing, bundle_sha), False
    paths = RunPaths(unpacked)
    record = _manifest_here(settings, _checked(paths), run_id, student, bundle_sha)
    seeds, inputs = Run(paths).seeds(), Run(paths).inputs()
    _make_ours(paths, manifest)

    def fill(draft: RunPaths) -> None:
        for entry in sorted(unpacked.iterdir()):
            if entry.name in (MANIFEST, "README.md", "run.json"):
                continue
            target = draft.root / entry.name
            if target.is_dir():
                target.rmdir()
            os.replace(entry, target)

    run, created = store.create(record, seeds, inputs=inputs, fill=fill)
    return (run, True) if created else (_same_or_refuse(run, bundle_sha), False)


def _same_or_refuse(run: Run, bundle_sha: str) -> Run:
    if run.manifest.bundle_sha256 == bundle_sha:
        return run
    raise UserInputError(
        f"There is already a run {run.run_id!r}, and it is not of this bundle.",
        next_step=f"Give another name: --name {run.run_id[:58]}-copy.",
    )


# Unpacking: nothing is believed, and nothing is written outside the folder.


def _unpack(archive: Path, folder: Path) -> _Manifest:
    """Write the archive's files below a folder and hold them against its manifest."""
    try:
        packed_bytes = archive.stat().st_size
        raw = archive.open("rb")
    except OSError:
        raise UserInputError(
            "The bundle cannot be read.", next_step="Give the path of a file this user may read."
        ) from None
    room = shutil.disk_usage(folder).free - _KEPT_FREE
    limit = min(room, max(_ALWAYS_ROOM, _MOST_TIMES * packed_bytes))
    with raw:
        try:
            with (
                gzip.GzipFile(fileobj=raw) as unpacked,
                tarfile.open(fileobj=_Limited(unpacked, limit), mode="r|") as tar,
            ):
                written = _write_members(tar, folder)
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError):
            raise _not_a_bundle("it is not a whole archive") from None
    return _held_against_manifest(folder, written)


def _write_members(tar: tarfile.TarFile, folder: Path) -> dict[str, _File]:
    written: dict[str, _File] = {}
    seen: set[str] = set()
    tops: set[str] = set()
    for member in tar:
        top, _, name = member.name.partition("/")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise _not_a_bundle("it holds a link or something else that is not a plain file")
        if not RUN_ID.match(top) or not ALLOWED.match(name):
            raise _not_a_bundle("it holds a file that no bundle holds")
        if name.casefold() in seen or len(tops | {top}) > 1 or len(written) >= _MOST_FILES:
            raise _not_a_bundle("it names a file twice, or too many")
        seen.add(name.casefold())
        tops.add(top)
        stream = tar.extractfile(member)
        if stream is None:
            raise _not_a_bundle("it is not a whole archive")
        written[name] = _write(stream, folder / name)
    return written


def _write(stream: IO[bytes], path: Path) -> _File:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    found, size = hashlib.sha256(), 0
    with os.fdopen(fd, "wb") as out:
        while data := stream.read(_CHUNK):
            out.write(data)
            found.update(data)
            size += len(data)
        out.flush()
        os.fsync(out.fileno())
    return _File(bytes=size, sha256=found.hexdigest())


class _Limited(io.RawIOBase):
    """A stream that gives no more than was agreed."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int = -1) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _not_a_bundle("unpacked it is larger than a bundle can be, or than this disk has room for")
        return data


def _held_against_manifest(folder: Path, written: dict[str, _File]) -> _Manifest:
    if MANIFEST not in written or written[MANIFEST].bytes > _MOST_MANIFEST:
        raise _not_a_bundle("it has no manifest")
    try:
        value: Any = json.loads((folder / MANIFEST).read_bytes())
        if int(value["bundle_version"]) > BUNDLE_VERSION or int(value["schema_version"]) > SCHEMA_VERSION:
            raise RunStateError(
                "The bundle was made by a newer version.", next_step="Update nanodistill-mcp, then import it again."
            )
        manifest = _Manifest.model_validate(value)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _not_a_bundle("its manifest is not readable") from None
    found = {name: file for name, file in written.items() if name != MANIFEST}
    if found != manifest.files:
        raise _not_a_bundle("a file is missing, or is not the one its manifest names")
    return manifest


def _not_a_bundle(why: str) -> UserInputError:
    return UserInputError(
        f"That is not a bundle, or it was damaged on its way: {why}.",
        next_step="Get it again from where it was made with nanodistill-mcp bundle. Nothing was imported.",
    )


# What a run of another machine becomes here.


def _checked(paths: RunPaths) -> RunManifest:
    """The manifest of a run whose records can all be read."""
    run = Run(paths)
    try:
        seeds = run.seeds()
        if digest(seeds, run.inputs()) != run.manifest.spec.seeds_sha256:
            raise _not_a_bundle("its examples are not those its run was made of")
        calls = parse(paths.calls.read_bytes()) if paths.calls.exists() else parse(b"")
        if calls.damaged_lines or calls.torn_bytes:
            raise _not_a_bundle("a line of its journal is damaged")
        spend_of(calls.records)
        for path, kind in ((paths.traces_cot, Trace), (paths.rejected, Rejected)):
            for _ in read_records(path, cast("Any", kind)):
                pass
        effective_examples(run)
        for read in (run.policy, run.tags, run.budget):
            read()
        for path in (paths.training, paths.evaluation, paths.export, paths.comparison, paths.training_plan):
            read_object(path)
        for job in paths.job_list():
            read_record(job.exit, Exit)
            read_record(job.request, JobRequest)
    except (DamagedRunError, ValidationError, KeyError, TypeError, AttributeError, ValueError):
        raise _not_a_bundle("one of its records does not have the fields it should have") from None
    return run.manifest


def _manifest_here(settings: Settings, theirs: RunManifest, run_id: str, student: str, bundle_sha: str) -> RunManifest:
    """The run's manifest with this machine's endpoint: which keys a worker is given is never taken from a bundle."""
    spec = theirs.spec.model_copy(update={"student": student}) if student else theirs.spec
    if student:
        check_student(student, settings)
    try:
        own = settings.endpoint(spec.teacher).api_key_env
    except NanodistillError:  # an endpoint of the other machine's configuration
        own = ""
    keys = [own] if own else public_variables(theirs.key_variables)
    here = {"run_id": run_id, "spec": spec, "key_variables": keys, "teacher_host": "", "bundle_sha256": bundle_sha}
    parents = {name: value for name in ("cloned_from", "refined_from") if (value := getattr(theirs, name))}
    if not all(map(RUN_ID.match, parents.values())):
        raise _not_a_bundle("the run it was made of has no run's name")
    if student:
        here["student_revision"] = ""
    return theirs.model_copy(update=here)


def _make_ours(paths: RunPaths, manifest: _Manifest) -> None:
    """Leave out what speaks of another machine, and let each stage's file be as old among the others as it was."""
    if not paths.gguf.exists():
        paths.export.unlink(missing_ok=True)
    for path in (paths.training, paths.parent / "training.json"):
        if (trained := read_object(path)) is not None:
            write_json(path, {**trained, "student_path": None})
    for job in paths.job_list():
        _keep_what_is_data(job)
    began = time.time() - len(manifest.order) - 1
    for name, rank in manifest.order.items():
        if ALLOWED.match(name) and (paths.root / name).exists():
            moment = began + min(max(rank, 0), len(manifest.order))
            os.utime(paths.root / name, (moment, moment))


def _keep_what_is_data(job: JobPaths) -> None:
    """An error's text reaches an agent as our own words, so none comes from a bundle."""
    if ended := read_record(job.exit, Exit):
        write_json(job.exit, ended.model_copy(update={"what": "", "next_step": "", "error_kind": ""}).model_dump())
