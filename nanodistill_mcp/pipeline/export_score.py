"""The run's own evaluation, answered by the GGUF file in llama.cpp, beside the same examples answered in MLX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.evaluate import Rows, right_ids, score
from nanodistill_mcp.pipeline.status import is_outdated
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.store import read_records
from nanodistill_mcp.student.gguf_quantizations import larger_than
from nanodistill_mcp.student.requests import Done, Generated, GenerateRequest, Variant

Parts = dict[str, tuple[str, str]]
"""Thinking and answer by the row's id."""


@dataclass(frozen=True)
class Scored:
    """What the file answers rightly, and what the student did before it was made smaller."""

    asked: str
    """Which set: held_out or synthetic."""
    gguf: dict[str, Any]
    mlx: dict[str, Any]
    same_texts: int
    """Rows to which both wrote the same, thinking and answer."""
    quantization: str

    @property
    def lost(self) -> bool:
        """Is the file's share below what chance explains?"""
        return self.gguf["accuracy"] < self.mlx["interval_95"][0]

    @property
    def larger(self) -> str:
        """The next larger quantization, when this one lost too much; else empty."""
        return larger_than(self.quantization) if self.lost else ""

    def verdict(self) -> str:
        """The two scores in words."""
        low, high = self.mlx["interval_95"]
        told = (
            f"The file answers {self.gguf['correct']} of {self.gguf['rows']} rightly, MLX {self.mlx['correct']} "
            f"({low:.0%}-{high:.0%}), {self.same_texts} in the very same words"
        )
        if not self.lost:
            return f"{told}: no loss can be shown."
        further = f"; {self.larger} is the next larger size" if self.larger else ""
        return f"{told}: {self.quantization} loses more than chance explains{further}."

    def record(self) -> dict[str, Any]:
        """As export.json holds it: the file's score, MLX's beside it."""
        further = {"mlx": self.mlx, "same_texts": self.same_texts, "lost": self.lost, "verdict": self.verdict()}
        return {"set": self.asked, **self.gguf, **further}


async def score_beside_mlx(
    job: Job, asked: str, rows: Rows, given: Parts, prompts_path: Path, max_tokens: int
) -> Scored:
    """Score what the file answered, and what MLX did: as the evaluation found, else asked now."""
    checking = checking_of(job.run)
    found = _evaluated(job, rows)
    if found is None:
        mine = await _asked_in_mlx(job, len(rows), prompts_path, max_tokens)
        right = await right_ids(job, checking, rows, {i: answer for i, (_, answer) in mine.items()})
    else:
        mine, right = found
    here = await right_ids(job, checking, rows, {i: answer for i, (_, answer) in given.items()})
    same = sum(given.get(i) == mine.get(i) for i, _, _ in rows)
    return Scored(asked, score(rows, here), score(rows, right), same, job.arguments["quantization"])


def _evaluated(job: Job, rows: Rows) -> tuple[Parts, set[str]] | None:
    """What evaluate wrote of these rows; None when it has not run on this student, or not on all of them."""
    run = job.run
    if not run.paths.evaluation.exists() or is_outdated(run, "evaluate"):
        return None
    wanted = {(i, text) for i, text, _ in rows}
    found = {row["id"]: row["student"] for row in read_lines(run.paths.answers) if (row["id"], row["input"]) in wanted}
    if len(found) < len(rows):
        return None
    parts = {i: (said["thinking"], said["answer"]) for i, said in found.items()}
    return parts, {i for i, said in found.items() if said["correct"]}


async def _asked_in_mlx(job: Job, rows: int, prompts_path: Path, max_tokens: int) -> Parts:
    run = job.run
    output_path = job.paths.root / "mlx.jsonl"
    job.progress(0, rows, "answering in MLX, to compare")
    await job.run_student(
        GenerateRequest(
            student=job.arguments["student"],
            variants=[Variant(name="student", adapter_dir=run.paths.adapters)],
            prompts_path=prompts_path,
            output_path=output_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "generate.json",
            max_tokens=max_tokens,
        ),
        Done,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "rows" else None,
    )
    form = thinking.format_of(run.manifest)
    return {row.id: thinking.part(row.text, form) for row in read_records(output_path, Generated)}
