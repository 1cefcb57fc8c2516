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
from nanodistill_mcp.student.prefixes import Prefixes
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
        needed = room.of_mlx(self._model, self._context)
        parallel = room.questions_at_once(needed, request, self._context)
        with models.memory_errors():
            mx.eval(self._model.parameters())
        self._chat = ChatForm(tokenizer)
        self._plain = without(special_texts(folder))
        stops = [[token] for token in sorted(self._chat.stop_ids)]
        self.prefixes = Prefixes(self._chat, request, self._plain(request.instruction), needed.most_kept_bytes)
        self._to_keep: dict[int, int] = {}
        """Tokens of a prompt whose state is kept once they are read."""
        self._generator = BatchGenerator(self._model, stop_tokens=stops, completion_batch_size=parallel)
        self._answers: dict[int, _Answer] = {}
        self._uids: dict[int, int] = {}
        self.loaded = Loaded(context_tokens=self._context, parallel=parallel, device=blas.words())

    @property
    def is_busy(self) -> bool:
        return bool(self._answers)

    def begin(self, ask: Ask) -> list[Told]:
        messages = [{**message, "content": self._plain(message["content"])} for message in ask.messages]
        try:
            text = self._chat.prompt_text(messages)
            tokens = self._chat.ids(text)
        except (TemplateError, UserInputError):
            return [Refused(id=ask.id, why="not_rendered")]
        left = self._context - len(tokens)
        if left < 1:
            return [Refused(id=ask.id, why="too_long", prompt_tokens=len(tokens))]
        sampler = sampler_of(ask) if ask.temperature > 0 else None
        cache, known = self.prefixes.found(tokens)
        keep = self.prefixes.to_keep(tokens)
        (uid,) = self._generator.insert_segments(
            [[tokens[known:keep], tokens[max(known, keep) :]]],
            max_tokens=[min(ask.max_tokens, left)],
            caches=[cache],
            all_tokens=[tokens[:known]],
            samplers=[sampler] if sampler else None,
        )
        if known < keep:
            self._to_keep[uid] = keep
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
        read, written = self._generator.next()
        self._keep([response.uid for response in read if response.end_of_segment and response.uid in self._to_keep])
        for response in written:
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

    def _keep(self, uids: list[int]) -> None:
        """Keep the state of these prompts' beginnings, of which the last token was just read."""
        for uid, (cache, tokens) in self._generator.extract_cache(uids).items():
            if len(tokens) == self._to_keep.pop(uid):
                self.prefixes.keep(list(tokens), cache)

    def _more(self, answer: _Answer) -> list[Told]:
        now = time.monotonic()
        if not answer.ask.as_it_comes or now - answer.told_at < _TELL_EVERY_S:
            return []
        answer.told_at = now
        return self._text(answer, self._chat.text(answer.tokens).rstrip(MARK))

    def _end(self, uid: int, finish: Literal["stop", "length", "dropped"]) -> list[Told]:
        answer = self._answers.pop(uid)
        self._to_keep.pop(uid, None)
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
