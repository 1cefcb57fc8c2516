"""Ask the teacher, and never pay twice for the same question.

A question whose answer the journal holds is answered from there. Otherwise it is asked through the gate in the form that
Instructor gives it, once more with what was wrong when the answer cannot be read, and what comes back is an answer of the
asked type or a reason.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from weakref import WeakValueDictionary

from pydantic import BaseModel

from nanodistill_mcp.errors import BudgetError, ConfigurationError
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.questions import Questions
from nanodistill_mcp.runs.secrets import remember
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.batch import BatchLine
from nanodistill_mcp.teacher.batch_terms import BatchTerms
from nanodistill_mcp.teacher.budget import Budget
from nanodistill_mcp.teacher.calls import REASKS, CallLog, KnownCall, Reason, RowDeclined, call_id_of
from nanodistill_mcp.teacher.capabilities import Capabilities, Mode
from nanodistill_mcp.teacher.catalogue import look_up
from nanodistill_mcp.teacher.first_request import FirstRequest, first_request
from nanodistill_mcp.teacher.gate import Call, Gate, ModeRefusedError, NoAnswerError
from nanodistill_mcp.teacher.host import HostLine
from nanodistill_mcp.teacher.libraries import close_connections, instructor, litellm, prepared
from nanodistill_mcp.teacher.models import ModelFacts, model_facts
from nanodistill_mcp.teacher.prompts import Prompt, in_text, reworded
from nanodistill_mcp.teacher.reading import judge
from nanodistill_mcp.teacher.text_formats import form_of
from nanodistill_mcp.teacher.wording import worded

__all__ = ["Answer", "Reason", "RowDeclined", "Teacher"]

_ANSWER_ROOM_BYTES = 65_536
"""What the journal writes of one answer, at most but for the longest."""

A = TypeVar("A", bound=BaseModel)
_Forms = dict[tuple[Mode, type[BaseModel]], FirstRequest | None]


@dataclass(frozen=True)
class Answer(Generic[A]):
    """A teacher's answer."""

    value: A
    call_id: str
    cost_usd: float
    """What all attempts at this question cost, whether paid now or, when ``replayed``, before."""
    replayed: bool


@dataclass(frozen=True)
class _Line:
    """The way to the provider, opened with the first question that has to be paid for."""

    facts: ModelFacts
    gate: Gate
    batch: BatchLine | None
    complete: Callable[..., Awaitable[Any]]
    """Makes one completion, out of a batch or live."""
    forms: _Forms = field(default_factory=_Forms)

    async def ask(self, call: Call, prompt: Prompt, parameters: dict[str, Any], *, reasks: int) -> None:
        """Ask a question; where the answer cannot be read, have Instructor ask again with what is wrong with it."""
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        if call.mode == "text":
            await self.complete(call=call, messages=messages, **parameters)
            return
        answered: list[Any] = []
        if form := await self._form(call.mode, call.answer_type):
            answered = [await self.complete(call=call, **form.filled(prompt.system, prompt.user), **parameters)]
            if call.value is not None or not reasks:
                return
        call.reread = True

        async def complete(**request: Any) -> Any:
            return answered.pop() if answered else await self.complete(**request)

        library = instructor()
        client: Any = library.from_litellm(complete, mode=library.Mode[call.mode.upper()])
        shape, asked = prepared(call.answer_type), {"call": call, "messages": messages, **parameters}
        await client.chat.completions.create(response_model=shape, max_retries=reasks, strict=False, **asked)

    async def _form(self, mode: Mode, answer_type: type[BaseModel]) -> FirstRequest | None:
        """The first request for an answer; None when Instructor has to make every one."""
        key = (mode, answer_type)
        if key not in self.forms:
            self.forms[key] = await first_request(mode, answer_type)
        return self.forms[key]


class Teacher:
    """One teacher for one stage of a run. Use as an async context manager, in one event loop.

    Args:
        endpoint: Where the teacher is reached, and as what.
        journal: The run's journal of calls.
        budget: The run's caps.
        capabilities: What endpoints were found to refuse.
        stage: The stage's name, for the journal.
        concurrency: Requests in flight at most; it starts with fewer and finds what the provider takes.
        timeout_s: How long one request may take.
        before_call: Awaited before each request; waits while the job is paused, raises when it is cancelled.
        sampling: Parameters such as temperature, sent to models that take them.
        backoff_s: The first wait after a failure; doubles with every further one.
        host: Where the questions to the calling agent lie and the name of the job that asks, when the agent is the teacher.
        wordings: Prompts that replace the package's, by template.
        batch: How to hand questions in as batches; None asks each on its own.
    """

    def __init__(
        self,
        endpoint: TeacherEndpoint,
        *,
        journal: Journal,
        budget: Budget,
        capabilities: Capabilities,
        stage: str,
        concurrency: int = 32,
        timeout_s: float = 120,
        before_call: Callable[[], Awaitable[None]] | None = None,
        sampling: dict[str, Any] | None = None,
        backoff_s: float = 0.5,
        host: tuple[Questions, str] | None = None,
        wordings: Mapping[str, str] | None = None,
        batch: BatchTerms | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._budget = budget
        self._capabilities = capabilities
        self._stage = stage
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._before_call = before_call
        self._sampling = sampling or {}
        self._backoff_s = backoff_s
        self._wordings = wordings or {}
        self._batch = batch
        self._calls = CallLog(journal)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._first = asyncio.Lock()
        self._opening = asyncio.Lock()
        # A batch is only as fast as its questions come together, so a run that was answered before is proof enough.
        self._proved = batch is not None and any(record["kind"] == "answer" for record in journal.records)
        self._line: _Line | None = None
        self._host = (
            HostLine(*host, stage=stage, journal=journal, budget=budget, before_call=before_call) if host else None
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for what is in flight, because it is paid for, then close the connections. At most 15 s."""
        if self._line:
            if self._line.batch:
                await self._line.batch.aclose()
            await self._line.gate.drain()
            await close_connections()

    async def ask(self, prompt: Prompt, answer_type: type[A], *, sample: int = 0, max_tokens: int = 2048) -> Answer[A]:
        """Ask one question, or find its answer in the journal.

        Args:
            prompt: The question.
            answer_type: The shape of the answer.
            sample: Distinguishes repeated questions whose answers are wanted apart.
            max_tokens: Output tokens of one attempt at most, the model's unasked thinking aside.

        Raises:
            RowDeclined: The teacher gives no usable answer to this question; the stage can go on.
            BudgetError: The next call does not fit under a cap.
            TeacherError: The provider cannot go on.
            ConfigurationError: A key or the model's id is not accepted.
        """
        prompt, parameters, call_id = self._question(prompt, answer_type, sample, max_tokens)
        async with self._asking.setdefault(call_id, asyncio.Lock()):
            known = self._calls.known(call_id)
            if replayed := await self._replay(call_id, known, prompt, answer_type):
                return replayed
            if self._host:
                value = await self._host.ask(call_id, known, prompt, answer_type, max_tokens=max_tokens)
                return Answer(value, call_id, 0.0, replayed=False)
            async with self._first_alone():
                return await self._pay(call_id, known, prompt, answer_type, parameters)

    def has_answered(
        self, prompt: Prompt, answer_type: type[BaseModel], *, sample: int = 0, max_tokens: int = 2048
    ) -> bool:
        """Whether the journal holds an answer to this question that counts."""
        call_id = self._question(prompt, answer_type, sample, max_tokens)[2]
        return "valid" in self._calls.known(call_id).verdicts.values()

    def _question(
        self, prompt: Prompt, answer_type: type[BaseModel], sample: int, max_tokens: int
    ) -> tuple[Prompt, dict[str, Any], str]:
        """A question as it is sent, and the id its answers are known by."""
        prompt = worded(prompt, self._wordings)
        parameters = {**self._sampling, "max_tokens": max_tokens}
        if "seed" in parameters:
            parameters["seed"] += sample
        return prompt, parameters, call_id_of(self._endpoint.model, prompt, answer_type, parameters, sample)

    async def _replay(self, call_id: str, known: KnownCall, prompt: Prompt, answer_type: type[A]) -> Answer[A] | None:
        """The answer that was paid for, judged now when the worker died before it could be."""
        for attempt, record in known.answers.items():
            noted = known.verdicts.get(attempt)
            if noted not in (None, "valid"):
                continue
            asked = "" if noted else prompt.user  # what once counted as valid stays so
            verdict, value, why = judge(answer_type, record["text"], record["finish_reason"], asked)
            if noted is None:
                key = {"kind": "verdict", "call_id": call_id, "attempt": attempt, "at": now()}
                await self._journal.append_async({**key, "verdict": verdict, "why": why})
            if value is not None:
                return Answer(value, call_id, known.cost_usd, replayed=True)
        if reason := self._calls.known(call_id).declined():
            raise RowDeclined(reason, call_id, known.cost_usd)
        return None

    async def _pay(
        self, call_id: str, known: KnownCall, prompt: Prompt, answer_type: type[A], parameters: dict[str, Any]
    ) -> Answer[A]:
        line = await self._open_line()
        call = Call(
            call_id, prompt.template, prompt.sha, answer_type, "md_json", known.attempts, known.cost_usd, prompt.user
        )
        call.failed = known.failed()
        while True:
            call.mode = self._capabilities.mode(self._endpoint, line.facts)
            await self._exchange(line, call, prompt, parameters)
            if call.value is not None:
                return Answer(cast("A", call.value), call_id, call.cost_usd, replayed=False)
            if len(call.failed) <= REASKS:
                continue  # in the form and the words that fit what went wrong
            if not self._may_have_misunderstood(line.facts, call):
                raise RowDeclined(call.failed[-1], call_id, call.cost_usd)
            self._capabilities.give_up_mode(self._endpoint, call.mode)
            call.failed = []

    async def _exchange(self, line: _Line, call: Call, prompt: Prompt, parameters: dict[str, Any]) -> None:
        """Ask in one form, as often as is left. Ends with the call's value, or with one more failure in its list.

        Raises:
            RowDeclined: There is no answer to this question.
            NanodistillError: The stage cannot go on.
        """
        from instructor.core import InstructorError

        faults = len(call.failed)
        call.value, call.reread = None, False
        call.raised = cast("Exception | None", None)  # the gate sets it
        if call.failed and call.failed[-1] == "truncated":
            parameters = {**parameters, "max_tokens": self._more_room(line.facts, call, parameters["max_tokens"])}
        if call.mode == "text":
            prompt = in_text(prompt, form_of(call.answer_type))
        prompt = reworded(prompt, call.failed[-1] if call.failed else "")
        try:
            await line.ask(call, prompt, parameters, reasks=REASKS - len(call.failed))
        except (InstructorError, NoAnswerError, ModeRefusedError, BudgetError):
            if call.value is not None or isinstance(call.raised, ModeRefusedError | NoAnswerError):
                return  # Instructor takes no answer that was cut off, whole items or not
            if isinstance(call.raised, BudgetError) and call.failed == ["truncated"]:
                # An ordinary question may yet fit.
                raise RowDeclined("truncated", call.call_id, call.cost_usd) from None
            if call.raised:
                raise call.raised from None
            if len(call.failed) == faults:
                raise  # nothing was asked, so asking on would not end

    def _more_room(self, facts: ModelFacts, call: Call, max_tokens: int) -> int:
        """Twice the output tokens for an answer that was cut off, where the model can write so many."""
        before, after = (
            self._capabilities.output_limit(self._endpoint, facts, limit) for limit in (max_tokens, 2 * max_tokens)
        )
        if after == before:
            raise RowDeclined("truncated", call.call_id, call.cost_usd)
        return 2 * max_tokens

    def _may_have_misunderstood(self, facts: ModelFacts, call: Call) -> bool:
        """Whether an unknown endpoint took a form of asking without ever having kept to it."""
        unread = call.failed[-1] in ("invalid", "empty")
        if call.mode == "text" or not unread or (facts.mapped and call.mode != "md_json"):
            return False
        self._calls.known(call.call_id)  # takes in what was noted since
        return not self._calls.kept_to(facts.model, call.mode)

    @asynccontextmanager
    async def _first_alone(self) -> AsyncGenerator[None]:
        """Let the first paid question go alone: a bad key or a refused parameter is then met once, not sixteen times."""
        if not self._proved:
            async with self._first:
                if not self._proved:
                    try:
                        yield
                    except RowDeclined:
                        self._proved = True
                        raise
                    self._proved = True
                    return
        yield

    async def _open_line(self) -> _Line:
        async with self._opening:
            if self._line is None:
                self._line = await self._new_line()
                if self._line.batch:
                    self._line.batch.open()
            return self._line

    async def _new_line(self) -> _Line:
        self._journal.keep_room(self._concurrency * _ANSWER_ROOM_BYTES)
        for imported in (litellm, instructor):  # seconds
            await asyncio.to_thread(imported)
        facts = model_facts(self._endpoint, look_up(self._endpoint.model))
        credentials = _credentials(self._endpoint, facts)
        gate = Gate(
            self._endpoint,
            facts,
            journal=self._journal,
            budget=self._budget,
            capabilities=self._capabilities,
            stage=self._stage,
            concurrency=self._concurrency,
            timeout_s=self._timeout_s,
            backoff_s=self._backoff_s,
            before_call=self._before_call,
            credentials=credentials,
        )
        batch = self._batch and BatchLine(
            self._endpoint,
            facts,
            gate,
            journal=self._journal,
            budget=self._budget,
            capabilities=self._capabilities,
            stage=self._stage,
            terms=self._batch,
            before_call=self._before_call,
            credentials=credentials,
            backoff_s=self._backoff_s,
        )
        return _Line(facts, gate, batch, (batch or gate).complete)


def _credentials(endpoint: TeacherEndpoint, facts: ModelFacts) -> dict[str, str]:
    """The address and key to send with every request, where they are not the provider's own."""
    found: dict[str, str] = {}
    if endpoint.api_base and facts.provider.startswith("ollama"):
        os.environ["OLLAMA_API_BASE"] = endpoint.api_base  # given as a parameter, LiteLLM still asks localhost
    elif endpoint.api_base:
        # LiteLLM adds /v1 to an Anthropic address, and to no other.
        anthropic = facts.provider == "anthropic"
        found["api_base"] = endpoint.api_base.removesuffix("/v1") if anthropic else endpoint.api_base
    if endpoint.api_key_env:
        key = os.environ.get(endpoint.api_key_env, "")
        if not key:
            raise ConfigurationError(
                f"The key for the teacher is not set: the variable {endpoint.api_key_env} is empty.",
                next_step="Set it under `env` of this server's entry in the client's configuration (clients do not pass the "
                "shell's environment), restart the client and call the same stage again.",
            )
        remember(key)
        found["api_key"] = key
    elif endpoint.api_base:
        found["api_key"] = "none"  # else the key of the provider whose format is spoken would go to this address
    return found
