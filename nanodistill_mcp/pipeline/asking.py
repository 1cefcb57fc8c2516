"""What a student and its base answer, kept by what was asked: no question is asked twice, whatever happened in between."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.dataset import Message
from nanodistill_mcp.runs.files import read_object, write_lines
from nanodistill_mcp.runs.store import read_records
from nanodistill_mcp.student.answer_requests import Done, Generated, GenerateRequest, Variant

BASE, STUDENT = "base", "student"


@dataclass(frozen=True)
class Question:
    """A conversation that ends with the user's message."""

    messages: Sequence[Message]
    max_tokens: int
    opening: str = ""
    """How the answer begins, where that is not left to the model."""

    @property
    def key(self) -> str:
        """The same for equal questions, in this run and in any other."""
        begun = [self.opening] if self.opening else []
        asked = json.dumps([list(self.messages), self.max_tokens, *begun], ensure_ascii=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]

    def row(self) -> dict[str, Any]:
        """As it is handed to a student's process."""
        return {"id": self.key, "messages": list(self.messages), "max_tokens": self.max_tokens, "opening": self.opening}


Given = dict[str, dict[str, Generated]]
"""Answers by model, then by the question's key."""


async def ask_student(job: Job, questions: Sequence[Question], models: Sequence[str] = (BASE, STUDENT)) -> Given:
    """Have base and student answer; only what they have not answered yet is asked. Rows are kept as they come."""
    run, student = job.run, str(job.arguments["student"])
    adapter = str((read_object(run.paths.training) or {}).get("adapter_sha256", ""))
    known_as = {BASE: BASE, STUDENT: f"adapter-{adapter[:16]}"}
    run.paths.answered.mkdir(mode=0o700, exist_ok=True)
    kept_path = run.paths.answered / f"{hashlib.sha256(student.encode()).hexdigest()[:16]}.jsonl"
    by_key = {question.key: question for question in questions}
    answered = {(row.variant, row.id) for row in read_records(kept_path, Generated, appended=True)}
    total = len(by_key) * len(models)
    left = [key for key in by_key if any((known_as[model], key) not in answered for model in models)]
    job.progress(total - sum((known_as[m], key) not in answered for m in models for key in left), total, "answering")
    if left:
        prompts_path = job.paths.root / "prompts.jsonl"
        write_lines(
            prompts_path,
            [by_key[key].row() for key in by_key],
        )
        variants = [
            Variant(name=known_as[model], adapter_dir=run.paths.adapters if model == STUDENT else None)
            for model in models
        ]
        await job.run_student(
            GenerateRequest(
                student=student,
                variants=variants,
                prompts_path=prompts_path,
                output_path=kept_path,
                metrics_path=job.paths.metrics,
                result_path=job.paths.root / "generate.json",
                max_tokens=max(question.max_tokens for question in questions),
            ),
            Done,
            on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "rows" else None,
        )
    given: Given = defaultdict(dict)
    names = {known: model for model, known in known_as.items()}
    for row in read_records(kept_path, Generated, appended=True):
        if row.id in by_key and row.variant in names:
            given[names[row.variant]][row.id] = row
    return given
