"""What a student, its base and its file answer, kept by what was asked: no question is asked twice, whatever happened in between."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.dataset import Message
from nanodistill_mcp.runs.files import read_object, write_lines
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.student.answer_requests import AskGgufRequest, Done, Generated, GenerateRequest, Variant

BASE, STUDENT = "base", "student"

LLAMA_CPP_SILENT_S = 1800.0
"""Longer than one answer takes on any machine that is of use; llama.cpp tells of each answer it finished."""


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
    kept_path = _kept(run, student)
    by_key = {question.key: question for question in questions}
    answered = {(row.variant, row.id) for row in read_records(kept_path, Generated, appended=True)}
    total = len(by_key) * len(models)
    left = [key for key in by_key if any((known_as[model], key) not in answered for model in models)]
    job.progress(total - sum((known_as[m], key) not in answered for m in models for key in left), total, "answering")
    if left:
        prompts_path = job.paths.root / "prompts.jsonl"
        write_lines(prompts_path, [question.row() for question in by_key.values()])
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


async def ask_file(job: Job, questions: Sequence[Question]) -> dict[str, Generated]:
    """Have the run's GGUF file answer in llama.cpp; its answers by the question's key."""
    run = job.run
    sha256 = (read_object(run.paths.export) or {}).get("gguf_sha256")
    kept_path = kept_of_file(run, str(sha256 or run.paths.gguf.stat().st_mtime_ns))
    by_key = {question.key: question for question in questions}
    if by_key.keys() - {row.id for row in read_records(kept_path, Generated, appended=True)}:
        prompts_path = job.paths.root / "prompts-gguf.jsonl"
        write_lines(prompts_path, [question.row() for question in by_key.values()])
        request = AskGgufRequest(
            gguf_path=run.paths.gguf,
            prompts_path=prompts_path,
            output_path=kept_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "ask.json",
            max_tokens=max(question.max_tokens for question in questions),
        )
        await job.run_student(request, Done, silent_s=LLAMA_CPP_SILENT_S, died=llama_cpp_died)
    return {row.id: row for row in read_records(kept_path, Generated, appended=True)}


def kept_of_file(run: Run, sha256: str) -> Path:
    """Where the answers of a GGUF file are kept, by what is in it: also of one that is still being checked."""
    return _kept(run, sha256, "gguf-")


def _kept(run: Run, whose: str, prefix: str = "") -> Path:
    run.paths.answered.mkdir(mode=0o700, exist_ok=True)
    return run.paths.answered / f"{prefix}{hashlib.sha256(whose.encode()).hexdigest()[:16]}.jsonl"


def llama_cpp_died(how: str) -> ExportError:
    """The error for a process that ended while llama.cpp was at work in it."""
    return ExportError(
        f"llama.cpp, while it worked with the GGUF file, {how}",
        next_step="The fused model in the run's folder model is whole and runs in mlx_lm and LM Studio. Call export_gguf "
        "again, or with another quantization; the end of log.txt says more.",
    )
