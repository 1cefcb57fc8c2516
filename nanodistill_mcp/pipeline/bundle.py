"""A run as one file: everything needed to look at it, to go on with it elsewhere and to make it again without paying again."""

import fcntl
import gzip
import hashlib
import io
import os
import platform
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.bundle_contents import Part, Secrets, parts_of
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir, full_fsync, json_bytes, open_plain, sha256_of
from nanodistill_mcp.runs.records import PIPELINE
from nanodistill_mcp.runs.store import Run

BUNDLE_VERSION = 1
MANIFEST = "bundle.json"

_PACKAGES = (
    *("mlx", "mlx-lm", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "xllamacpp"),
    *("litellm", "instructor", "openai", "pydantic", "mcp"),
)
_LEVEL = 6
_BINARY = (".safetensors", ".gguf", ".png")


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written."""

    path: Path
    bytes: int
    sha256: str
    files: int


def write_bundle(
    run: Run,
    target: Path,
    *,
    with_gguf: bool = False,
    as_is: bool = False,
    instead: dict[str, dict[str, Any]] | None = None,
) -> Bundled:
    """Write a run into one ``.tar.gz``. The same run gives the same bytes; the file has its name only when it is whole.

    Args:
        run: The run; no job of it may be changing it.
        target: The file.
        with_gguf: Whether the GGUF file goes along.
        as_is: The user looked at what may be secret in the data and agrees.
        instead: Records that are not on disk yet, by name.

    Raises:
        UserInputError: The data hold what should not leave this machine; names file and line.
        RunStateError: The same bundle is being written.
    """
    parts = parts_of(run, with_gguf=with_gguf, instead=instead or {})
    secrets = Secrets(run, as_is=as_is)
    parts.insert(0, Part("README.md", _readme(run).encode()))
    with (
        _whole_or_absent(target) as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        files = {part.name: _add(tar, run.run_id, part, secrets) for part in parts}
        manifest = json_bytes(_manifest(run, files, with_gguf=with_gguf), indent=1) + b"\n"
        _add(tar, run.run_id, Part(MANIFEST, manifest), secrets)
    return Bundled(target, target.stat().st_size, sha256_of(target), len(files))


def _add(tar: tarfile.TarFile, top: str, part: Part, secrets: Secrets) -> dict[str, Any]:
    """Put a file in; its length and hash, of the very bytes that went in."""
    stream: IO[bytes] = open_plain(part.path) if part.path else io.BytesIO(part.data or b"")
    with stream:
        info = tarfile.TarInfo(f"{top}/{part.name}")
        info.size, info.mode = stream.seek(0, os.SEEK_END), 0o600
        stream.seek(0)
        watched = _Watched(stream, part.name, info.size, secrets)
        tar.addfile(info, watched)
        return {"bytes": info.size, "sha256": watched.digest.hexdigest()}


class _Watched(io.RawIOBase):
    """A stream that is hashed, and looked through line by line, as it is read."""

    def __init__(self, stream: IO[bytes], name: str, size: int, secrets: Secrets) -> None:
        self._stream, self._name, self._left, self._secrets = stream, name, size, secrets
        self._number, self._line = 1, bytearray()
        self._is_text = not name.endswith(_BINARY)
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._stream.read(size)
        self.digest.update(data)
        self._left -= len(data)
        if self._is_text:
            first, *others = data.split(b"\n")
            self._line += first
            for other in others:
                self._look()
                self._line += other
            if not self._left:
                self._look()
        return data

    def _look(self) -> None:
        self._secrets.check(self._name, bytes(self._line), self._number)
        self._line.clear()
        self._number += 1


@contextmanager
def _whole_or_absent(target: Path) -> Generator[IO[bytes]]:
    """A file beside the place, put there when it is complete and on disk. What a killed writer left is written over."""
    partial = target.with_name(f".{target.name}.partial")
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as raw:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunStateError("This bundle is being written already.", next_step="Wait for it.") from None
        raw.truncate(0)
        try:
            yield raw
            raw.flush()
            full_fsync(fd)
            fault("bundle.rename")
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    fsync_dir(target.parent)


def _manifest(run: Run, files: dict[str, dict[str, Any]], *, with_gguf: bool) -> dict[str, Any]:
    written = [name for name in files if name.endswith(".json") and (run.paths.root / name).exists()]
    written += [name for name in ("traces_cot.jsonl", "traces_amplified.jsonl") if name in files]
    return {
        "bundle_version": BUNDLE_VERSION,
        "run_id": run.run_id,
        "schema_version": run.manifest.schema_version,
        "package_version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
        "with_gguf": with_gguf and "model.gguf" in files,
        "order": _order(run, written),
        "make_again": make_again(run),
        "files": files,
    }


def _order(run: Run, names: list[str]) -> dict[str, int]:
    """How old the files are among each other: what a stage made is outdated when what it builds on is younger."""
    times = {name: (run.paths.root / name).stat().st_mtime_ns for name in names}
    ranks = {time: rank for rank, time in enumerate(sorted(set(times.values())))}
    return {name: ranks[time] for name, time in times.items()}


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def make_again(run: Run) -> list[str]:
    """The calls that make the run again, stage by stage; paid answers come from its journal."""
    calls = [f"nanodistill-mcp import {run.run_id}.tar.gz --name again"]
    for stage in PIPELINE:
        if states.stage_status(run, stage).state is states.State.DONE:
            options = (states.last_arguments(run, stage) or {}).get("options") if stage == "train" else None
            quantization = (
                (states.stage_result(run, stage) or {}).get("quantization") if stage == "export_gguf" else None
            )
            given = [f"options={options!r}"] if options else [f"quantization={quantization!r}"] if quantization else []
            calls.append(f"{stage}({', '.join(['run_id=' + repr('again'), *given, 'restart=True'])})")
    return calls


def _readme(run: Run) -> str:
    spec, calls = run.manifest.spec, "\n".join(f"    {call}" for call in make_again(run))
    return f"""\
# {run.run_id}

A run of nanodistill-mcp {run.manifest.package_version}, created {run.manifest.created_at[:10]}: what was asked for (run.json), the user's
examples (seeds.jsonl), every answer of the teacher (calls.jsonl), what was made of them, and the trained adapter where there is one.
bundle.json has the SHA-256 of each file and the versions of the packages.

The student is {Path(spec.student).name if spec.student.startswith(("/", "~")) else spec.student}, the teacher {run.manifest.teacher_model}.
To look at it or go on with it, and to make every stage of it again without paying for an answer that is here:

{calls}

A student that is a folder and no hub id is named with --student. Import what comes from people you trust: an agent will read it.
"""


def check_idle_for(run: Run) -> None:
    """Refuse to bundle a run that a job is changing.

    Raises:
        RunStateError: Names the job.
    """
    if living := next((found for found in states.pipeline_status(run) if found.state.active), None):
        raise RunStateError(
            f"{living.stage} of this run is {living.state}.",
            next_step="Wait for it, or cancel it, then bundle the run.",
        )


def check_target(target: Path) -> None:
    """Refuse to write over a file.

    Raises:
        UserInputError: There is one, or no folder to put it in.
    """
    if target.exists() or target.is_symlink():
        raise UserInputError("There is a file of that name already.", next_step="Give another with --to.")
    if not target.parent.is_dir():
        raise UserInputError(
            "The folder for the bundle does not exist.", next_step="Make it, or give another with --to."
        )
