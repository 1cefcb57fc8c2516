"""One question put to the model, and its answer: whole, or piece by piece."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio

from nanodistill_mcp.serving.bodies import RefusedError
from nanodistill_mcp.serving.model import BusyError, Model, ModelEndedError, NotReadyError
from nanodistill_mcp.serving.parting import Parted, Parting
from nanodistill_mcp.student.questions import Ask, Begun, Ended, Refused, Wrote

__all__ = ["Answer", "Model", "Piece", "Question", "answer", "answers"]

_AGAIN_IN_S = "5"


@dataclass(frozen=True)
class Piece:
    """More of an answer; the last one has a finish."""

    thinking: str = ""
    answer: str = ""
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_first: bool = False
    """The model begins: what comes can no more be refused."""

    @property
    def says_something(self) -> bool:
        """Whether it is worth telling."""
        return self.is_first or bool(self.thinking or self.answer or self.finish)

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's count."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True)
class Answer(Piece):
    """A whole one."""


@dataclass(frozen=True)
class Question:
    """A conversation, and how its answer is read."""

    ask: Ask
    parted: Parted
    stops: Sequence[str] = ()

    @asynccontextmanager
    async def written(self, model: Model, *, as_it_comes: bool = True) -> AsyncGenerator[AsyncGenerator[Piece]]:
        """The answer's pieces, the last of which says how it ended.

        Raises:
            RefusedError: It cannot be asked, not now, or the model's process ended.
        """
        ask = self.ask.model_copy(update={"as_it_comes": as_it_comes or bool(self.stops)})
        try:
            async with model.asked(ask) as told, aclosing(self._pieces(told)) as pieces:
                yield pieces
        except NotReadyError:
            raise _later(503, "The model is still being loaded.", "model_loading") from None
        except BusyError:
            raise _later(429, "As many questions wait as may; ask again in a moment.", "queue_full") from None
        except ModelEndedError:
            raise RefusedError(500, "The model's process ended; it is started anew.", code="model_ended") from None

    async def _pieces(self, told: Any) -> AsyncGenerator[Piece]:
        parting, prompt_tokens, tokens = Parting(self.parted, stops=self.stops), 0, 0
        async for line in told:
            match line:
                case Refused():
                    raise _refused(line)
                case Begun():
                    parting.opening, prompt_tokens = line.opening, line.prompt_tokens
                    yield Piece(is_first=True)
                case Wrote():
                    tokens = line.tokens
                    yield Piece(*parting.more(line.text))
                    if parting.stopped:
                        yield Piece("", "", "stop", prompt_tokens, tokens)
                        return
                case Ended():
                    yield Piece(*parting.rest())
                    finish: Literal["stop", "length"] = "length" if line.finish == "length" else "stop"
                    yield Piece("", "", finish, prompt_tokens, line.tokens)
                    return
                case _:
                    pass
        raise ModelEndedError


async def answer(model: Model, question: Question) -> Answer:
    """A whole answer.

    Raises:
        RefusedError: It cannot be asked, not now, or the model's process ended.
    """
    thinking, said = "", ""
    async with question.written(model, as_it_comes=False) as pieces:
        async for piece in pieces:
            thinking += piece.thinking
            said += piece.answer
            if piece.finish:
                return Answer(thinking, said, piece.finish, piece.prompt_tokens, piece.completion_tokens)
    raise RefusedError(500, "The model's process ended; it is started anew.", code="model_ended")


async def answers(model: Model, questions: Sequence[Question]) -> list[Answer]:
    """Several, side by side as far as the model takes them.

    Raises:
        RefusedError: One of them cannot be asked, not now, or the model's process ended.
    """
    found: dict[int, Answer] = {}
    refused: list[RefusedError] = []

    async def one(index: int, question: Question) -> None:
        try:
            found[index] = await answer(model, question)
        except RefusedError as error:
            refused.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index, question in enumerate(questions):
            tasks.start_soon(one, index, question)
    if refused:
        raise refused[0]
    return [found[index] for index in range(len(questions))]


def _later(status: int, message: str, code: str) -> RefusedError:
    refused = RefusedError(status, message, code=code, kind="rate_limit_error" if status == 429 else "")  # noqa: PLR2004 - HTTP's own
    refused.headers["retry-after"] = _AGAIN_IN_S
    return refused


def _refused(line: Refused) -> RefusedError:
    match line.why:
        case "too_long":
            return RefusedError(
                400,
                f"The prompt has {line.prompt_tokens} tokens, which leaves no room for an answer.",
                param="messages",
                code="context_length_exceeded",
            )
        case "not_rendered":
            return RefusedError(
                400,
                "The model's chat template does not take this conversation; user and assistant are to alternate.",
                param="messages",
            )
