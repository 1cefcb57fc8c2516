"""A run's files as artifacts: a fixed set of names, opened below the run's folder without following a link."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.policy_versions import versions_of
from nanodistill_mcp.runs.files import open_beneath
from nanodistill_mcp.runs.store import Run, saying_what_is_damaged
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.server.replies import Artifact, PageReply
from nanodistill_mcp.server.views import COMPARE_RUNS, EXAMPLES, LINEAGE, view

SCHEME = "nanodistill://runs"
MAX_TEXT_BYTES = 1_000_000
MAX_PAGE_CHARS = 40_000
DEFAULT_LINES = 50
DEFAULT_CHARS = 8_000

FILES = (
    *(
        "run.json",
        "seeds.jsonl",
        "inputs.jsonl",
        "set_aside.jsonl",
        "imported.json",
        "calls.jsonl",
        "traces_cot.jsonl",
        "policy.json",
        "traces_amplified.jsonl",
        "rejected.jsonl",
        "revisions.jsonl",
    ),
    *("dataset/train.jsonl", "dataset/valid.jsonl", "dataset/test.jsonl", "dataset/manifest.json"),
    *("training_plan.json", "training.json"),
    *(
        "evaluation.json",
        "answers.jsonl",
        "comparison.json",
        "report.md",
        "loss.png",
        "scorecard.png",
        "export.json",
        "Modelfile",
        "model.gguf",
    ),
)
_OF_NEWEST_JOB = ("metrics.jsonl", "events.jsonl", "log.txt")
_BINARY = (".gguf", ".safetensors", ".png", ".gz")


def mime_type(name: str) -> str:
    """The media type of an artifact."""
    match Path(name).suffix:
        case ".json":
            return "application/json"
        case ".jsonl":
            return "application/jsonl"
        case ".md":
            return "text/markdown"
        case ".png":
            return "image/png"
        case ".gz":
            return "application/gzip"
        case ".gguf" | ".safetensors":
            return "application/octet-stream"
        case _:
            return "text/plain"


def uri_of(run_id: str, name: str) -> str:
    """An artifact's resource address."""
    return f"{SCHEME}/{run_id}/{name}"


def artifact_list(run: Run) -> list[Artifact]:
    """What the run has written so far, in the order of its stages."""
    return [Artifact(name=name, uri=uri_of(run.run_id, name), bytes=size) for name, size in _present(run)]


def _present(run: Run) -> Iterator[tuple[str, int]]:
    for name in (*FILES, *_own_files(run)):
        try:
            yield name, os.stat(run.paths.root / name, follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    for name in _OF_NEWEST_JOB:
        if relative := _in_newest_job(run, name):
            yield name, os.stat(run.paths.root / relative, follow_symlinks=False).st_size


def _own_files(run: Run) -> list[str]:
    """What a run's own facts name: its policies, its prompts and its model's files."""
    return [*_policies(run), *(f"prompts/{template}.md" for template in run.manifest.prompts), *_model_files(run)]


def _policies(run: Run) -> list[str]:
    return [f"policies/policy.v{number}.json" for number in versions_of(run)]


def _model_files(run: Run) -> list[str]:
    found: list[str] = []
    forms = sorted(run.paths.exports.iterdir()) if run.paths.exports.is_dir() else []
    for folder in (run.paths.model, run.paths.adapters, *forms):
        if folder.is_dir():
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
            shown = (name for name in names if not name.startswith(".") and clean(name) == name)  # some come from a hub
            found += [str((folder / name).relative_to(run.paths.root)) for name in shown]
    return found


def _in_newest_job(run: Run, name: str) -> str | None:
    for job in reversed(run.paths.job_list()):
        if (job.root / name).is_file():
            return f"jobs/{job.root.name}/{name}"
    return None


def open_artifact(run: Run, name: str) -> int:
    """Open an artifact for reading.

    Raises:
        UserInputError: There is no such artifact; names those there are.
    """
    relative = _in_newest_job(run, name) if name in _OF_NEWEST_JOB else name
    if relative and (name in _OF_NEWEST_JOB or name in FILES or name in _own_files(run)):
        try:
            return open_beneath(run.paths.root, relative)
        except FileNotFoundError:
            pass  # named below, with what there is
    names = ", ".join(present for present, _ in _present(run))
    raise UserInputError(
        f"Run {run.run_id!r} has no artifact {name[:80]!r}.",
        next_step=f"Artifacts: {names}. Made when read: {EXAMPLES}, {LINEAGE}<row id>, "
        f"{COMPARE_RUNS}<other run id>, policies/compare/1..2, board.json.",
    )


def _stream(run: Run, name: str) -> IO[bytes]:
    with saying_what_is_damaged(run.run_id):
        made = view(run, name)
    return os.fdopen(open_artifact(run, name), "rb") if made is None else io.BytesIO(made)


def read_whole(run: Run, name: str) -> str | bytes:
    """An artifact's whole content, for a resource.

    Raises:
        UserInputError: It is too large to be sent; says where it lies.
    """
    with _stream(run, name) as stream:
        data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        how = (
            f"It lies at {run.paths.root / name}."
            if name.endswith(_BINARY)
            else f"Call read_artifact(run_id={run.run_id!r}, artifact={name!r}) for pages of it."
        )
        raise UserInputError(f"{name} is larger than {MAX_TEXT_BYTES // 1000} kB.", next_step=how)
    return data if name.endswith(_BINARY) else data.decode("utf-8", "replace")


def read_page(run: Run, name: str, offset: int, limit: int) -> PageReply:
    """A page of a text artifact: lines of .jsonl and .txt, characters of the others. A limit of 0 is a sensible page.

    Raises:
        UserInputError: It is not there, or not text.
    """
    if name.endswith(_BINARY):
        os.close(open_artifact(run, name))
        raise UserInputError(f"{name} is not text.", next_step=f"It lies at {run.paths.root / name}.")
    with _stream(run, name) as stream:
        if name.endswith((".jsonl", ".txt")):
            return _lines(run.run_id, name, stream, offset, limit or DEFAULT_LINES)
        text = stream.read().decode("utf-8", "replace")
    part = text[offset : offset + min(limit or DEFAULT_CHARS, MAX_PAGE_CHARS)]
    return _page(run.run_id, name, "characters", offset, len(part), len(text), part)


def _lines(run_id: str, name: str, stream: Iterator[bytes], offset: int, limit: int) -> PageReply:
    kept: list[str] = []
    chars, total, full = 0, 0, False
    for total, line in enumerate(stream, 1):
        if total <= offset or full or len(kept) >= limit:
            continue
        text = line.decode("utf-8", "replace")
        chars += len(text)
        full = chars > MAX_PAGE_CHARS and bool(kept)
        if not full:
            kept.append(text[:MAX_PAGE_CHARS])
    return _page(run_id, name, "lines", offset, len(kept), total, "".join(kept))


def _page(run_id: str, name: str, unit: str, offset: int, count: int, total: int, text: str) -> PageReply:
    end = offset + count
    return PageReply(
        run_id=run_id,
        artifact=name,
        unit=unit,
        offset=offset,
        count=count,
        total=total,
        text=clean(text),
        next_offset=end if end < total else -1,
    )
