"""The cap on what a run may spend, kept before a call is made and not after.

Every attempt first reserves its worst case: every byte sent read as a token, every allowed output token written. What is in
flight counts in full until it is settled, so no number of calls side by side can pass the cap. What is not covered: a
provider that bills more than its own tokenizer could have counted.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nanodistill_mcp.errors import BudgetError
from nanodistill_mcp.runs.records import Spend
from nanodistill_mcp.teacher.ledger import DayLedger

_WRAPPING_TOKENS = 600
"""What providers add to a request unseen: role markers, the preamble for tools or schemas."""

Prices = tuple[float, float]
"""Dollars for a million input and a million output tokens."""


@dataclass(frozen=True)
class Caps:
    """The most a run may spend in all; None is no cap of that kind."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Reservation:
    """The worst case of one attempt in flight."""

    usd: float
    tokens: int


def estimated_tokens(text: str) -> int:
    """A text's tokens, give or take a third: four characters each, one each outside ASCII."""
    plain = sum(character.isascii() for character in text)
    return plain // 4 + len(text) - plain + 1


class Budget:
    """What is left of a run's caps. One event loop only.

    Args:
        caps: The most the run may spend, over all its stages.
        spent: What the journal says was spent; calls in doubt count in full.
        prices: None when unknown; then a cap on tokens or calls has to stand in for the one on dollars.
        day: The ledger of all runs, whose ceiling holds beside this run's.
    """

    def __init__(self, caps: Caps, spent: Spend, prices: Prices | None, day: DayLedger | None = None) -> None:
        self.caps = caps
        self.prices = prices
        self.usd = spent.usd + spent.in_doubt_usd
        self.tokens = spent.input_tokens + spent.output_tokens
        self.calls = spent.calls + spent.failed_calls + spent.in_doubt_calls
        self._day = day
        self._in_flight: list[Reservation] = []
        self._settled = asyncio.Event()

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens; 0 when the price is unknown."""
        usd_in, usd_out = self.prices or (0.0, 0.0)
        return (input_tokens * usd_in + output_tokens * usd_out) / 1e6

    def worst_case(self, sent_bytes: int, max_output_tokens: int) -> Reservation:
        """The most one attempt can cost: a token is never less than a byte."""
        tokens_in = sent_bytes + _WRAPPING_TOKENS
        return Reservation(self.price(tokens_in, max_output_tokens), tokens_in + max_output_tokens)

    async def reserve(self, worst: Reservation) -> None:
        """Set the worst case of an attempt aside. While it does not fit, wait for attempts in flight to settle.

        Raises:
            BudgetError: It does not fit and nothing is in flight, or the price is unknown and nothing else is capped.
        """
        if self.prices is None and self.caps.tokens is None and self.caps.calls is None:
            raise BudgetError(
                "The teacher's price is unknown, so a budget in dollars cannot be kept.",
                next_step="Give its endpoint usd_per_mtok in the server's configuration ([0, 0] when it costs nothing), "
                "or set the option max_calls or max_total_tokens.",
            )
        while missing := self._missing(worst) or self._missing_today(worst):
            if not self._in_flight:
                raise BudgetError(
                    missing,
                    next_step="Everything paid for is kept. Go on with the examples there are, or create a run with a higher cap.",
                )
            await self._settled.wait()
        self._in_flight.append(worst)
        self.calls += 1

    async def reserve_many(self, worsts: Sequence[Reservation]) -> tuple[list[Reservation], int]:
        """Set the worst cases of a batch aside, as many from the front as fit now; wait until one does.

        Returns:
            What to settle when the batch has ended, and how many of the calls it covers.

        Raises:
            BudgetError: Not even the first fits and nothing is in flight.
        """
        await self.reserve(worsts[0])
        rest = list(worsts[1:])
        if self.caps.calls is not None:
            rest = rest[: max(0, self.caps.calls - self.calls)]
        while rest:
            together = Reservation(sum(worst.usd for worst in rest), sum(worst.tokens for worst in rest))
            if not self._missing(together) and not self._missing_today(together):
                self._in_flight.append(together)
                self.calls += len(rest)
                return [worsts[0], together], 1 + len(rest)
            rest = rest[: len(rest) * 9 // 10]
        return [worsts[0]], 1

    def correct(self, usd: float, tokens: int) -> None:
        """Change what was counted for the calls of an earlier worker, now that it is known what they cost."""
        self.usd += usd
        self.tokens += tokens
        self._settled.set()
        self._settled = asyncio.Event()

    def settle(self, reserved: Reservation, usd: float, tokens: int) -> None:
        """Put what an attempt did cost in the place of its worst case."""
        self._in_flight.remove(reserved)
        if self._day is not None:
            self._day.settle(reserved.usd, usd)
        self.usd += usd
        self.tokens += tokens
        self._settled.set()
        self._settled = asyncio.Event()

    def _missing_today(self, worst: Reservation) -> str:
        """Reserve the attempt in the ledger of all runs. What is missing, in words; empty when it is reserved."""
        if self._day is None or self._day.reserve(worst.usd):
            return ""
        return (
            f"The next call may cost ${worst.usd:.4f} and ${self._day.left_usd:.4f} of the ${self._day.cap_usd:.2f} that all "
            "runs may spend in a day are left."
        )

    def _missing(self, worst: Reservation) -> str:
        """Which cap the attempt would pass, in words; empty when it fits."""
        usd = self.usd + sum(reserved.usd for reserved in self._in_flight)
        tokens = self.tokens + sum(reserved.tokens for reserved in self._in_flight)
        if self.caps.calls is not None and self.calls >= self.caps.calls:
            return f"All {self.caps.calls} calls of the cap are made."
        if self.caps.tokens is not None and tokens + worst.tokens > self.caps.tokens:
            left = max(0, self.caps.tokens - tokens)
            return f"The next call may take {worst.tokens} tokens and {left} of the cap of {self.caps.tokens} are left."
        if self.caps.usd is not None and usd + worst.usd > self.caps.usd:
            left_usd = max(0.0, self.caps.usd - usd)
            return f"The next call may cost ${worst.usd:.4f} and ${left_usd:.4f} of the budget of ${self.caps.usd:.2f} are left."
        return ""
