"""Hold a GGUF file against the fused model it was written from, and that against what was trained.

Compared are token ids, prompts and next-token distributions.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import jinja2
import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_adapters, load_model

from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.llama_cpp import LlamaCpp
from nanodistill_mcp.student.requests import Message

TRICKY_TEXTS = (
    "Hello, world!",
    "hello",
    " leading space",
    "trailing space ",
    "two  spaces   three    four",
    "\ttab\tand\ttab",
    "line\nbreak\n\nparagraph\n\n\n",
    "windows\r\nline",
    "I'll, we've, it's, they'D, don't",
    "CamelCaseAnd_snake_case-and-kebab",
    "3.14159 and 1,234,567 and 007",
    "2026-11-20T17:00:00Z",
    "price: $12.50 (20% off!)",
    "user@example.com https://example.com/a?b=c&d=1#e",
    '{"label": "billing", "score": 0.97, "tags": ["a", "b"]}',
    "def f(x):\n    return x ** 2  # square\n",
    "<thinking>\nFirst, read.\n</thinking>\nanswer",
    "<think>\nhm\n</think>",
    "a < b && c > d || !e; x <<= 1",
    "Grüße aus Köln – “zitiert” …",
    "naïve café déjà vu",
    "Привет, мир!",
    "中文分词测试。",
    "日本語のテキスト、カタカナ",
    "한국어 문장입니다.",
    "مرحبا بالعالم",
    "emoji 😀 👩\u200d👩\u200d👧 🇩🇪 ❤️",
    "math ∑ ∞ ≠ ½ x²",
    "\u00a0no-break\u2003em space\u200bzero width",
    "हिन्दी परीक्षण",
    "a\u0301 decomposed e\u0308",
    "ภาษาไทย",
)
_CONVERSATIONS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "What is 2 + 3?"}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "What is 2 + 3?"}],
    [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "And times four?\n"},
    ],
)
ANSWER_TOKENS_COMPARED = 6
_TOKENS_COMPARED = 4096
_TIE_NATS = 0.05
_NOTHING = 1e-12
_MEMORY_SHARE = 0.4


@dataclass
class TextParity:
    """Which texts and conversations become the same token ids in both."""

    checked: int = 0
    equal: int = 0
    unequal_plain: list[str] = field(default_factory=list[str])
    """Texts that differ although nothing in them is beyond llama.cpp."""
    unequal_marked: list[str] = field(default_factory=list[str])
    """Texts that differ and hold combining marks or are not in normal form, which llama.cpp does not treat."""
    prompts_equal: bool = True

    def compare(self, text: str, ours: list[int], theirs: list[int]) -> bool:
        """Count one comparison; True unless it shows a fault of the conversion."""
        self.checked += 1
        if ours == theirs:
            self.equal += 1
            return True
        beyond_llama_cpp = unicodedata.normalize("NFC", text) != text or any(
            unicodedata.category(character).startswith("M") for character in text
        )
        (self.unequal_marked if beyond_llama_cpp else self.unequal_plain).append(text)
        return beyond_llama_cpp


def compare_texts(llama: LlamaCpp, chat: ChatForm, prompts: list[list[Message]]) -> TextParity:
    """Put texts and conversations into tokens with both, as they are in use: inside the student's chat template.

    A bare text may differ without consequence: some tokenizers treat the very start of a text in their own way.
    """
    parity = TextParity()
    contents = [message["content"] for messages in prompts for message in messages]
    for text in (*TRICKY_TEXTS, *dict.fromkeys(contents)):
        asked: list[Message] = [{"role": "user", "content": text}]
        parity.compare(text, chat.prompt_ids(asked), llama.prompt_ids(asked))
    for messages in (*_renderable(chat), *prompts):
        text = "".join(message["content"] for message in messages)
        if not parity.compare(text, chat.prompt_ids(messages), llama.prompt_ids(messages)):
            parity.prompts_equal = False
    return parity


def _renderable(chat: ChatForm) -> Iterator[list[Message]]:
    """Conversations the student's template accepts: some want the roles in turn."""
    for messages in _CONVERSATIONS:
        try:
            chat.prompt_ids(messages)
        except jinja2.TemplateError:
            continue
        yield messages


@dataclass(frozen=True)
class LogitParity:
    """How alike the next-token distributions are."""

    positions: int
    top1_agreement: float | None
    """Share of positions with the same likeliest token. A lead of less than 0.05 nats counts as a tie."""
    mean_kl: float | None
    """KL(fused ‖ GGUF) in nats, all but GGUF's likeliest 4096 tokens counted as one: never more than the whole KL."""


@dataclass(frozen=True)
class FusingParity:
    """What fusing did to the student, beside what training had done to its base."""

    mean_kl: float
    """KL(adapter ‖ fused) in nats."""
    top1_agreement: float
    trained_kl: float
    """KL(adapter ‖ base) in nats: what there was to lose."""


@dataclass(frozen=True)
class Case:
    """A conversation with the first tokens of its answer, and the positions after which distributions are compared."""

    ids: list[int]
    positions: list[int]


class Reference:
    """A model as the judge, in float32 where memory allows, so that its own rounding is not held against the other."""

    def __init__(self, model: nn.Module) -> None:
        """Take a loaded model over."""
        weights = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
        parameters = sum(int(weight.size) for _, weight in weights)
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if parameters * 4 < memory_bytes * _MEMORY_SHARE:
            model.update(tree_map(_in_float32, model.parameters()))
        model.eval()
        self._model = model

    def log_probabilities(self, case: Case) -> npt.NDArray[np.float32]:
        """Distributions over the token after each position: (positions, vocabulary)."""
        logits = self._model(mx.array(case.ids)[None])[0, mx.array(case.positions)].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def _in_float32(weight: mx.array) -> mx.array:
    return weight.astype(mx.float32) if mx.issubdtype(weight.dtype, mx.floating) else weight


def answered(llama: LlamaCpp, prompts: list[list[int]]) -> list[Case]:
    """Prompts with the first tokens of llama.cpp's own answers; compared within each, at its end and along the answer."""
    cases: list[Case] = []
    for prompt in prompts:
        ids = [*prompt, *llama.complete(prompt, ANSWER_TOKENS_COMPARED).tokens]
        cases.append(Case(ids, sorted({len(prompt) // 2, *range(len(prompt) - 1, len(ids))})))
    return cases


def compare_logits(llama: LlamaCpp, reference: Reference, cases: list[Case]) -> LogitParity:
    """Compare a GGUF file's distributions with those of the fused model."""
    divergences: list[float] = []
    agreements: list[bool] = []
    for case in cases:
        for position, ours in zip(case.positions, reference.log_probabilities(case), strict=True):
            tokens, theirs = llama.likeliest(case.ids[: position + 1], _TOKENS_COMPARED)
            divergences.append(_divergence(ours[tokens].astype(np.float64), theirs))
            agreements.append(bool(ours.max() - ours[tokens[0]] < _TIE_NATS))
    if not divergences:
        return LogitParity(0, None, None)
    return LogitParity(len(divergences), float(np.mean(agreements)), max(0.0, float(np.mean(divergences))))


def distributions(reference: Reference, cases: list[Case]) -> npt.NDArray[np.float32]:
    """A model's distributions at every position of the cases, one below the other."""
    return np.concatenate([reference.log_probabilities(case) for case in cases])


def compare_fusing(fused: npt.NDArray[np.float32], student: Path, adapter_dir: Path, cases: list[Case]) -> FusingParity:
    """Hold the fused model's distributions against those of the student with its adapter, and of the base alone.

    Only one of the two is in memory at a time.
    """
    adapted = distributions(Reference(load_adapters(load_model(student, lazy=True)[0], str(adapter_dir))), cases)
    base = distributions(Reference(load_model(student, lazy=True)[0]), cases)
    choices = fused.argmax(axis=-1)[:, None]
    lead = adapted.max(axis=-1) - np.take_along_axis(adapted, choices, axis=-1)[:, 0]
    return FusingParity(
        mean_kl=_whole_divergence(adapted, fused),
        top1_agreement=float((lead < _TIE_NATS).mean()),
        trained_kl=_whole_divergence(adapted, base),
    )


def _whole_divergence(of: npt.NDArray[np.float32], against: npt.NDArray[np.float32]) -> float:
    return max(0.0, float(np.mean(np.sum(np.exp(of) * (of - against), axis=-1))))


def _divergence(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """KL in nats over the tokens given, and the rest of both distributions as one more."""
    rest = [max(_NOTHING, 1.0 - float(np.exp(logarithms).sum())) for logarithms in (ours, theirs)]
    return float(np.sum(np.exp(ours) * (ours - theirs))) + rest[0] * float(np.log(rest[0] / rest[1]))
