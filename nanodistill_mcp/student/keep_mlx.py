"""A student that stays loaded in MLX and answers several questions side by side, each as far as it is."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
from jinja2 import TemplateError
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import apply_top_p

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.student import blas, models, room
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.generate import ALONE
from nanodistill_mcp.student.plain import MARK, opened, special_texts, without
from nanodistill_mcp.student.questions import Ask, Begun, Ended, KeepLoaded, Loaded, Refused, Told, Wrote

_TELL_EVERY_S = 0.04
"""Text is told this often at most: each telling decodes the answer anew, as only whole answers read rightly."""


_SEEDS = 1 << 63
"""MLX knows no negative ones."""


@dataclass
class _Answer:
    """An answer as far as it is written."""

    ask: Ask
    tokens: list[int] = field(default_factory=list[int])
    told: int = 0
    """Characters of its text that were told."""
    told_at: float = 0.0


class MlxEngine:
    """A student, and the questions it is answering."""

    def __init__(self, request: KeepLoaded) -> None:
        """Load the student.

        Raises:
            UserInputError: It is not usable.
            MachineError: The machine cannot spare the memory.
            TrainingError: Not enough memory.
        """
        folder = models.resolve(request.student)
        self._model, tokenizer = models.load(folder, request.adapter_dir, lazy=True)
        self._context = min(request.context_tokens, StudentFolder(folder).max_position_embeddings or 1 << 30)
        if getattr(self._model, "model_type", "") in ALONE:
            request = request.model_copy(update={"parallel": 1})
        parallel = room.questions_at_once(room.of_mlx(self._model, self._context), request, self._context)
        with models.memory_errors():
            mx.eval(self._model.parameters())
        self._chat = ChatForm(tokenizer)
        self._plain = without(special_texts(folder))
        stops = [[token] for token in sorted(self._chat.stop_ids)]
        self._generator = BatchGenerator(self._model, stop_tokens=stops, completion_batch_size=parallel)
        self._answers: dict[int, _Answer] = {}
        self._uids: dict[int, int] = {}
        thinks = tokenizer.think_start == "<think>"
        self.loaded = Loaded(context_tokens=self._context, parallel=parallel, device=blas.words(), thinks=thinks)

    @property
    def is_busy(self) -> bool:
        return bool(self._answers)

    def begin(self, ask: Ask) -> list[Told]:
        messages = [{**message, "content": self._plain(message["content"])} for message in ask.messages]
        try:
            text = self._chat.prompt_text(messages)
            tokens = self._chat.prompt_ids(messages)
        except (TemplateError, UserInputError):
            return [Refused(id=ask.id, why="not_rendered")]
        left = self._context - len(tokens)
        if left < 1:
            return [Refused(id=ask.id, why="too_long", prompt_tokens=len(tokens))]
        sampler = sampler_of(ask) if ask.temperature > 0 else None
        (uid,) = self._generator.insert(
            [tokens], max_tokens=[min(ask.max_tokens, left)], samplers=[sampler] if sampler else None
        )
        self._answers[uid] = _Answer(ask)
        self._uids[ask.id] = uid
        return [Begun(id=ask.id, prompt_tokens=len(tokens), opening=opened(text))]

    def drop(self, ask_id: int) -> list[Told]:
        uid = self._uids.get(ask_id)
        if uid is None:
            return []
        self._generator.remove([uid])
        return self._end(uid, "dropped")

    def step(self) -> list[Told]:
        told: list[Told] = []
        if not self._answers:
            return told
        for response in self._generator.next()[1]:
            answer = self._answers[response.uid]
            match response.finish_reason:
                case "stop":
                    told += self._end(response.uid, "stop")
                case "length":
                    answer.tokens.append(int(response.token))
                    told += self._end(response.uid, "length")
                case _:
                    answer.tokens.append(int(response.token))
                    told += self._more(answer)
        if not self._answers:
            mx.clear_cache()
        return told

    def _more(self, answer: _Answer) -> list[Told]:
        now = time.monotonic()
        if not answer.ask.as_it_comes or now - answer.told_at < _TELL_EVERY_S:
            return []
        answer.told_at = now
        return self._text(answer, self._chat.text(answer.tokens).rstrip(MARK))

    def _end(self, uid: int, finish: Literal["stop", "length", "dropped"]) -> list[Told]:
        answer = self._answers.pop(uid)
        del self._uids[answer.ask.id]
        told = self._text(answer, self._chat.text(answer.tokens)) if finish != "dropped" else []
        return [*told, Ended(id=answer.ask.id, tokens=len(answer.tokens), finish=finish)]

    def _text(self, answer: _Answer, text: str) -> list[Told]:
        more, answer.told = text[answer.told :], max(answer.told, len(text))
        return [Wrote(id=answer.ask.id, text=more, tokens=len(answer.tokens))] if more else []


def sampler_of(ask: Ask) -> Callable[[mx.array], mx.array]:
    """Draws with a state of the question's own, so that the same seed draws the same whoever is answered beside it."""
    state = [mx.random.key((time.time_ns() if ask.seed is None else ask.seed) % _SEEDS)]

    def sample(logprobs: mx.array) -> mx.array:
        if ask.top_p < 1:
            logprobs = apply_top_p(logprobs, ask.top_p)
        state[0], drawn = mx.random.split(state[0])
        return mx.random.categorical(logprobs / ask.temperature, key=drawn)

    return sample
