"""How many requests are in flight: the decisions without any time passing, then the real client before real servers."""

import asyncio
import math
import threading
import time
from collections.abc import Callable

import pytest

from nanodistill_mcp.demo.wire import Fails, Says, WireReply, WireRequest
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.pace import START, Pace, Ticket, Tokens, Turnstile
from nanodistill_mcp.teacher.quotas import LONGEST_RESET_S, quotas_of
from tests.teacher.conftest import GOOD, Desk, questions

SHORT = Tokens(200, 100)


class Provider:
    """A provider and its clock, played on paper: each request takes as long as ``latency_s`` says for the crowd there is."""

    def __init__(self, ceiling: int, latency_s: Callable[[int], float] = lambda _: 1.0) -> None:
        self.now = 1000.0
        self.pace = Pace(ceiling, clock=lambda: self.now)
        self.latency_s = latency_s
        self.refuses: Callable[[int], bool] = lambda _: False
        self.tokens = SHORT
        self.in_flight: list[tuple[float, Ticket, bool, float, Tokens]] = []
        self.peak = self.answers = self.refusals = 0

    def run(self, seconds: float) -> None:
        """Let a stage with endless questions go on for that long."""
        end = self.now + seconds
        while self.now < end or any(each[0] <= self.now for each in self.in_flight):
            while (wait_s := self.pace.wait_s()) <= 0:
                ticket = self.pace.start()
                latency_s = self.latency_s(len(self.in_flight) + 1)
                refused = self.refuses(len(self.in_flight) + 1)
                self.in_flight.append(
                    (self.now + (0.01 if refused else latency_s), ticket, refused, latency_s, self.tokens)
                )
                self.peak = max(self.peak, len(self.in_flight))
            ends = min((each[0] for each in self.in_flight), default=math.inf)
            self.now = min(ends, self.now + wait_s)
            if landing := next((each for each in self.in_flight if each[0] <= self.now), None):
                self.in_flight.remove(landing)
                _, ticket, refused, latency_s, tokens = landing
                if refused:
                    self.refusals += 1
                    self.pace.refused(ticket, retry_after_s=None, pauses=True)
                else:
                    self.answers += 1
                    self.pace.answered(ticket, latency_s, tokens, {})


def answered(pace: Pace, *, headers: dict[str, str], in_flight: int = 1) -> None:
    """Start that many requests and have the newest answered with these headers."""
    tickets = [pace.start() for _ in range(in_flight)]
    pace.answered(tickets[-1], 1.0, SHORT, headers)


def test_it_starts_with_four_and_doubles_with_every_round_up_to_the_ceiling() -> None:
    """A new key's limits are unknown, and a provider that keeps up should be in full use within seconds."""
    provider = Provider(32)
    seen: list[float] = []

    for _ in range(5):
        seen.append(provider.pace.limit)
        provider.run(1.0)

    assert seen == [4, 8, 16, 32, 32]
    assert provider.peak == 32


def test_a_ceiling_below_the_start_holds() -> None:
    """Someone who sets one call at a time means it."""
    provider = Provider(1)

    provider.run(20)

    assert provider.peak == 1


def test_questions_that_come_one_by_one_do_not_raise_the_limit() -> None:
    """A limit that was never reached has proved nothing."""
    pace = Pace(32)

    for _ in range(50):
        pace.answered(pace.start(), 1.0, SHORT, {})

    assert pace.limit == START


def test_sixteen_refusals_at_once_cut_the_limit_once() -> None:
    """They are one event; sixteen cuts would leave one request in flight."""
    provider = Provider(16)
    provider.run(3.5)
    pace = provider.pace
    while pace.wait_s() <= 0:
        provider.in_flight.append((0.0, pace.start(), True, 0.0, SHORT))
    assert pace.in_flight == 16

    for _, ticket, *_ in provider.in_flight:
        provider.pace.refused(ticket, retry_after_s=2.0, pauses=True)

    assert provider.pace.limit == 12
    assert provider.pace.wait_s() == pytest.approx(2.0)


def test_a_refusal_without_a_time_pauses_longer_every_time_until_something_is_answered() -> None:
    """Asking on at the same beat earns longer bans."""
    now = [0.0]
    pace = Pace(4, backoff_s=0.5, clock=lambda: now[0])
    waits: list[float] = []

    for _ in range(4):
        pace.refused(pace.start(), retry_after_s=None, pauses=True)
        waits.append(pace.paused_s())
        now[0] += waits[-1]
    pace.answered(pace.start(), 1.0, SHORT, {})
    pace.refused(pace.start(), retry_after_s=None, pauses=True)

    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert pace.paused_s() == 0.5


def test_a_provider_that_takes_ten_at_once_is_driven_just_below_ten() -> None:
    """Refusals cost time, and so do slots left empty."""
    provider = Provider(64)
    provider.refuses = lambda crowd: crowd > 10
    provider.run(30)
    provider.answers = provider.refusals = 0

    provider.run(200)

    assert provider.answers / 200 > 0.8 * 10
    assert provider.refusals < 0.02 * provider.answers


def test_after_a_burst_of_refusals_it_grows_back_to_the_ceiling() -> None:
    """Another program may have used the same key for a minute; that is no reason to crawl for the rest of the run."""
    provider = Provider(16)
    provider.refuses = lambda crowd: bool(crowd) and 1010 < provider.now < 1020
    provider.run(20)
    assert provider.pace.limit <= 8

    provider.run(60)

    assert provider.pace.limit == 16


def test_a_server_that_answers_one_after_the_other_is_not_flooded() -> None:
    """A local model works on one request; thirty more in its queue only run into their deadlines."""
    provider = Provider(32, latency_s=lambda crowd: 2.0 * crowd)

    provider.run(600)

    assert provider.peak <= 8
    assert provider.pace.limit <= 4


def test_latency_that_grows_mildly_does_not_stop_the_growth() -> None:
    """A batching server slows each answer a little and still does far more in all."""
    provider = Provider(32, latency_s=lambda crowd: 2.0 + 0.03 * crowd)

    provider.run(60)

    assert provider.pace.limit == 32


def test_one_lucky_answer_at_first_does_not_hold_it_back_for_ever() -> None:
    """The best latency may have been luck: it is measured anew when it keeps the limit down."""
    first = iter([0.3])
    provider = Provider(32, latency_s=lambda _: next(first, 1.0))

    provider.run(120)

    assert provider.pace.limit == 32


def eight_seconds(_: int) -> float:
    """What a long answer takes, in any crowd."""
    return 8.0


def test_long_answers_after_short_ones_are_not_taken_for_crowding() -> None:
    """A stage asks for one line and for ten examples by turns; latency is compared by the token."""
    provider = Provider(32)
    provider.run(1.5)
    provider.latency_s = eight_seconds
    provider.tokens = Tokens(200, 1300)

    provider.run(60)

    assert provider.pace.limit == 32


def test_quick_answers_are_never_crowding() -> None:
    """Ten milliseconds that became a hundred are noise to a stage."""
    provider = Provider(16, latency_s=lambda crowd: 0.01 * crowd)

    provider.run(20)

    assert provider.pace.limit == 16


def test_what_a_quota_leaves_is_spread_until_it_is_whole_again() -> None:
    """Three left and a second to go: three more within the second, and the fourth after it."""
    now = [0.0]
    pace = Pace(16, clock=lambda: now[0])
    answered(pace, headers={"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1s"})
    times: list[float] = []

    for _ in range(4):
        now[0] += pace.wait_s()
        pace.ended(pace.start())
        times.append(round(now[0], 3))

    assert times == [0.25, 0.5, 0.75, 1.0]
    assert pace.wait_s() == 0, "what the reset brings is not known, so it is tried"


def test_requests_that_left_meanwhile_count_against_what_was_left() -> None:
    """The provider counted when the answered request came in; those behind it were not seen yet."""
    pace = Pace(4, clock=lambda: 0.0)
    asked = pace.start()
    for _ in range(3):
        pace.ended(pace.start())

    pace.answered(asked, 1.0, SHORT, {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "8s"})

    assert pace.wait_s() == pytest.approx(8.0)


def test_tokens_are_counted_in_requests_of_the_usual_size() -> None:
    """Most limits are on tokens, and a header cannot know how large the next question is."""
    pace = Pace(4, clock=lambda: 0.0)

    answered(pace, headers={"anthropic-ratelimit-tokens-remaining": "650", "anthropic-ratelimit-tokens-reset": "6"})

    assert pace.wait_s() == pytest.approx(6.0 / 3)


def test_plenty_left_holds_nobody_back() -> None:
    """Headers come with every answer; they matter when something runs out."""
    pace = Pace(16, clock=lambda: 0.0)

    answered(pace, headers={"x-ratelimit-remaining-requests": "480", "x-ratelimit-reset-requests": "2.4s"})

    assert pace.wait_s() == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("250ms", 0.25), ("6m0s", 360), ("1h0m2.5s", 3602.5), ("17", 17), ("0.5", 0.5), ("4102444800", 1e9)],
)
def test_every_way_a_reset_is_written_is_read(text: str, seconds: float) -> None:
    """Spans, plain seconds and dates are all in use; none is believed beyond a minute."""
    quotas = quotas_of({"x-ratelimit-remaining-tokens": "5", "llm_provider-x-ratelimit-reset-tokens": text})

    assert [quota.reset_s for quota in quotas.values()] == [pytest.approx(min(seconds, LONGEST_RESET_S))]


def test_a_date_is_a_reset_too() -> None:
    """Anthropic writes when, not how long."""
    headers = {
        "anthropic-ratelimit-requests-remaining": "5",
        "anthropic-ratelimit-requests-reset": "2020-01-01T00:00:00Z",
    }

    assert [quota.reset_s for quota in quotas_of(headers).values()] == [0.0]


@pytest.mark.parametrize("text", ["", "soon", "nan", "-1", "inf", "1e400", "2020-01-01", "9" * 5000, "1s1s"])
def test_headers_that_make_no_sense_say_nothing(text: str) -> None:
    """They are somebody else's text and must not stop a stage."""
    assert not quotas_of({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": text})
    assert not quotas_of({"x-ratelimit-remaining-requests": text, "x-ratelimit-reset-requests": "1s"})


async def test_those_who_are_tried_again_go_first_and_the_cancelled_leave_no_hole() -> None:
    """A refused question has waited longest; a slot given to nobody would be lost for the stage."""
    turnstile = Turnstile(Pace(1))
    order: list[str] = []

    async def pass_through(name: str, *, again: bool = False) -> None:
        ticket = await turnstile.enter(again=again)
        order.append(name)
        turnstile.leave(ticket)

    inside = await turnstile.enter(again=False)
    waiting = [asyncio.create_task(pass_through(name)) for name in ("first", "cancelled", "second")]
    await asyncio.sleep(0)
    waiting.append(asyncio.create_task(pass_through("refused", again=True)))
    await asyncio.sleep(0)
    waiting[1].cancel()
    turnstile.leave(inside)
    await asyncio.gather(*waiting, return_exceptions=True)

    assert order == ["refused", "first", "second"]


async def test_one_cancelled_in_the_moment_it_was_let_in_gives_its_place_on() -> None:
    """The slot was counted already, though its owner never learnt of it."""
    turnstile = Turnstile(Pace(1))
    inside = await turnstile.enter(again=False)
    next_one = asyncio.create_task(turnstile.enter(again=False))
    await asyncio.sleep(0)

    turnstile.leave(inside)
    next_one.cancel()
    await asyncio.gather(next_one, return_exceptions=True)

    async with asyncio.timeout(5):
        await turnstile.enter(again=False)


async def test_a_server_with_six_places_gets_every_question_answered_and_few_refused(desk: Desk) -> None:
    """The limit is nowhere written; it is found by the first refusals and kept to."""
    limited = Fails("rate_limit", headers={"retry-after": "0.05"})
    refused: list[int] = []

    def script(_: WireRequest) -> WireReply:
        if desk.server.in_flight > 6:
            refused.append(desk.server.in_flight)
            return limited
        return Says(GOOD.value, delay_s=0.05)

    desk.script = script
    async with desk.teacher(concurrency=64) as teacher:
        results = await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(150)])

    assert all(result.value.answer == "4" for result in results)
    assert max(refused) <= 12, "it doubles, so it overshoots by that much once"
    assert len(refused) <= 30
    assert len(desk.requests) == 150 + len(refused)


async def test_a_server_that_works_on_one_request_at_a_time_has_no_queue_of_thirty(openai_desk: Desk) -> None:
    """The same as on paper, with the latency that the real client measures."""
    free_at, lock = [0.0], threading.Lock()

    def script(_: WireRequest) -> WireReply:
        with lock:
            now = time.monotonic()
            free_at[0] = max(now, free_at[0]) + 0.1
            return Says(GOOD.value, delay_s=free_at[0] - now)

    openai_desk.script = script
    async with openai_desk.teacher(concurrency=32) as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(50)])

    assert openai_desk.server.peak_in_flight <= 20


async def test_three_left_in_a_second_are_respected_on_the_wire(desk: Desk) -> None:
    """LiteLLM hands a response's headers on under names of its own; that is where they are read."""
    names = {
        "openai": ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        "anthropic": ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    }[desk.wire]
    times: list[float] = []

    def script(_: WireRequest) -> WireReply:
        times.append(time.monotonic())
        return Says(GOOD.value, headers=dict(zip(names, ("3", "1"), strict=True))) if len(times) == 1 else GOOD

    desk.script = script
    async with desk.teacher() as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(8)])

    within = [at for at in times[1:] if at - times[0] < 0.95]
    assert len(within) <= 3
    assert len(times) == 8
