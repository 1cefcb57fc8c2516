"""The calling agent as the teacher: its questions lie in the run's folder until it answers them over the tools.

A question waits here for as long as the agent takes. What it answered is judged and put in the journal as a paid answer
is, at no cost, and only then leaves the folder. Nothing of a provider's libraries is loaded.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.runs.files import json_bytes
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.questions import Given, Question, Questions
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.settings import HOST_TEACHER
from nanodistill_mcp.teacher import answers
from nanodistill_mcp.teacher.budget import Budget, estimated_tokens, size_of
from nanodistill_mcp.teacher.calls import REASKS, KnownCall, RowDeclined
from nanodistill_mcp.teacher.language import in_another_script
from nanodistill_mcp.teacher.prompts import Prompt, reworded
from nanodistill_mcp.teacher.reading import judge

ASKED_AT_ONCE = 64
PATIENCE_S = 3600.0
"""How long a stage waits for the next answer. A Mac is kept awake meanwhile, and calling the stage again goes on."""

MAX_ANSWER_BYTES = 200_000

_LOOK_S = 0.3

_A = TypeVar("_A", bound=BaseModel)


class HostLine:
    """The way to the calling agent, for one stage.

    Args:
        questions: The run's folder of questions.
        job: The job that asks.
        stage: The stage's name, for the journal.
        journal: The run's journal of calls.
        budget: The run's caps; those on calls and tokens hold here too.
        before_call: Awaited before a question is put out and while it waits; waits while the job is paused.
        patience_s: How long nothing may come before the stage ends.
    """

    def __init__(
        self,
        questions: Questions,
        job: str,
        *,
        stage: str,
        journal: Journal,
        budget: Budget,
        before_call: Callable[[], Awaitable[None]] | None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._questions = questions
        self._job = job
        self._stage = stage
        self._journal = journal
        self._budget = budget
        self._before_call = before_call
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._heard_at = time.monotonic()
        self._looked_at = 0.0
        self._answered: set[str] = set()

    async def ask(
        self, call_id: str, known: KnownCall, prompt: Prompt, answer_type: type[_A], *, max_tokens: int
    ) -> _A:
        """Put a question to the agent and wait for its answer.

        Raises:
            RowDeclined: The agent gives no answer to this question, asked once more in other words.
            BudgetError: A cap on calls or tokens is reached.
            TeacherError: No answer to any question came for long.
        """
        attempt, failed = known.attempts, known.failed()
        async with self._slots:
            while len(failed) <= REASKS:
                await self._checkpoint()
                question = _question(call_id, reworded(prompt, failed[-1] if failed else ""), answer_type)
                attempt += 1
                given = await self._answer_to(question, max_tokens)
                key = {"call_id": call_id, "attempt": attempt}
                text = given.declined or json_bytes(given.answer).decode()
                ending = "refusal" if given.declined else "stop"
                await self._keep(key, question, prompt.sha, text, ending)
                verdict, value, why = judge(answer_type, text, ending, prompt.user)
                await self._note("verdict", key, verdict=verdict, why=why)
                self._questions.close(call_id)
                if value is not None:
                    return value
                failed.append("invalid" if verdict == "valid" else verdict)
        raise RowDeclined(failed[-1], call_id, 0.0)

    async def _answer_to(self, question: Question, max_tokens: int) -> Given:
        worst = self._budget.worst_case(size_of(question.system + question.user), max_tokens)
        await self._budget.reserve(worst)
        tokens = 0
        try:
            self._questions.ask(question, self._job)
            while question.id not in self._look() or (given := self._questions.given(question.id)) is None:
                if time.monotonic() - self._heard_at > self._patience_s:
                    raise _nobody_answers(self._patience_s)
                await asyncio.sleep(_LOOK_S)
                await self._checkpoint()
            self._heard_at = time.monotonic()
            said = given.declined or json_bytes(given.answer).decode()
            tokens = estimated_tokens(question.system + question.user) + estimated_tokens(said)
            return given
        finally:
            self._budget.settle(worst, 0.0, tokens)

    def _look(self) -> set[str]:
        """The answered questions: one look at the folder serves all that wait."""
        if time.monotonic() - self._looked_at >= _LOOK_S / 2:
            self._answered, self._looked_at = self._questions.answered(), time.monotonic()
        return self._answered

    async def _checkpoint(self) -> None:
        if self._before_call is None:
            return
        began = time.monotonic()
        await self._before_call()
        if time.monotonic() - began > _LOOK_S:  # it was paused: nobody could answer
            self._heard_at = time.monotonic()

    async def _keep(
        self, key: dict[str, str | int], question: Question, prompt_sha: str, text: str, ending: str
    ) -> None:
        """Put an answer in the journal. Its intent comes with it: a question that waits is in no doubt, it was not paid."""
        intent = {"stage": self._stage, "model": HOST_TEACHER, "form": HOST_TEACHER}
        asked = {"template": question.template, "prompt_sha": prompt_sha}
        tokens_in, tokens_out = estimated_tokens(question.system + question.user), estimated_tokens(text)
        await self._note("intent", key, **intent, **asked, max_usd=0.0, max_tokens=tokens_in + tokens_out)
        await self._note(
            "answer",
            key,
            text=text,
            finish_reason=ending,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cached_tokens=0,
            cost_usd=0.0,
            elapsed_s=0.0,
        )

    async def _note(self, kind: str, key: dict[str, str | int], **fields: object) -> None:
        await self._journal.append_async({"kind": kind, **key, "at": now(), **fields})


def why_not(question: Question, answer: dict[str, object]) -> str:
    """What is wrong with an agent's answer, in our own words: fields and rules, never its text. Empty when it is accepted."""
    text = json_bytes(answer)
    if len(text) > MAX_ANSWER_BYTES:
        return f"longer than {MAX_ANSWER_BYTES} bytes"
    try:
        value = _shape_named(question.answer_shape).model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[:5]
        told = [(".".join(map(str, each["loc"])) or "answer", _rule(each["type"], each["msg"])) for each in found]
        return "; ".join(f"{where}: {rule}" for where, rule in told)
    return "in another language than the task" if in_another_script(value, question.user) else ""


def _question(call_id: str, prompt: Prompt, answer_type: type[BaseModel]) -> Question:
    return Question(
        id=call_id,
        template=prompt.template,
        answer_shape=answer_type.__name__,
        answer_schema=answer_type.model_json_schema(),
        system=prompt.system,
        user=prompt.user,
        asked_at=now(),
    )


def _rule(kind: str, words: str) -> str:
    """Pydantic's words for its own rules; those of a rule of ours might repeat what was given."""
    if kind == "json_invalid":
        return "it holds half a character (a lone surrogate)"
    return "not accepted" if kind in ("value_error", "assertion_error") else words[:1].lower() + words[1:]


@cache
def _shape_named(name: str) -> type[BaseModel]:
    return {
        kind.__name__: kind for kind in vars(answers).values() if isinstance(kind, type) and issubclass(kind, BaseModel)
    }[name]


def _nobody_answers(patience_s: float) -> TeacherError:
    return TeacherError(
        f"No answer came for {patience_s / 60:.0f} minutes, so the stage stopped waiting.",
        next_step="Everything answered is kept. Call the stage again when you are ready to answer with next_teacher_tasks.",
    )
