"""A folder that NanoDistill made, taken over as a run: what was paid there is not paid again.

NanoDistill writes ``traces_cot.jsonl`` and ``traces_amplified.jsonl``, rows of {input, thinking, output, confidence}, and
keeps neither the policy nor what was asked. So the run begins where training does. Its outputs were never verified, and
its confidence is the teacher's own word: both stand as they are, and nothing is held out.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.inference import infer_checker
from nanodistill_mcp.pipeline.seeds import MAX_CHARS, MAX_ROWS, MIN_ROWS
from nanodistill_mcp.pipeline.tables import plain_text
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Example, Seed, TaskPolicy, Trace

SEEDS_FILE, EXAMPLES_FILE = "traces_cot.jsonl", "traces_amplified.jsonl"
MAX_EXAMPLES = 100_000
_MAX_BYTES = 500_000_000
_WANTED = f"Name the folder in which NanoDistill left {SEEDS_FILE} and {EXAMPLES_FILE}: a line each, with input, thinking and output."


@dataclass(frozen=True)
class Worked:
    """A row as NanoDistill wrote it."""

    input: str
    thinking: str
    output: str
    confidence: float


@dataclass(frozen=True)
class Adopted:
    """What such a folder holds, checked."""

    seeds: list[Seed]
    traces: list[Trace]
    examples: list[Example]
    policy: TaskPolicy
    left_out: dict[str, int]
    """Lines that were not taken, by why."""

    def write(self, paths: RunPaths) -> None:
        """Put it into a new run's folder; its last file last."""
        write_lines(paths.traces_cot, [trace.model_dump() for trace in self.traces])
        paths.policies.mkdir(mode=0o700)
        for path in (paths.policies / "policy.v1.json", paths.policy):
            write_json(path, self.policy.model_dump())
        write_lines(paths.rejected, [])
        write_lines(paths.traces_amplified, [example.model_dump() for example in self.examples])


def read_folder(folder: Path, instruction: str) -> Adopted:
    """Read a folder of NanoDistill's.

    Args:
        folder: Holds the two files.
        instruction: What the student is to do, which the folder does not say.

    Raises:
        UserInputError: One of the files is missing or holds no rows of that form.
    """
    left_out: dict[str, int] = {}
    given = _rows(folder / SEEDS_FILE, left_out)[:MAX_ROWS]
    made = _rows(folder / EXAMPLES_FILE, left_out)
    if len(given) < MIN_ROWS - 1:
        raise UserInputError(f"{SEEDS_FILE} holds {len(given)} usable rows.", next_step=_WANTED)
    if len(made) > MAX_EXAMPLES:
        raise UserInputError(f"{EXAMPLES_FILE} holds more than {MAX_EXAMPLES:,} rows.", next_step="Take a part of it.")
    seeds = [
        Seed(id=f"s{number:04d}", input=row.input, output=row.output, split="train")
        for number, row in enumerate(given, 1)
    ]
    by_input = {seed.input: seed.id for seed in seeds}
    traces = [
        Trace(
            **_texts(row),
            id=seed.id,
            teacher_output=row.output,
            agrees=True,
            confidence=row.confidence,
            split="train",
            call_ids=[],
        )
        for seed, row in zip(seeds, given, strict=True)
    ]
    examples = [
        Example(**_texts(row), id=seed.id, confidence=row.confidence, origin="seed", parents=[seed.id], call_ids=[])
        for seed, row in zip(seeds, given, strict=True)
    ]
    examples += [
        Example(
            **_texts(row),
            id=f"n{number:05d}",
            confidence=row.confidence,
            origin="synthetic",
            parents=[],
            call_ids=[],
            policy_version=1,
        )
        for number, row in enumerate((row for row in made if row.input not in by_input), 1)
    ]
    mean = fmean(example.confidence for example in examples)
    summary = f"{len(examples)} examples that NanoDistill made, with a confidence of {mean:.2f} in the mean."
    return Adopted(seeds, traces, examples, policy_of(instruction, examples, summary), left_out)


def _texts(row: Worked) -> dict[str, Any]:
    return {"input": row.input, "thinking": row.thinking, "output": row.output}


def policy_of(instruction: str, examples: list[Example], summary: str) -> TaskPolicy:
    """What can be said of the task without a teacher: the form of its answers, and the lengths."""
    checker, choices = infer_checker([example.output for example in examples])
    lengths: Callable[[list[str]], tuple[int, int]] = lambda texts: (min(map(len, texts)), max(map(len, texts)))  # noqa: E731
    return TaskPolicy(
        task_description=instruction,
        input_format="As in the examples.",
        output_format="As in the examples.",
        reasoning_style="As in the examples.",
        key_constraints=[],
        difficulty_level="not known",
        reasoning_patterns=[],
        examples_summary=summary,
        input_length_range=lengths([example.input for example in examples]),
        output_length_range=lengths([example.output for example in examples]),
        checker=checker,
        choices=choices,
        source="user",
    )


def _rows(path: Path, left_out: dict[str, int]) -> list[Worked]:
    """The usable rows of a file, each input once; a line that a death tore is left out, as any that is no such row."""
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() and size <= _MAX_BYTES else ""
    except OSError:
        text = ""
    if not text:
        raise UserInputError(f"There is no readable {path.name} in that folder.", next_step=_WANTED)
    found: dict[str, Worked] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        row = _row(line)
        if row is None or row.input in found:
            why = "no row of input, thinking and output" if row is None else "an input that was there before"
            left_out[why] = left_out.get(why, 0) + 1
            continue
        found[row.input] = row
    return list(found.values())


def _row(line: str) -> Worked | None:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    texts = [plain_text(fields.get(name)) for name in ("input", "thinking", "output")]
    confidence = fields.get("confidence", 1.0)
    if not texts[0] or not texts[2] or any(len(text) > MAX_CHARS for text in texts):
        return None
    is_share = isinstance(confidence, int | float) and 0 <= confidence <= 1
    return Worked(*texts, confidence=float(confidence) if is_share else 0.0)
