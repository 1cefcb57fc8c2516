"""The cap on what a run may spend, kept before a call is made and not after.

Every attempt first reserves its worst case: every byte sent read as a token, every allowed output token written. Once a few
answers have shown how many tokens plain words come to, twice that is reserved for them, never less than a token for two
bytes; digits, punctuation and all other scripts stay at a token a byte. What is in flight counts in full until it is settled,
so no number of calls side by side can pass the cap. What is not covered: the first answer of a provider that bills more input
than there are bytes.
"""

import asyncio
import math
import string
from collections.abc import Sequence
from typing import NamedTuple

from nanodistill_mcp.errors import BudgetError, DayBudgetError
from nanodistill_mcp.runs.records import Spend
from nanodistill_mcp.teacher.ledger import Caps, DayLedger, Reservation

__all__ = ["Budget", "Caps", "Reservation", "Size", "estimated_tokens", "size_of"]

_WRAPPING_TOKENS = 600
"""What providers add to a request unseen: role markers, the preamble for tools or schemas."""

_KEPT = "Everything paid for is kept."

Prices = tuple[float, float]
"""Dollars for a million input and a million output tokens."""


_WORDS = (string.ascii_letters + " ").encode()
_ANSWERS_TO_LEARN_FROM = 4
_SAFETY = 2.0
_LEAST_RATE = 0.5
_OVERBILLING_SAFETY = 1.25


class Size(NamedTuple):
    """How long a request is. Bytes of plain words seldom make a token each; any other byte may."""

    total_bytes: int
    word_bytes: int = 0


def size_of(request: str) -> Size:
    """The size of a request as it is sent."""
    data = request.encode(errors="replace")
    return Size(len(data), len(data) - len(data.translate(None, _WORDS)))


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
        self.tokens = spent.tokens
        self.calls = spent.calls + spent.failed_calls + spent.in_doubt_calls
        self._day = day
        self._in_flight: list[Reservation] = []
        self._settled = asyncio.Event()
        self._answers = 0
        self._tokens_per_word_byte = 0.0
        self._tokens_per_byte = 0.0

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars for so many tokens; 0 when the price is unknown."""
        usd_in, usd_out = self.prices or (0.0, 0.0)
        return (input_tokens * usd_in + output_tokens * usd_out) / 1e6

    def worst_case(self, sent: Size, max_output_tokens: int) -> Reservation:
        """The most one attempt can cost."""
        tokens_in = sent.total_bytes + _WRAPPING_TOKENS
        if self._tokens_per_byte * sent.total_bytes > tokens_in:  # it bills more than there is
            tokens_in = math.ceil(_OVERBILLING_SAFETY * self._tokens_per_byte * sent.total_bytes)
        elif self._answers >= _ANSWERS_TO_LEARN_FROM:
            rate = min(1.0, max(_LEAST_RATE, _SAFETY * self._tokens_per_word_byte))
            tokens_in -= math.floor((1 - rate) * sent.word_bytes)
        return Reservation(self.price(tokens_in, max_output_tokens), tokens_in + max_output_tokens)

    def learn(self, sent: Size, input_tokens: int) -> None:
        """Note how many input tokens a provider counted in what was sent. The densest request so far is what counts."""
        self._answers += 1
        self._tokens_per_byte = max(self._tokens_per_byte, input_tokens / max(1, sent.total_bytes))
        self._tokens_per_word_byte = max(self._tokens_per_word_byte, input_tokens / max(1, sent.word_bytes))

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
        while True:
            missing = self._missing(worst)
            if not missing and (self._day is None or self._day.reserve(worst)):
                break
            if not self._in_flight:
                raise BudgetError(missing, next_step=_KEPT) if missing else self._stopped_for_today(worst)
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
            together = Reservation(sum(worst.usd for worst in rest), sum(worst.tokens for worst in rest), len(rest))
            if not self._missing(together) and (self._day is None or self._day.reserve(together)):
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
            self._day.settle(reserved, usd, tokens)
        self.usd += usd
        self.tokens += tokens
        self._settled.set()
        self._settled = asyncio.Event()

    def _stopped_for_today(self, worst: Reservation) -> DayBudgetError:
        """Which of the day's ceilings the attempt would pass, in words."""
        caps, left = (self._day.caps, self._day.left) if self._day else (Caps(), Caps())
        if left.calls == 0:
            what = f"All {caps.calls} calls that all runs may make in a day are made."
        elif left.tokens is not None and left.tokens < worst.tokens:
            what = (
                f"The next call may take {worst.tokens} tokens and {left.tokens} of the {caps.tokens} that all runs may take "
                "in a day are left."
            )
        else:
            what = (
                f"The next call may cost ${worst.usd:.4f} and ${left.usd or 0:.4f} of the ${caps.usd or 0:.2f} that all runs may "
                "spend in a day are left."
            )
        return DayBudgetError(
            what,
            next_step="Everything paid for is kept. Call the stage again after midnight UTC, or raise the day's ceiling under "
            "budget in the server's configuration.",
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
