"""What questions that went into batches came to, and who waits for it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nanodistill_mcp.teacher.reading import Completion


@dataclass(frozen=True)
class Answered:
    """A batch brought an answer; it is in the journal, and not judged yet."""

    attempt: int
    usd: float
    response: Any
    completion: Completion


@dataclass(frozen=True)
class Unanswered:
    """A batch brought no answer, and why not."""

    attempt: int
    kind: str


Outcome = Answered | Unanswered


class Outcomes:
    """What the calls that went into batches came to, by call id. Each waits until its batch is merged."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    def expect(self, call_id: str) -> "asyncio.Future[Outcome]":
        """Begin to wait for a call's outcome."""
        self._waiting[call_id] = asyncio.get_running_loop().create_future()
        return self._waiting[call_id]

    def of(self, call_id: str) -> "asyncio.Future[Outcome] | None":
        """The outcome of a call that is in a batch."""
        return self._waiting.get(call_id)

    def forget(self, call_id: str) -> None:
        """The outcome was taken."""
        self._waiting.pop(call_id, None)

    def put(self, call_id: str, outcome: Outcome) -> None:
        """A call's outcome is there."""
        waiting = self._waiting.get(call_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def fail(self, call_ids: Iterable[str], error: Exception) -> None:
        """There will be no outcome for these calls, because the stage cannot go on."""
        for call_id in call_ids:
            waiting = self._waiting.get(call_id)
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen, also when nobody asks for it
