"""The run's own evaluation, answered by the GGUF file in llama.cpp, beside the same examples answered in MLX."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.asking import STUDENT, Question, ask_student
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.judging import right_ids
from nanodistill_mcp.pipeline.scoring import score
from nanodistill_mcp.pipeline.test_sets import Rows
from nanodistill_mcp.student.answer_requests import Generated
from nanodistill_mcp.student.gguf_quantizations import larger_than


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
    job: Job, asked: str, rows: Rows, questions: Mapping[str, Question], given: Mapping[str, Generated]
) -> Scored:
    """Score what the file answered, and what MLX did: as the evaluation found, else asked now.

    Args:
        job: The export.
        asked: Which set the rows are of.
        rows: What was asked.
        questions: How it was asked, by the row's id.
        given: What the file answered, by the question's key.
    """
    checking, form = checking_of(job.run), thinking.format_of(job.run.manifest)

    def parted(answers: Mapping[str, Generated]) -> dict[str, tuple[str, str]]:
        return {i: thinking.part(answers[question.key].text, form) for i, question in questions.items()}

    of_file, of_mlx = parted(given), parted((await ask_student(job, list(questions.values()), [STUDENT]))[STUDENT])
    right = await right_ids(job, checking, rows, {i: answer for i, (_, answer) in of_mlx.items()})
    here = await right_ids(job, checking, rows, {i: answer for i, (_, answer) in of_file.items()})
    same = sum(of_file[i] == of_mlx[i] for i, _, _ in rows)
    return Scored(asked, score(rows, here), score(rows, right), same, job.arguments["quantization"])
