"""What a bundle holds of a run, and how what says something of this machine is taken out.

The user's data and the teacher's answers go in byte for byte, or the paid answers would no longer fit their questions. Our own
records go in without the folders, endpoints and keys of the machine they were written on.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.runs.files import json_bytes, open_plain, read_lines, read_object
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Exit, JobRequest
from nanodistill_mcp.runs.secrets import PATTERN as KEY_PATTERN
from nanodistill_mcp.runs.store import Run, read_record

DATA = (
    *(
        "seeds.jsonl",
        "inputs.jsonl",
        "set_aside.jsonl",
        "calls.jsonl",
        "traces_cot.jsonl",
        "policy.json",
        "traces_amplified.jsonl",
    ),
    *("rejected.jsonl", "revisions.jsonl", "test_rows.jsonl", "answers.jsonl", "comparison.json"),
    *("dataset/train.jsonl", "dataset/valid.jsonl", "dataset/test.jsonl"),
    *("parent/examples.jsonl", "parent/answers.jsonl", "parent/folds.json", "parent/focus.json"),
)
"""Taken byte for byte."""

RECORDS = (
    *(
        "run.json",
        "imported.json",
        "budget.json",
        "tags.json",
        "dataset/manifest.json",
        "training_plan.json",
        "training.json",
    ),
    *("evaluation.json", "export.json", "report.md", "Modelfile", "model/adapters/adapter_config.json"),
    *("model/README.md", "parent/training.json", "parent/evaluation.json", "parent/adapters/adapter_config.json"),
)
"""Our own, taken without what they say of this machine."""

ADAPTERS = ("model/adapters/adapters.safetensors", "parent/adapters/adapters.safetensors")
WEIGHTS = (*ADAPTERS, "model.gguf")

ALLOWED = re.compile(
    "|".join(
        (
            *map(re.escape, (*DATA, *RECORDS, *WEIGHTS, "README.md", "bundle.json")),
            r"policies/policy\.v[0-9]{1,6}\.json",
            r"prompts/[a-z_]{1,40}\.md",
            r"[a-z_]{1,40}\.png",
            r"jobs/[0-9]{3,6}-[a-z_]{1,40}/(?:exit\.json|request\.json|metrics\.jsonl)",
        )
    )
    + r"\Z"
)
"""Every name a bundle may hold."""

_ARGUMENTS = ("feedback", "policy", "target_size", "mode", "options", "quantization", "also", "prompts", "models")
_PATH_FIELDS = frozenset(("student", "student_path", "local_teacher", "test_path", "inputs_path", "model"))
_SECRET = re.compile(KEY_PATTERN.encode())
_NAMES_A_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL")
_PUBLIC_VARIABLE = re.compile(
    r"(?:ANTHROPIC|OPENAI|GEMINI|GOOGLE|MISTRAL|XAI|DEEPSEEK|GROQ|OPENROUTER|TOGETHERAI|COHERE)_API_KEY\Z"
)
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Part:
    """One file of a bundle: its bytes, or where they lie."""

    name: str
    data: bytes | None = None
    path: Path | None = None


def parts_of(run: Run, *, with_gguf: bool, instead: dict[str, dict[str, Any]]) -> list[Part]:
    """Every file of a bundle but its manifest, by name.

    Args:
        run: The run.
        with_gguf: Whether the GGUF file goes along.
        instead: Records that are not on disk yet.
    """
    paths, places = run.paths, _Places(run)
    parts = [Part(name, path=paths.root / name) for name in _data_names(paths)]
    for name in RECORDS:
        if name.endswith(".json"):
            record = instead.get(name) or read_object(paths.root / name)
            if record is not None:
                parts.append(Part(name, json_bytes(_own(name, places.taken_out(record)), indent=1) + b"\n"))
        elif (text := _text(paths.root / name)) is not None:
            parts.append(Part(name, places.in_text(text).encode()))
    parts += _job_parts(run, places)
    weights = [*ADAPTERS, *(["model.gguf"] if with_gguf else [])]
    parts += [Part(name, path=path) for name in weights if (path := paths.root / name).exists()]
    return sorted(parts, key=lambda part: part.name)


def _data_names(paths: RunPaths) -> Iterator[str]:
    yield from (name for name in DATA if (paths.root / name).exists())
    for folder, pattern in (("policies", "policy.v*.json"), ("prompts", "*.md"), (".", "*.png")):
        found = sorted((paths.root / folder).glob(pattern))
        yield from (name for path in found if ALLOWED.match(name := path.relative_to(paths.root).as_posix()))


def _text(path: Path) -> str | None:
    try:
        with open_plain(path) as stream:
            return stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return None


def _own(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record without what holds only where it was written."""
    match name:
        case "run.json":
            return {**record, "teacher_host": "", "key_variables": public_variables(record["key_variables"])}
        case "training.json" | "parent/training.json":
            return {**record, "student_path": None}
        case "export.json":
            return {**record, "forms": {}}
        case _:
            return record


def _job_parts(run: Run, places: "_Places") -> Iterator[Part]:
    """Of each stage's newest job that was done: what it was asked, what it found, and the losses of a training."""
    newest = {job.stage: (job, ended) for job in run.paths.job_list() if (ended := read_record(job.exit, Exit)) and ended.outcome == "done"}  # fmt: skip
    for job, ended in newest.values():
        folder = f"jobs/{job.root.name}"
        yield Part(f"{folder}/exit.json", json_bytes(places.taken_out(ended.model_dump()), indent=1) + b"\n")
        if request := read_record(job.request, JobRequest):
            arguments = {name: value for name, value in request.arguments.items() if name in _ARGUMENTS}
            told = request.model_copy(update={"arguments": arguments, "nonce": ""}).model_dump()
            yield Part(f"{folder}/request.json", json_bytes(places.taken_out(told), indent=1) + b"\n")
        if job.stage == "train" and job.metrics.exists():
            lines = (json_bytes(places.taken_out(line)) + b"\n" for line in read_lines(job.metrics, appended=True))
            yield Part(f"{folder}/metrics.jsonl", b"".join(lines))


class _Places:
    """The folders of this machine that a run's records name, and what stands for each."""

    def __init__(self, run: Run) -> None:
        spec, trained = run.manifest.spec, states.stage_result(run, "train") or {}
        named = [spec.student, *(spec.options.get(name) for name in ("local_teacher", "test_path", "inputs_path"))]
        named += [trained.get("student_path"), trained.get("student")]
        known = {path: _last(path) for path in named if isinstance(path, str) and _is_path(path)}
        known |= {str(path): "." for path in (run.paths.root, run.paths.root.resolve())}
        known |= dict.fromkeys(own_folders(run), "~")
        self._known = sorted(known.items(), key=lambda pair: -len(pair[0]))

    def in_text(self, text: str) -> str:
        """A text with what stands for each folder."""
        for path, instead in self._known:
            text = text.replace(path, instead)
        return text

    def taken_out(self, value: Any, name: str = "") -> Any:
        """A record with what stands for each folder, and the last part alone of what is a path."""
        if isinstance(value, dict):
            return {key: self.taken_out(held, key) for key, held in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self.taken_out(held) for held in cast("list[Any]", value)]
        if not isinstance(value, str):
            return value
        return _last(value) if name in _PATH_FIELDS and _is_path(value) else self.in_text(value)


def own_folders(run: Run) -> list[str]:
    """The folders that say whose machine this is: the user's, and the one the runs lie in."""
    home, data = Path.home(), run.paths.root.parents[1]
    return sorted({str(path) for folder in (home, data) for path in (folder, folder.resolve()) if len(path.parts) > 1})


def public_variables(names: list[str]) -> list[str]:
    """Those of the variables that providers' own documentation names: they say nothing of who uses them."""
    return [name for name in names if _PUBLIC_VARIABLE.match(name)]


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~"))


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


class Secrets:
    """What must not leave this machine, looked for in every byte that does."""

    def __init__(self, run: Run, *, as_is: bool) -> None:
        held = {value for name, value in os.environ.items() if _NAMES_A_SECRET.search(name.upper())}
        held |= {os.environ.get(name, "") for name in run.manifest.key_variables}
        self._held = [value.encode() for value in held if len(value) >= _SHORTEST_SECRET]
        self._folders = [folder.encode() for folder in own_folders(run)]
        self._as_is = as_is

    def check(self, name: str, line: bytes, number: int) -> None:
        """Look through a line.

        Raises:
            UserInputError: It holds a key of this machine; or, unless the user looked already, what may be one, or its folders.
        """
        if any(value in line for value in self._held):
            raise UserInputError(
                f"Line {number} of {name} holds the value of a key of this machine.",
                next_step="No bundle is made with it. Change that key, then create the run again without it in the examples.",
            )
        if self._as_is:
            return
        looks = "what looks like a key or a password" if _SECRET.search(line) else ""
        folder = "a folder of this machine" if any(folder in line for folder in self._folders) else ""
        if found := looks or folder:
            raise UserInputError(
                f"Line {number} of {name} holds {found}, and it is data that cannot be changed without changing what was paid for.",
                next_step="Look at that line. If it may leave this machine: nanodistill-mcp bundle RUN --as-is.",
            )
