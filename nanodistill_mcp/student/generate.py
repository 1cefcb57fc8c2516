"""Answers prompts with a student and its adapters: greedily, in batches, and going on where an earlier process died."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.tuner.utils import load_adapters

from nanodistill_mcp.runs.files import append_line, drop_torn_line, read_lines
from nanodistill_mcp.student import models
from nanodistill_mcp.student.answer_requests import Done, Generated, GenerateRequest, Variant
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.requests import Message


@dataclass(frozen=True)
class _Prompt:
    id: str
    tokens: list[int]
    max_tokens: int
    opening: str


@dataclass(frozen=True)
class _Asked:
    id: str
    messages: Sequence[Message]
    max_tokens: int
    opening: str


@dataclass(frozen=True)
class _Answer:
    tokens: list[int]
    ended: bool
    """The student stopped by itself."""


def generate(request: GenerateRequest) -> Done:
    """Answer every prompt with every variant that has not answered it yet, appending each batch's rows when it is done.

    The base is loaded once: it answers first, then the adapter is put on it. A prompt that leaves no room in the student's
    context is answered with nothing, as ``length``. SIGTERM ends the process at once; the rows written so far stay.

    Raises:
        UserInputError: The student or an adapter is not usable.
        TrainingError: Not enough memory.
    """
    student_path = models.resolve(request.student)
    prompts = [
        _Asked(str(line["id"]), line["messages"], line.get("max_tokens") or request.max_tokens, line.get("opening", ""))
        for line in read_lines(request.prompts_path)
    ]
    drop_torn_line(request.output_path)
    answered = {(row["variant"], row["id"]) for row in read_lines(request.output_path, appended=True)}
    total = len(prompts) * len(request.variants)
    done = sum((variant.name, prompt.id) in answered for variant in request.variants for prompt in prompts)
    progress = _Progress(request, done, total)
    with models.memory_errors():
        loaded: _Loaded | None = None
        for variant in sorted(request.variants, key=lambda variant: variant.adapter_dir is not None):
            left = [prompt for prompt in prompts if (variant.name, prompt.id) not in answered]
            if not left:
                continue
            loaded = _with_adapter(loaded, student_path, variant.adapter_dir)
            _answer_all(loaded, variant, left, request, progress)
    return Done(rows=total)


class _Progress:
    """Rows answered, told as events."""

    def __init__(self, request: GenerateRequest, done: int, total: int) -> None:
        self._metrics_path, self._done, self._total = request.metrics_path, done, total
        self.add(0)

    def add(self, rows: int, *, too_long: int = 0) -> None:
        self._done += rows
        event = {"event": "rows", "done": self._done, "total": self._total}
        append_line(self._metrics_path, {**event, "too_long": too_long} if too_long else event)


ALONE = ("gemma2", "phi3small")
"""MLX-LM lays a batch's masks over these families' heads: an error, or wrong answers where the batch is as long."""


@dataclass(frozen=True)
class _Loaded:
    model: nn.Module
    chat: ChatForm
    context: int
    adapter_dir: Path | None


def _with_adapter(loaded: _Loaded | None, student_path: Path, adapter_dir: Path | None) -> _Loaded:
    """The student with this adapter, made from what is loaded where that is possible."""
    if loaded is not None and loaded.adapter_dir == adapter_dir:
        return loaded
    if loaded is None or loaded.adapter_dir is not None:  # an adapter cannot be taken off again
        model, tokenizer = models.load(student_path, adapter_dir)
        context = StudentFolder(student_path).max_position_embeddings or 1 << 30
        return _Loaded(model, ChatForm(tokenizer), context, adapter_dir)
    with models.loading_errors():
        load_adapters(loaded.model, str(adapter_dir))
    loaded.model.eval()
    return _Loaded(loaded.model, loaded.chat, loaded.context, adapter_dir)


def _answer_all(
    loaded: _Loaded,
    variant: Variant,
    asked: Sequence[_Asked],
    request: GenerateRequest,
    progress: _Progress,
) -> None:
    prompts = [
        _Prompt(each.id, loaded.chat.prompt_ids(each.messages, each.opening), each.max_tokens, each.opening)
        for each in asked
    ]
    too_long = [prompt for prompt in prompts if len(prompt.tokens) >= loaded.context]
    for prompt in too_long:
        append_line(request.output_path, _row(loaded.chat, variant, prompt, _Answer([], ended=False), 0.0))
    if too_long:
        progress.add(len(too_long), too_long=len(too_long))
    # Prompts of one length make a batch without padding, and those with little to write do not wait for the others.
    fitting = sorted(
        (prompt for prompt in prompts if len(prompt.tokens) < loaded.context),
        key=lambda prompt: (prompt.max_tokens, len(prompt.tokens)),
    )
    size = 1 if getattr(loaded.model, "model_type", "") in ALONE else request.batch_size
    for first in range(0, len(fitting), size):
        batch = fitting[first : first + size]
        began = time.monotonic()
        answers = _answer_batch(loaded, batch)
        share_s = (time.monotonic() - began) / len(batch)
        for prompt, answer in zip(batch, answers, strict=True):
            append_line(request.output_path, _row(loaded.chat, variant, prompt, answer, share_s))
        progress.add(len(batch))
        mx.clear_cache()


def _answer_batch(loaded: _Loaded, batch: Sequence[_Prompt]) -> list[_Answer]:
    generator = BatchGenerator(
        loaded.model, stop_tokens=[[token] for token in sorted(loaded.chat.stop_ids)], completion_batch_size=len(batch)
    )
    try:
        room = [min(prompt.max_tokens, loaded.context - len(prompt.tokens)) for prompt in batch]
        uids = generator.insert([prompt.tokens for prompt in batch], max_tokens=room)
        written: dict[int, list[int]] = {uid: [] for uid in uids}
        ended: set[int] = set()
        while responses := generator.next_generated():
            for response in responses:
                if response.finish_reason == "stop":
                    ended.add(response.uid)
                else:
                    written[response.uid].append(int(response.token))
    finally:
        generator.close()
    return [_Answer(written[uid], uid in ended) for uid in uids]


def _row(chat: ChatForm, variant: Variant, prompt: _Prompt, answer: _Answer, elapsed_s: float) -> dict[str, Any]:
    row = Generated(
        id=prompt.id,
        variant=variant.name,
        text=prompt.opening + chat.text(answer.tokens),
        prompt_tokens=len(prompt.tokens),
        completion_tokens=len(answer.tokens),
        elapsed_s=round(elapsed_s, 6),
        finish_reason="stop" if answer.ended else "length",
    )
    return row.model_dump()
