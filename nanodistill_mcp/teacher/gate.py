"""The one door to a provider: every HTTP request goes through it, those that Instructor makes to ask again too.

In this order: a slot, the worker's own checks, a reservation under the budget, an intent on disk, the request, the answer on
disk, the settlement. Only then is the answer read. A request that left is followed to its end even when its caller is
cancelled, because it is paid for.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.budget import Budget, Reservation, Size, estimated_tokens, size_of
from nanodistill_mcp.teacher.calls import RowDeclined
from nanodistill_mcp.teacher.capabilities import Capabilities, Mode
from nanodistill_mcp.teacher.direct import DirectLine, Reply, reply_of, takes_direct_line
from nanodistill_mcp.teacher.failures import OF_THE_ROW, TRANSIENT, Failure, Kind, failure_of, refusal_text, stop_error
from nanodistill_mcp.teacher.libraries import litellm
from nanodistill_mcp.teacher.models import ModelFacts
from nanodistill_mcp.teacher.pace import Pace, Ticket, Tokens, Turnstile
from nanodistill_mcp.teacher.reading import REWORDED, Completion, Fault, judge

RATE_LIMIT_PATIENCE_S = 600.0
_LONGEST_BACKOFF_S = 30.0
_DEADLINE_MARGIN_S = 1.0
_DRAIN_S = 15.0
_PARAMETERS_DROPPED = 6
_OVERLOADED = (503, 529)


@dataclass
class Call:
    """One question on its way, over all its attempts."""

    call_id: str
    template: str
    prompt_sha: str
    answer_type: type[BaseModel]
    mode: Mode
    attempt: int
    """The number of the newest attempt in the journal."""
    cost_usd: float
    asked: str = ""
    """The question's material, which shows the language of its answer."""
    value: BaseModel | None = None
    failed: list[Fault] = field(default_factory=list[Fault])
    """What was wrong with the answers so far."""
    reread: bool = False
    """Whether Instructor reads the answer once more, and needs LiteLLM's response for it."""
    raised: Exception | None = None
    """What the gate raised; Instructor wraps it into an error of its own."""


class NoAnswerError(Exception):
    """The model's reply is no answer, and the same words would not bring one."""


class ModeRefusedError(Exception):
    """The endpoint refuses the form it was asked in; ask in the next one."""


class _AttemptFailedError(Exception):
    def __init__(self, failure: Failure, refusal: str, sent: dict[str, Any]) -> None:
        super().__init__(failure)
        self.failure = failure
        self.refusal = refusal
        self.sent = sent


@dataclass
class _Patience:
    """How one question's attempts went so far."""

    first_failed_at: float = 0.0
    failed: Counter[Kind] = field(default_factory=Counter[Kind])


class Gate:
    """Sends requests to one endpoint under one budget. One event loop only."""

    def __init__(
        self,
        endpoint: TeacherEndpoint,
        facts: ModelFacts,
        *,
        journal: Journal,
        budget: Budget,
        capabilities: Capabilities,
        stage: str,
        concurrency: int,
        timeout_s: float,
        backoff_s: float,
        before_call: Callable[[], Awaitable[None]] | None,
        credentials: dict[str, str],
    ) -> None:
        self._endpoint = endpoint
        self._facts = facts
        self._journal = journal
        self._budget = budget
        self._capabilities = capabilities
        self._stage = stage
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._before_call = before_call
        fixed = {"model": facts.model, "max_retries": 0, "drop_params": True, "timeout": timeout_s}
        self._fixed: dict[str, Any] = {**fixed, **credentials}
        own_prices = endpoint.usd_per_mtok is not None
        self._direct = DirectLine(self._fixed, own_prices=own_prices) if takes_direct_line(facts, credentials) else None
        self._pace = Pace(concurrency, backoff_s=backoff_s)
        self._turnstile = Turnstile(self._pace)
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._answered_at = 0.0
        self._stopped: NanodistillError | None = None

    async def complete(self, *, call: Call, **request: Any) -> Any:
        """Make one completion, retried where that helps. This is the function Instructor calls.

        Returns:
            LiteLLM's response; None where the call's value was read without it.

        Raises:
            NoAnswerError: There is no answer to the question in these words.
            RowDeclined: There is no answer to this question.
            ModeRefusedError: The endpoint does not take this form of asking.
            NanodistillError: The stage cannot go on.
        """
        patience = _Patience()
        try:
            while True:
                try:
                    reply, sent = await self._attempt(call, request, again=bool(patience.failed))
                except _AttemptFailedError as failed:
                    await self._recover(call, failed, patience)
                else:
                    await self.judge(call, reply.response, reply.completion)
                    if reply.response is None and call.value is None and self._direct:
                        return await self._direct.as_read_by_litellm(sent, reply)
                    return reply.response
        except Exception as error:
            call.raised = error
            raise

    async def drain(self) -> None:
        """Wait for what is in flight, so that what is paid for is on disk; give up on it after a while. Then hang up."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=_DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._direct:
            await self._direct.aclose()

    async def _attempt(self, call: Call, request: dict[str, Any], *, again: bool) -> tuple[Reply, dict[str, Any]]:
        ticket = await self._turnstile.enter(again=again)
        try:
            sent, worst, size = await self._made_ready(request)
        except BaseException:
            self._turnstile.leave(ticket)
            raise
        exchange = asyncio.create_task(self._exchange(call, sent, worst, size, ticket))
        self._in_flight.add(exchange)
        exchange.add_done_callback(self._landed)
        return await asyncio.shield(exchange), sent

    async def _made_ready(self, request: dict[str, Any]) -> tuple[dict[str, Any], Reservation, Size]:
        """What is to be sent, its worst case reserved, and its size; once the worker and the provider let it go."""
        if self._before_call:
            await self._before_call()
        while (wait_s := self._pace.paused_s()) > 0:
            await asyncio.sleep(wait_s)
        if self._stopped:
            raise self._stopped
        sent = self._capabilities.request(self._endpoint, self._facts, request)
        size = size_of(json.dumps(sent, ensure_ascii=False, default=str))
        worst = self._budget.worst_case(size, sent.get("max_tokens") or sent["max_completion_tokens"])
        await self._budget.reserve(worst)
        return sent, worst, size

    def _landed(self, exchange: asyncio.Task[Any]) -> None:
        self._in_flight.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # seen, even when its caller was cancelled and nobody awaits it any more

    async def _exchange(
        self, call: Call, sent: dict[str, Any], worst: Reservation, size: Size, ticket: Ticket
    ) -> Reply:
        """One HTTP request, from its intent to its settlement."""
        usd, tokens = worst.usd, worst.tokens  # until something better is known
        try:
            call.attempt += 1
            key = {"call_id": call.call_id, "attempt": call.attempt}
            intent = {"stage": self._stage, "model": self._facts.model, "form": call.mode}
            asked = {"template": call.template, "prompt_sha": call.prompt_sha}
            self._note("intent", key, **intent, **asked, max_usd=worst.usd, max_tokens=worst.tokens)
            started, cpu_before_s = time.monotonic(), time.process_time()
            try:
                reply = await self._send(sent, whole=call.reread)
            except Exception as error:
                failure = failure_of(error)
                usd, tokens = (usd, tokens) if failure.may_be_billed else (0.0, 0)
                call.cost_usd += usd
                told = {"error": failure.kind, "status": failure.status}
                noted = self._note("error", key, **told, cost_usd=usd, tokens=tokens)
                self._slow_down(ticket, failure)
                await self._journal.flush_async(noted)
                raise _AttemptFailedError(failure, refusal_text(error), sent) from error
            elapsed_s = time.monotonic() - started
            completion = reply.completion
            if completion.input_tokens:
                self._budget.learn(size, completion.input_tokens)
            tokens_in = completion.input_tokens or size.total_bytes // 4
            tokens_out = completion.output_tokens or estimated_tokens(completion.text)
            usd, tokens = self.cost(completion, tokens_in, tokens_out), tokens_in + tokens_out
            call.cost_usd += usd
            # Side by side, each request also waits for our own work on the others, and that is not the provider's.
            provider_s = max(0.1 * elapsed_s, elapsed_s - (time.process_time() - cpu_before_s))
            noted = self._note(
                "answer",
                key,
                text=completion.text,
                finish_reason=completion.finish_reason,
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                cached_tokens=completion.cached_tokens,
                cost_usd=usd,
                elapsed_s=round(elapsed_s, 3),
            )
            # Only what is written makes room for the next request: so a kill leaves no more in doubt than run side by side.
            self._pace.answered(ticket, provider_s, Tokens(tokens_in, tokens_out), reply.headers)
            self._turnstile.leave(ticket)
            await self._journal.flush_async(noted)
            self._answered_at = time.monotonic()
            return reply
        finally:
            self._turnstile.leave(ticket)
            self._budget.settle(worst, usd, tokens)

    def _slow_down(self, ticket: Ticket, failure: Failure) -> None:
        """Tell the pace of a failure that means too many requests, and of how long the provider wants to be left alone."""
        limited = failure.kind == "rate_limit"
        if limited or failure.kind == "timeout" or failure.status in _OVERLOADED:
            pauses = limited or failure.retry_after_s is not None
            self._pace.refused(ticket, retry_after_s=failure.retry_after_s, pauses=pauses)

    async def _send(self, sent: dict[str, Any], *, whole: bool) -> Reply:
        async with asyncio.timeout(self._timeout_s + _DEADLINE_MARGIN_S):  # theirs starts again with every byte
            if self._direct and not whole:
                return await self._direct.send(sent)
            return reply_of(await litellm().acompletion(**sent, **self._fixed))

    def cost(self, completion: Completion, tokens_in: int, tokens_out: int) -> float:
        """What a completion cost: LiteLLM's figure knows about caches; the operator's own prices come first."""
        own_prices = self._endpoint.usd_per_mtok is not None
        return (None if own_prices else completion.usd) or self._budget.price(tokens_in, tokens_out)

    async def judge(self, call: Call, response: Any, completion: Completion) -> None:
        """Read the answer and note the verdict. An unreadable one goes back to Instructor, which asks again."""
        verdict, value, why = judge(call.answer_type, completion.text, completion.finish_reason, call.asked)
        call.value = value
        self._note("verdict", {"call_id": call.call_id, "attempt": call.attempt}, verdict=verdict, why=why)
        if verdict == "valid":
            if response is not None:
                _put(response, call.mode, value.model_dump_json() if value else "")
            return
        call.failed.append(verdict)
        if verdict in REWORDED:
            raise NoAnswerError

    async def _recover(self, call: Call, failed: _AttemptFailedError, patience: _Patience) -> None:
        """Make ready for another attempt, or raise what ends the question or the stage."""
        failure = failed.failure
        patience.first_failed_at = patience.first_failed_at or time.monotonic()
        patience.failed[failure.kind] += 1
        if failure.kind == "rejected":
            self._learn(call, failed, patience)
            return
        if failure.kind in OF_THE_ROW:
            raise RowDeclined("context" if failure.kind == "context" else "filtered", call.call_id, call.cost_usd)
        if failure.kind == "rate_limit":  # everybody waits at the turnstile
            if time.monotonic() + self._pace.paused_s() - patience.first_failed_at > RATE_LIMIT_PATIENCE_S:
                raise self.stop(failure)
            return
        if patience.failed[failure.kind] >= TRANSIENT.get(failure.kind, 0):
            others_are_answered = self._answered_at > patience.first_failed_at
            if failure.kind in TRANSIENT and failure.kind != "unreachable" and others_are_answered:
                raise RowDeclined("empty", call.call_id, call.cost_usd)  # it is this question
            raise self.stop(failure)
        backoff_s = min(_LONGEST_BACKOFF_S, self._backoff_s * 2 ** (patience.failed[failure.kind] - 1))
        wait_s = backoff_s * random.uniform(0.5, 1.0) if failure.retry_after_s is None else failure.retry_after_s  # noqa: S311
        await asyncio.sleep(wait_s)

    def _learn(self, call: Call, failed: _AttemptFailedError, patience: _Patience) -> None:
        """Drop the parameter that a refusal names; without one, the request itself is refused."""
        name = self._capabilities.learn(self._endpoint, failed.sent, failed.refusal)
        if name in ("response_format", "tools"):
            raise ModeRefusedError
        if name and patience.failed["rejected"] <= _PARAMETERS_DROPPED:
            return
        if self._answered_at:
            raise RowDeclined("invalid", call.call_id, call.cost_usd)  # others are answered: it is this question
        raise self.stop(failed.failure)

    def stop(self, failure: Failure) -> NanodistillError:
        """End the stage: no further request is sent."""
        key = self._endpoint.api_key_env or next(iter(self._facts.keys), "")
        self._stopped = stop_error(failure, self._endpoint, self._facts.host, key)
        return self._stopped

    def _note(self, kind: str, key: dict[str, Any], **fields: Any) -> int:
        """Note what a power cut may take: the kernel has it when this returns, the disk with the next flush."""
        return self._journal.note({"kind": kind, **key, "at": now(), **fields})


def _put(response: Any, mode: Mode, text: str) -> None:
    """Give Instructor the answer as we read it, in the place where it looks for it."""
    message = response.choices[0].message
    if mode == "tools":
        function = SimpleNamespace(name="answer", arguments=text)
        message.tool_calls = [SimpleNamespace(id="answer", type="function", function=function)]
    else:
        message.content = text
