"""Questions handed to the provider in batches, at half the price and with up to a day of patience.

A question comes here where it would have gone to the gate. It waits until no further one arrives, goes out with the others,
and is answered when the batch is. The first question of a run goes live, because what a provider refuses is then known in
seconds and not tomorrow; so does everything a batch leaves without a readable answer. A batch belongs to the run and not to
the worker: the journal says which are out, and the next worker goes on waiting for them.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.batch_book import HALF, UNSENT, open_batches, tried_in_a_batch
from nanodistill_mcp.teacher.batch_exchange import BatchExchange, Question
from nanodistill_mcp.teacher.batch_outcomes import Answered, Outcome, Outcomes, Unanswered
from nanodistill_mcp.teacher.batch_providers import batch_provider, check_batches
from nanodistill_mcp.teacher.batch_terms import BatchTerms
from nanodistill_mcp.teacher.batch_wire import Rehearsal
from nanodistill_mcp.teacher.budget import Budget, Reservation, size_of
from nanodistill_mcp.teacher.calls import RowDeclined
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.failures import OF_THE_ROW
from nanodistill_mcp.teacher.gate import Call, Gate
from nanodistill_mcp.teacher.models import ModelFacts

_DRAIN_S = 15.0
_LEAVE_S = 5.0


class BatchLine:
    """Stands before the gate and keeps for a batch what can wait. One event loop only.

    Args:
        endpoint: Where the teacher is reached.
        facts: What is known of it.
        gate: The way for everything that is asked live.
        journal: The run's journal of calls.
        budget: The run's caps.
        capabilities: What endpoints were found to refuse.
        stage: The stage's name, for the journal.
        terms: How to batch.
        before_call: Awaited before the provider is spoken to; waits while the job is paused.
        credentials: The address and key that LiteLLM is called with.
        backoff_s: The first wait after a failed submission.

    Raises:
        ConfigurationError: The teacher's provider has no batches.
    """

    def __init__(
        self,
        endpoint: TeacherEndpoint,
        facts: ModelFacts,
        gate: Gate,
        *,
        journal: Journal,
        budget: Budget,
        capabilities: Capabilities,
        stage: str,
        terms: BatchTerms,
        before_call: Callable[[], Awaitable[None]] | None,
        credentials: dict[str, str],
        backoff_s: float,
    ) -> None:
        check_batches(facts)
        self._endpoint = endpoint
        self._facts = facts
        self._gate = gate
        self._journal = journal
        self._budget = budget
        self._capabilities = capabilities
        self._terms = terms
        self._before_call = before_call
        self._host = facts.host
        self._rehearsal = Rehearsal(facts, credentials)
        self._provider = batch_provider(facts, credentials, self._rehearsal)
        self._outcomes = Outcomes()
        self._exchange = BatchExchange(
            self._provider,
            self._rehearsal,
            gate,
            journal=journal,
            budget=budget,
            outcomes=self._outcomes,
            terms=terms,
            before_call=before_call,
            stage=stage,
            model=facts.model,
            host=self._host,
            backoff_s=backoff_s,
        )
        self._tried = tried_in_a_batch(journal.records)
        self._proved = any(record["kind"] == "answer" for record in journal.records)
        self._queue: list[Question] = []
        self._preparing = 0
        self._touched = 0.0
        self._arrived = asyncio.Event()
        self._collecting: set[asyncio.Task[None]] = set()
        self._following: set[asyncio.Task[None]] = set()
        self._submitting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Go on waiting for what an earlier worker handed in, and begin to collect."""
        for batch in open_batches(self._journal.records):
            if batch.host in ("", self._host):  # the teacher has another address now: what went there stays in doubt
                for record in batch.intents.values():
                    self._outcomes.expect(record["call_id"])
                self._start(self._exchange.follow(batch), self._following)
        if self._terms.mode == "batch":
            self._start(self._collect(), self._collecting)

    async def aclose(self) -> None:
        """Let a submission that has begun reach the journal; leave the batches at the provider to the next worker."""
        if self._submitting:
            await asyncio.wait(self._submitting, timeout=_DRAIN_S)
        self._exchange.leave()
        if self._following:
            await asyncio.wait(self._following, timeout=_LEAVE_S)
        ended = [*self._following, *self._submitting, *self._collecting]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await self._provider.aclose()
        await self._rehearsal.aclose()

    async def complete(self, *, call: Call, **request: Any) -> Any:
        """Make one completion, out of a batch where that can be. This is the function Instructor calls.

        Raises:
            RowDeclined: There is no answer to this question.
            ModeRefusedError: The endpoint does not take this form of asking.
            NanodistillError: The stage cannot go on.
        """
        try:
            waiting = self._outcomes.of(call.call_id)
            if waiting is None and self._terms.mode == "batch" and self._proved and call.call_id not in self._tried:
                waiting = await self._enqueue(call, request)
            while waiting is not None:
                outcome = await asyncio.shield(waiting)
                self._outcomes.forget(call.call_id)
                call.attempt = max(call.attempt, outcome.attempt)
                if isinstance(outcome, Answered):
                    self._tried.add(call.call_id)
                    call.cost_usd += outcome.usd
                    await self._gate.judge(call, outcome.response, outcome.completion)
                    return outcome.response
                waiting = await self._enqueue(call, request) if self._goes_again(call, outcome) else None
        except Exception as error:
            call.raised = error
            raise
        response = await self._gate.complete(call=call, **request)
        self._proved = True
        return response

    def _goes_again(self, call: Call, outcome: Unanswered) -> bool:
        """Whether a call that a batch did not answer goes into the next one; if not, it is asked live."""
        if outcome.kind in OF_THE_ROW:
            raise RowDeclined("context" if outcome.kind == "context" else "filtered", call.call_id, call.cost_usd)
        if outcome.kind == UNSENT:
            return self._terms.mode == "batch"
        self._tried.add(call.call_id)
        return False

    async def _enqueue(self, call: Call, request: dict[str, Any]) -> "asyncio.Future[Outcome]":
        self._preparing += 1
        try:
            sent = self._capabilities.request(self._endpoint, self._facts, request)
            form = await self._rehearsal.form(sent)
        finally:
            self._preparing -= 1
            self._touched = time.monotonic()
        size = size_of(json.dumps(form.body))
        full = self._budget.worst_case(size, sent.get("max_tokens") or sent["max_completion_tokens"])
        worst = Reservation(full.usd * HALF, full.tokens)
        self._queue.append(Question(call, call.attempt + 1, form, size.total_bytes, worst))
        self._arrived.set()
        return self._outcomes.expect(call.call_id)

    async def _collect(self) -> None:
        """Hand in what has gathered, each time the stage has nothing more to ask for the moment."""
        while True:
            await self._arrived.wait()
            while len(self._queue) < self._terms.most_questions:
                rest_s = self._terms.quiet_s - (time.monotonic() - self._touched)
                if rest_s <= 0 and not self._preparing:
                    break
                await asyncio.sleep(max(rest_s, self._terms.quiet_s / 10))
            self._arrived.clear()
            while self._queue:
                try:
                    await self._hand_in()
                except Exception as error:  # noqa: BLE001 - whoever asked gets it
                    self._outcomes.fail([question.call.call_id for question in self._queue], error)
                    self._queue.clear()

    async def _hand_in(self) -> None:
        """Submit as much of the queue as one batch and the caps take."""
        if self._before_call:
            await self._before_call()
        part: list[Question] = []
        size = 0
        for question in self._queue[: self._terms.most_questions]:
            size += question.bytes
            if part and size > self._terms.most_bytes:
                break
            part.append(question)
        reserved, fits = await self._budget.reserve_many([question.worst for question in part])
        del self._queue[:fits]
        await asyncio.shield(self._start(self._submit(part[:fits], reserved), self._submitting))

    async def _submit(self, part: list[Question], reserved: list[Reservation]) -> None:
        batch = await self._exchange.submit(part, reserved)
        if batch is not None:
            self._start(self._exchange.follow(batch), self._following)

    def _start(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
        return task
