"""A batch on its way, from its intents to its settlement: submitted, followed, merged by id.

What is written comes in the gate's order: intents, the submission, the provider's id, the answers, the settlement. So a
worker that dies anywhere in between leaves a batch the next one can go on with.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nanodistill_mcp.errors import NanodistillError, TeacherError
from nanodistill_mcp.runs.journal import Journal, Record
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.teacher.batch_book import HALF, UNSENT, OpenBatch, custom_id
from nanodistill_mcp.teacher.batch_outcomes import Answered, Outcomes, Unanswered
from nanodistill_mcp.teacher.batch_providers import BatchProvider, Result
from nanodistill_mcp.teacher.batch_terms import AtProvider, BatchTerms
from nanodistill_mcp.teacher.batch_wire import Rehearsal, WireForm
from nanodistill_mcp.teacher.budget import Budget, Reservation, estimated_tokens
from nanodistill_mcp.teacher.failures import TRANSIENT, Failure, failure_of
from nanodistill_mcp.teacher.gate import Call, Gate
from nanodistill_mcp.teacher.reading import read_completion

_TRIES = 4
_LOOKS_IN_VAIN = 40
"""Looks in a row that may fail before the stage ends: half an hour. The batch itself goes on without us."""
_LONGEST_BACKOFF_S = 30.0
_SLOWER = 1.5


class _LeftError(Exception):
    """This worker ends; the batch is left to the next one."""


@dataclass(frozen=True)
class Question:
    """One question on its way into a batch."""

    call: Call
    attempt: int
    form: WireForm
    bytes: int
    worst: Reservation


@dataclass
class _Sent:
    """A batch as this worker follows it."""

    batch: OpenBatch
    reserved: list[Reservation] = field(default_factory=list[Reservation])
    """Empty when an earlier worker sent it: then its worst case was counted from the journal."""
    finished: int = 0

    @property
    def call_ids(self) -> list[str]:
        return [record["call_id"] for record in self.batch.intents.values()]


class BatchExchange:
    """Takes batches to one provider and their answers to the journal. One event loop only.

    Args:
        provider: The provider's batch API.
        rehearsal: Reads the answers.
        gate: Judges what ends the stage, and prices answers.
        journal: The run's journal of calls.
        budget: The run's caps.
        outcomes: Where those who asked wait.
        terms: How to batch.
        before_call: Awaited before the provider is spoken to; waits while the job is paused.
        stage: The stage's name, for the journal.
        model: The teacher, for the journal.
        host: The provider's address, for the journal and for errors.
        backoff_s: The first wait after a failed submission.
    """

    def __init__(
        self,
        provider: BatchProvider,
        rehearsal: Rehearsal,
        gate: Gate,
        *,
        journal: Journal,
        budget: Budget,
        outcomes: Outcomes,
        terms: BatchTerms,
        before_call: Callable[[], Awaitable[None]] | None,
        stage: str,
        model: str,
        host: str,
        backoff_s: float,
    ) -> None:
        self._provider = provider
        self._rehearsal = rehearsal
        self._gate = gate
        self._journal = journal
        self._budget = budget
        self._outcomes = outcomes
        self._terms = terms
        self._before_call = before_call
        self._about = {"stage": stage, "model": model}
        self._host = host
        self._backoff_s = backoff_s
        self._out: list[_Sent] = []
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End what is followed: at once where it waits, and where answers are being written down, after them."""
        self._leaving.set()

    async def submit(self, part: Sequence[Question], reserved: list[Reservation]) -> OpenBatch | None:
        """Take one batch to the provider, from its intents to its id on disk. None when the provider does not take it.

        Who asked is told when it is not taken; what was reserved is then settled.
        """
        batch = OpenBatch(secrets.token_hex(4), host=self._host, submitted_at=now(), questions=len(part))
        sent = _Sent(batch, reserved)
        forms: dict[str, WireForm] = {}
        for question in part:
            name = custom_id(question.call.call_id, question.attempt, batch.nonce)
            forms[name] = question.form
            asked = {"template": question.call.template, "prompt_sha": question.call.prompt_sha, "batch": batch.nonce}
            worst = {"max_usd": question.worst.usd, "max_tokens": question.worst.tokens}
            key = {"call_id": question.call.call_id, "attempt": question.attempt}
            batch.intents[name] = {
                "kind": "intent",
                **key,
                "at": now(),
                **self._about,
                **asked,
                **worst,
                "form": question.call.mode,
            }
        await self._write(batch.intents.values())
        self._out.append(sent)
        try:
            await self._know(batch, await self._create(sent, forms))
        except NanodistillError as error:
            self._out.remove(sent)
            self._outcomes.fail(sent.call_ids, error)
            return None
        self._tell()
        return batch

    async def follow(self, batch: OpenBatch) -> None:
        """Wait for a batch, this worker's or an earlier one's, and merge what it brings."""
        sent = next((sent for sent in self._out if sent.batch is batch), None)
        try:
            if sent is None:
                sent = _Sent(batch)
                self._out.append(sent)
                if not await self._picked_up(sent):
                    return
            await self._merge(sent, await self._results(sent))
        except _LeftError:
            return  # whoever asked has left too
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            self._outcomes.fail((record["call_id"] for record in batch.intents.values()), error)
        finally:
            self._out = [one for one in self._out if one is not sent]
            self._tell()

    async def _create(self, sent: _Sent, forms: dict[str, WireForm]) -> str:
        """Submit, and again where that helps. A submission without a reply is looked for before it is repeated."""
        batch = sent.batch
        tried = 0
        while True:
            tried += 1
            try:
                return await self._provider.submit(forms, batch.nonce)
            except Exception as error:  # noqa: BLE001 - classed below
                failure = failure_of(error)
            if failure.may_be_billed or failure.kind == "server":
                found = await self._find(batch)
                if found:
                    return found
                if found is None:  # it may be there: left in doubt at its worst case, and not sent twice
                    self._settle(sent, batch.max_usd, 0)
                    raise self._gate.stop(failure)
            if tried == _TRIES or not (failure.kind in TRANSIENT or failure.kind == "rate_limit"):
                await self._close(sent, UNSENT, usd_each=0.0)
                raise self._not_taken(failure, batch.questions)
            backoff_s = min(_LONGEST_BACKOFF_S, self._backoff_s * 2**tried)
            await asyncio.sleep(backoff_s if failure.retry_after_s is None else failure.retry_after_s)

    async def _know(self, batch: OpenBatch, batch_id: str) -> None:
        """Write down the provider's id: from here on the batch cannot be lost."""
        batch.batch_id = batch_id
        record = {"kind": "batch", "batch": batch.nonce, "id": batch_id, "at": batch.submitted_at}
        await self._write([{**record, "host": self._host, "questions": batch.questions}])

    async def _find(self, batch: OpenBatch) -> str | None:
        """Look for a batch whose submission got no reply. None when it cannot be told whether there is one."""
        try:
            return await self._provider.find(batch.nonce, batch.questions, batch.submitted_at)
        except Exception as error:  # noqa: BLE001 - whatever it is, it does not answer the question
            failure_of(error)
            return None

    async def _picked_up(self, sent: _Sent) -> bool:
        """Whether a batch of an earlier worker is there to be followed."""
        batch = sent.batch
        if not batch.batch_id:
            found = await self._find(batch)
            if found is None:  # it stays in doubt, at its worst case; its questions are asked again
                self._give_back(sent, UNSENT)
                return False
            if not found:
                await self._close(sent, UNSENT, usd_each=0.0)
                self._give_back(sent, UNSENT)
                return False
            await self._know(batch, found)
        if self._terms.mode == "live":
            try:
                await self._provider.cancel(batch.batch_id)
            except Exception as error:  # noqa: BLE001 - it may have ended by itself; the next look tells
                failure_of(error)
        return True

    async def _results(self, sent: _Sent) -> dict[str, Result] | None:
        """The results of a batch, once there are any; None when the provider does not know it any more."""
        wait_s, in_vain = self._terms.poll_s, 0
        while True:
            if self._before_call:
                await self._before_call()
            try:
                seen = await self._provider.look(sent.batch.batch_id)
                if seen.stage == "ended":
                    return await self._provider.results(sent.batch.batch_id, seen)
            except Exception as error:  # noqa: BLE001 - classed below
                failure, seen = failure_of(error), None
                in_vain += 1
                if failure.kind == "no_model" and self._terms.mode == "live":
                    return None
                self._check_patience(sent.batch, failure, in_vain)
            if seen is not None:
                in_vain, sent.finished = 0, seen.finished
                if seen.stage == "refused":
                    await self._close(sent, UNSENT, usd_each=0.0)
                    raise self._refused(sent.batch, seen.reasons)
            self._tell()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), wait_s)
            if self._leaving.is_set():
                raise _LeftError
            wait_s = min(self._terms.longest_poll_s, wait_s * _SLOWER)

    def _check_patience(self, batch: OpenBatch, failure: Failure, in_vain: int) -> None:
        """End the stage when a batch cannot be looked at and will not be soon."""
        if failure.kind == "no_model":
            raise self._unknown(batch)
        if in_vain >= _LOOKS_IN_VAIN or not (failure.kind in TRANSIENT or failure.kind == "rate_limit"):
            raise self._gate.stop(failure)

    async def _merge(self, sent: _Sent, results: dict[str, Result] | None) -> None:
        """Write down what a batch brought, and give it to those who asked."""
        batch = sent.batch
        if results is None:  # gone, and it may have been billed
            await self._close(sent, "lost", usd_each=None)
            self._give_back(sent, "lost")
        elif results and not any(name in results for name in batch.intents):
            await self._close(sent, UNSENT, usd_each=0.0)  # taken for ours by its size and time, and it was not
            self._give_back(sent, UNSENT)
        else:
            read = [self._read(batch.nonce, record, results.get(name)) for name, record in batch.intents.items()]
            spent = await asyncio.gather(*read)
            self._settle(sent, sum(usd for usd, _ in spent), sum(tokens for _, tokens in spent))

    async def _read(self, nonce: str, intent: Record, result: Result | None) -> tuple[float, int]:
        """Write one result down. Returns what it cost, in dollars and tokens."""
        if result is None or result.status == 0:
            await self._end(nonce, intent, "expired")
            self._outcomes.put(intent["call_id"], Unanswered(intent["attempt"], "expired"))
            return 0.0, 0
        try:
            response = await self._rehearsal.response(result.status, result.body)
        except Exception as error:  # noqa: BLE001 - classed as any failed attempt
            failure = failure_of(error)
            await self._end(nonce, intent, failure.kind, status=failure.status)
            self._outcomes.put(intent["call_id"], Unanswered(intent["attempt"], failure.kind))
            return 0.0, 0
        completion = read_completion(response)
        tokens_in = completion.input_tokens or intent["max_tokens"] // 4
        tokens_out = completion.output_tokens or estimated_tokens(completion.text)
        full_usd = self._gate.cost(completion, tokens_in, tokens_out)
        usd = full_usd * HALF
        key = {"call_id": intent["call_id"], "attempt": intent["attempt"]}
        said = {"text": completion.text, "finish_reason": completion.finish_reason}
        counts = {"input_tokens": tokens_in, "output_tokens": tokens_out, "cached_tokens": completion.cached_tokens}
        cost = {"cost_usd": usd, "saved_usd": full_usd - usd, "batch": nonce}
        await self._journal.append_async({"kind": "answer", **key, "at": now(), **said, **counts, **cost})
        self._outcomes.put(intent["call_id"], Answered(intent["attempt"], usd, response, completion))
        return usd, tokens_in + tokens_out

    async def _end(self, nonce: str, intent: Record, kind: str, *, status: int = 0, usd: float = 0.0) -> None:
        """Write down that a question got no answer from its batch."""
        key = {"kind": "error", "call_id": intent["call_id"], "attempt": intent["attempt"], "at": now()}
        await self._journal.append_async({**key, "error": kind, "status": status, "cost_usd": usd, "batch": nonce})

    async def _close(self, sent: _Sent, kind: str, *, usd_each: float | None) -> None:
        """Write that every question of a batch ended in the same way; None is each one's worst case."""
        batch = sent.batch
        costs = {name: record["max_usd"] if usd_each is None else usd_each for name, record in batch.intents.items()}
        ends = [self._end(batch.nonce, record, kind, usd=costs[name]) for name, record in batch.intents.items()]
        await asyncio.gather(*ends)
        self._settle(sent, sum(costs.values()), 0)

    def _give_back(self, sent: _Sent, kind: str) -> None:
        """Tell everyone who asked that the batch brought nothing."""
        for record in sent.batch.intents.values():
            self._outcomes.put(record["call_id"], Unanswered(record["attempt"], kind))

    def _settle(self, sent: _Sent, usd: float, tokens: int) -> None:
        if not sent.reserved:
            self._budget.correct(usd - sent.batch.max_usd, tokens - sent.batch.max_tokens)
            return
        first, *further = sent.reserved
        for reservation in further:
            self._budget.settle(reservation, 0.0, 0)
        self._budget.settle(first, usd, tokens)
        sent.reserved = []

    async def _write(self, records: Iterable[Record]) -> None:
        """Write records side by side, so that they share their flushes to the disk."""
        await asyncio.gather(*[self._journal.append_async(record) for record in records])

    def _tell(self) -> None:
        self._terms.on_change([AtProvider(one.batch.questions, one.finished, one.batch.age_s) for one in self._out])

    def _not_taken(self, failure: Failure, questions: int) -> NanodistillError:
        if failure.kind not in ("rejected", "no_model", "context"):
            return self._gate.stop(failure)
        return TeacherError(
            f"{self._host} takes no batch of these {questions} questions (HTTP {failure.status}); nothing was paid for them.",
            next_step="Call amplify(mode='live') to ask them one by one at the full price.",
        )

    def _refused(self, batch: OpenBatch, reasons: tuple[str, ...]) -> TeacherError:
        full = any("token_limit" in reason or "enqueued" in reason for reason in reasons)
        why = "the account has no room in its queue for so much" if full else "it cannot be run"
        return TeacherError(
            f"{self._host} turned the batch of {batch.questions} questions down: {why}. Nothing was paid for it.",
            next_step="Call amplify(mode='batch') again later, or amplify(mode='live') to ask at the full price.",
        )

    def _unknown(self, batch: OpenBatch) -> TeacherError:
        return TeacherError(
            f"{self._host} does not know the batch of {batch.questions} questions that this run submitted.",
            next_step="See that the key is of the account that submitted it and call amplify(mode='batch') again; "
            "amplify(mode='live') gives the batch up, counts it as paid, and asks again.",
        )
