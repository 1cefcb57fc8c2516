"""The cap holds: whatever runs side by side, fails, is asked again or was in doubt, what is spent stays under it."""

import asyncio
import random

import pytest

from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from nanodistill_mcp.errors import BudgetError
from nanodistill_mcp.runs.journal import Journal, spend_of
from nanodistill_mcp.runs.records import Spend
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.budget import Budget, Caps, Reservation, size_of
from nanodistill_mcp.teacher.client import RowDeclined
from tests.teacher.conftest import BAD, GOOD, Desk, question, questions


def uneven(seed: int) -> Says:
    """An answer that costs some part of its worst case."""
    dice = random.Random(seed)
    return Says(GOOD.value, input_tokens=dice.randint(200, 900), output_tokens=dice.randint(20, 2048), delay_s=0.005)


async def spend_until_the_cap(desk: Desk, caps: Caps, *, count: int = 120, concurrency: int = 32) -> Spend:
    """Ask more than the caps allow; what the journal says was spent."""
    async with desk.teacher(caps=caps, concurrency=concurrency) as teacher:
        asked = [teacher.ask(prompt, WorkedSolution) for prompt in questions(count)]
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(result, BudgetError) for result in results)
    assert all(isinstance(result, BudgetError | RowDeclined) for result in results if isinstance(result, Exception))
    with Journal.open(desk.journal_path) as journal:
        return spend_of(journal.records)


async def test_thirty_two_calls_side_by_side_do_not_pass_the_cap_in_dollars(desk: Desk) -> None:
    """A cap that is checked after the answer is passed by everything in flight."""
    desk.script = lambda request: uneven(len(request.user) + len(desk.requests))

    spend = await spend_until_the_cap(desk, Caps(usd=0.5))

    assert spend.usd <= 0.5
    assert spend.usd > 0.5 - 0.05, "and it is used up to the last call that fits"
    assert spend.in_doubt_calls == 0


async def test_the_cap_in_tokens_holds_side_by_side(openai_desk: Desk) -> None:
    """The cap that stands in for dollars when the price is unknown."""
    openai_desk.script = lambda request: uneven(len(request.user) + len(openai_desk.requests))

    spend = await spend_until_the_cap(openai_desk, Caps(tokens=40_000))

    assert 30_000 < spend.input_tokens + spend.output_tokens <= 40_000


async def test_the_cap_in_calls_is_met_exactly(openai_desk: Desk) -> None:
    """Every request counts, those that ask again too."""
    openai_desk.answers(then=BAD)

    spend = await spend_until_the_cap(openai_desk, Caps(calls=11))

    assert spend.calls == len(openai_desk.requests) == 11


async def test_asking_again_is_under_the_cap_too(desk: Desk) -> None:
    """A teacher that never keeps to the form doubles every cost."""

    def script(_: WireRequest) -> WireReply:
        return Says(BAD.value, input_tokens=500, output_tokens=900)

    desk.script = script
    spend = await spend_until_the_cap(desk, Caps(usd=0.2), count=60, concurrency=8)

    assert 0.1 < spend.usd <= 0.2


async def test_a_later_stage_has_only_what_is_left(openai_desk: Desk) -> None:
    """The cap is the run's, not the stage's; an intent without an answer counts in full."""
    openai_desk.answers(then=Says(GOOD.value, input_tokens=1000, output_tokens=1000))
    async with openai_desk.teacher(caps=Caps(usd=0.1)) as teacher:
        await teacher.ask(question(), WorkedSolution)
    with Journal.open(openai_desk.journal_path) as journal:
        journal.append(
            {"kind": "intent", "call_id": "f" * 20, "attempt": 1, "stage": "amplify", "max_usd": 0.08, "max_tokens": 9}
        )

    async with openai_desk.teacher(caps=Caps(usd=0.1)) as teacher:
        with pytest.raises(BudgetError, match=r"\$0\.0020 of the budget of \$0\.10"):
            await teacher.ask(question("Another."), WorkedSolution)

    assert len(openai_desk.requests) == 1


async def test_an_unknown_price_needs_another_cap(openai_desk: Desk) -> None:
    """LiteLLM prices what it does not know at zero, so a cap in dollars would never be met."""
    endpoint = openai_desk.endpoint(usd_per_mtok=None)

    async with openai_desk.teacher(endpoint=endpoint, prices=None, caps=Caps(usd=5)) as teacher:
        with pytest.raises(BudgetError, match="usd_per_mtok"):
            await teacher.ask(question(), WorkedSolution)
    assert openai_desk.requests == []

    async with openai_desk.teacher(endpoint=endpoint, prices=None, caps=Caps(usd=5, calls=3)) as teacher:
        assert (await teacher.ask(question(), WorkedSolution)).cost_usd == 0


async def test_a_reservation_waits_for_those_in_flight_before_it_fails() -> None:
    """Worst cases are several times the truth: refusing at once would leave most of the budget unused."""
    budget = Budget(Caps(usd=1.0), Spend(), (3, 15))
    large = Reservation(0.7, 100)
    await budget.reserve(large)
    waiting = asyncio.create_task(budget.reserve(large))
    await asyncio.sleep(0)
    assert not waiting.done()

    budget.settle(large, 0.2, 30)
    await waiting
    budget.settle(large, 0.7, 100)

    with pytest.raises(BudgetError, match=r"may cost \$0\.7000 and \$0\.1000"):
        await budget.reserve(large)


def test_a_worst_case_takes_every_byte_for_a_token() -> None:
    """Four characters a token is an average; a cap needs a bound."""
    budget = Budget(Caps(), Spend(), (3, 15))

    worst = budget.worst_case(size_of("word " * 600), 2000)

    assert worst.tokens >= 5000
    assert worst.usd >= (3000 * 3 + 2000 * 15) / 1e6


def test_after_a_few_answers_less_is_set_aside_for_words_and_never_for_anything_else() -> None:
    """With a small budget, a byte a token leaves several calls unmade."""
    budget = Budget(Caps(), Spend(), (3, 15))
    words, digits = size_of("word " * 600), size_of("5\u4f60" * 750)
    before = (budget.worst_case(words, 0).tokens, budget.worst_case(digits, 0).tokens)

    for _ in range(4):
        budget.learn(words, 700)

    assert 700 * 2 <= budget.worst_case(words, 0).tokens < before[0] - 1400
    assert budget.worst_case(digits, 0).tokens == before[1]


def test_one_dense_request_is_enough_to_set_more_aside_again() -> None:
    """The densest request so far is what counts, not the mean."""
    budget = Budget(Caps(), Spend(), (3, 15))
    words = size_of("word " * 600)
    for tokens in (600, 600, 600, 600, 600, 600, 1700):
        budget.learn(words, tokens)

    assert budget.worst_case(words, 0).tokens >= words.total_bytes


async def test_a_provider_that_bills_more_than_was_sent_is_believed_after_its_first_answer(openai_desk: Desk) -> None:
    """Its second call must be set aside at what the first one turned out to cost."""
    openai_desk.script = lambda _: Says(GOOD.value, input_tokens=30_000, output_tokens=100)

    spend = await spend_until_the_cap(openai_desk, Caps(usd=1.0))

    assert 0.8 < spend.usd <= 1.0


async def test_calls_that_failed_and_may_have_been_billed_count_against_the_cap_in_tokens(openai_desk: Desk) -> None:
    """A worker that starts again must not have more left than the one before."""
    with Journal.open(openai_desk.journal_path) as journal:
        key = {"call_id": "f" * 20, "attempt": 1}
        journal.append({"kind": "intent", **key, "stage": "amplify", "max_usd": 0.08, "max_tokens": 9000})
        journal.append({"kind": "error", **key, "error": "timeout", "status": 0, "cost_usd": 0.08, "tokens": 9000})

    async with openai_desk.teacher(caps=Caps(tokens=10_000)) as teacher:
        with pytest.raises(BudgetError, match="1000 of the cap of 10000"):
            await teacher.ask(question(), WorkedSolution)
