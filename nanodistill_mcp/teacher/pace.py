"""How many requests may be in flight at a provider, decided from what comes back.

It starts with few and doubles with every round of answers, until the ceiling, a refusal or crowding says stop. A refusal
(429, overload, timeout) cuts the number by a quarter, once for all requests that were in flight together, and Retry-After
holds everybody back. Where answers take more than twice as long as at best, more requests only wait in the provider's
queue: no more are added, and past three times as long some are taken away. What rate-limit headers say is left is spread
over the time until they are whole again before it runs out. Afterwards it grows again, by one a round.

``Pace`` only decides, and is told the time by a clock that is passed in. ``Turnstile`` does the waiting.
"""

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanodistill_mcp.teacher.quotas import Quota, quotas_of

START = 4
"""Requests in flight at first."""

_CUT = 0.75
_CROWDED = 2.0
_OVERCROWDED = 3.0
_UNHURRIED_S = 0.25
"""Answers as quick as this are not worth waiting for."""
_FIRST_TOKEN = 64
"""What an answer takes before its first token, in tokens: so that short and long answers compare."""
_ROUND = 4
"""Answers in a round at least."""
_LOOK_AGAIN = 10
"""Rounds without growth after which the best latency is measured anew: the old one may have been luck."""
_CAREFUL = 8
"""How many times slower it grows where it was refused before."""
_LONGEST_PAUSE_S = 30.0
_NEWS = 0.2
"""The share of the newest answer in the running mean of an answer's tokens."""


@dataclass(frozen=True)
class Ticket:
    """One request that was let through."""

    number: int
    in_flight: int
    """How many requests were in flight with it, itself included."""


class Tokens(NamedTuple):
    """What one answer took, as providers count it against their limits."""

    read: int
    written: int


@dataclass(frozen=True)
class _Left:
    """A quota as one answer told of it."""

    quota: Quota
    ends_at: float
    told_by: int


class Pace:
    """The decisions for one endpoint. Does not wait, does not look at a clock of its own.

    Args:
        ceiling: Requests in flight at most.
        backoff_s: The pause after a refusal that names none; doubles until something is answered.
        clock: Seconds, monotonic.
    """

    def __init__(self, ceiling: int, *, backoff_s: float = 0.5, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = float(min(START, ceiling))
        self._open: set[int] = set()
        self._ceiling = ceiling
        self._backoff_s = backoff_s
        self._clock = clock
        self._started = 0
        self._started_at = clock()
        self._doubling = True
        self._refused_at = math.inf
        self._cut_after = -1
        self._refusals = 0
        self._paused_until = -math.inf
        self._left: dict[str, _Left] = {}
        self._tokens_each = 0.0
        self._best = math.inf
        self._round: list[tuple[float, float]] = []
        self._round_from = 0
        self._round_size = 1  # the first answer, asked for alone, is what the others are compared with
        self._crowded_rounds = 0
        self._measuring = False

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def wait_s(self) -> float:
        """Seconds until the next request may start; infinite while one has to end first."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(self.paused_s(), self._quota_s())

    def paused_s(self) -> float:
        """Seconds until a refusal's pause is over."""
        return max(0.0, self._paused_until - self._clock())

    def start(self) -> Ticket:
        """Count a request in."""
        self._started += 1
        self._started_at = self._clock()
        self._open.add(self._started)
        return Ticket(self._started, self.in_flight)

    def ended(self, ticket: Ticket) -> None:
        """Count a request out, however it ended; once is enough and twice does no harm."""
        self._open.discard(ticket.number)

    def answered(self, ticket: Ticket, waited_s: float, tokens: Tokens, headers: Mapping[str, Any]) -> None:
        """Count an answered request out, and learn from it.

        Args:
            ticket: The request's.
            waited_s: How long the provider took.
            tokens: What the question and its answer took.
            headers: Of its response.
        """
        full = self.in_flight >= int(self.limit)
        self.ended(ticket)
        self._refusals = 0
        self._tokens_each += (sum(tokens) - self._tokens_each) * (_NEWS if self._tokens_each else 1.0)
        self._take_headers(ticket, headers)
        if ticket.number > self._round_from:
            self._round.append((waited_s / (tokens.written + _FIRST_TOKEN), waited_s))
            if len(self._round) >= self._round_size:
                self._end_round()
        if full and not self._crowded_rounds and not self._measuring:
            self._grow()

    def refused(self, ticket: Ticket, *, retry_after_s: float | None, pauses: bool) -> None:
        """Count a refused request out, slow down, and hold everybody back for as long as the provider says."""
        self.ended(ticket)
        if ticket.number > self._cut_after:
            self._refusals += 1
            self._refused_at = min(self.limit, float(ticket.in_flight))
            self.limit = max(1.0, self._refused_at * _CUT)
            self._doubling = False
            self._start_round()
            self._cut_after = self._started
        if pauses:
            own_s = min(_LONGEST_PAUSE_S, self._backoff_s * 2 ** (max(1, self._refusals) - 1))
            pause_s = own_s if retry_after_s is None else retry_after_s
            self._paused_until = max(self._paused_until, self._clock() + pause_s)

    def _grow(self) -> None:
        if self.limit >= self._refused_at + 1 / self._refused_at:
            self._refused_at = math.inf  # it was allowed this time
        careful = self.limit >= self._refused_at - 1
        step = 1.0 if self._doubling else 1.0 / (self.limit * (_CAREFUL if careful else 1))
        self.limit = min(float(self._ceiling), self.limit + step)

    def _start_round(self) -> None:
        self._round.clear()
        self._round_from = self._started
        self._round_size = max(_ROUND, int(self.limit))

    def _end_round(self) -> None:
        """Compare a round's latency with the best there was."""
        per_token, waited_s = (statistics.median(column) for column in zip(*self._round, strict=True))
        self._round.clear()
        self._round_size = max(_ROUND, int(self.limit))
        self._measuring = False
        self._best = min(self._best, per_token)
        crowding = per_token / self._best if waited_s > _UNHURRIED_S and self._best else 1.0
        if crowding < _CROWDED:
            self._crowded_rounds = 0
            return
        self._doubling = False
        self._crowded_rounds += 1
        if self._crowded_rounds >= _LOOK_AGAIN:
            self._best, self._measuring, self._crowded_rounds = math.inf, True, 0
            self.limit = max(1.0, self.limit / 4)
            self._doubling = True
            self._start_round()
        elif crowding > _OVERCROWDED:
            self.limit = max(1.0, self.limit * max(0.5, _OVERCROWDED / crowding))
            self._start_round()

    def _take_headers(self, ticket: Ticket, headers: Mapping[str, Any]) -> None:
        now = self._clock()
        for name, quota in quotas_of(headers).items():
            known = self._left.get(name)
            if known is None or ticket.number >= known.told_by or known.ends_at <= now:
                self._left[name] = _Left(quota, now + quota.reset_s, ticket.number)

    def _quota_s(self) -> float:
        """Seconds to wait so that what is left of every quota lasts until it is whole again."""
        now, wait_s = self._clock(), 0.0
        for left in self._left.values():
            if left.ends_at <= now:
                continue
            each = 1.0 if left.quota.unit == "requests" else max(1.0, self._tokens_each)
            room = max(0, int(left.quota.remaining / each) - (self._started - left.told_by))
            if room <= 2 * self.limit:
                due = self._started_at + (left.ends_at - self._started_at) / (room + 1)
                wait_s = max(wait_s, due - now)
        return wait_s


class Turnstile:
    """Lets requests through at their pace, in the order they came; those to be tried again go first."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: deque[asyncio.Future[Ticket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, *, again: bool) -> Ticket:
        """Wait for a turn. Whoever gets one has to see that the pace counts it out again."""
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)(turn)
        self._let_through()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(turn.result())
            raise

    def leave(self, ticket: Ticket) -> None:
        """Count a request out, however it ended, and let the next ones in."""
        self._pace.ended(ticket)
        self._let_through()

    def _let_through(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            if self._waiting[0].done():  # cancelled while it waited
                self._waiting.popleft()
            elif (wait_s := self._pace.wait_s()) <= 0:
                self._waiting.popleft().set_result(self._pace.start())
            else:
                if wait_s < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_through)
                return
