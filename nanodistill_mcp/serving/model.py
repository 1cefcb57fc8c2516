"""The model's process as this one sees it: loading, asked, started anew when it died. Its death is never this one's."""

import itertools
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.jobs.companions import Companion, companion
from nanodistill_mcp.jobs.supervise import rebuild_error
from nanodistill_mcp.student.questions import (
    TOLD,
    Ask,
    Begun,
    Drop,
    Ended,
    KeepLoaded,
    Loaded,
    NotLoaded,
    Refused,
    Told,
    Wrote,
)

MOST_WAITING = 64
_FAILURES_IN_A_ROW = 3

Answering = Refused | Begun | Wrote | Ended


class NotReadyError(Exception):
    """The model is being loaded."""


class BusyError(Exception):
    """As many questions wait as may."""


class ModelEndedError(Exception):
    """The model's process ended before the answer did."""


class Model:
    """One model, kept by a process of its own while ``run`` runs."""

    def __init__(
        self,
        request: KeepLoaded,
        log: Path,
        *,
        most_waiting: int = MOST_WAITING,
        when_wanted: Callable[[], None] | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            request: What is kept.
            log: Of its process.
            most_waiting: Questions whose turn has not come.
            when_wanted: Where it is given, the model is loaded with the first question, which waits for it; called then.
        """
        self._when_wanted, self._wanted = when_wanted, anyio.Event()
        self._request = request
        self._log = log
        self._most_waiting = most_waiting
        self._ids = itertools.count(1)
        self._open: dict[int, MemoryObjectSendStream[Answering]] = {}
        self._companion: Companion | None = None
        self._slots = anyio.Semaphore(0)
        self._waiting = 0
        self.loaded: Loaded | None = None
        """What it says of itself; None while it is not ready."""
        self.ready = anyio.Event()
        """Set when it was loaded for the first time."""

    @property
    def pid(self) -> int | None:
        """The process that holds it."""
        return self._companion.pid if self._companion else None

    @property
    def at_work(self) -> int:
        """Questions that are being answered."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Questions whose turn has not come."""
        return self._waiting

    async def run(self) -> None:
        """Keep the model loaded until cancelled.

        Raises:
            NanodistillError: It cannot be loaded, or its process dies again and again.
        """
        if self._when_wanted is not None:
            await self._wanted.wait()
            self._when_wanted()
        failures = 0
        while failures < _FAILURES_IN_A_ROW:
            answered = await self._live()
            failures = 0 if answered else failures + 1
        raise TrainingError(
            f"The model's process ended {failures} times in a row without an answer.",
            next_step=f"The end of {self._log} says why; a model that is too large for this machine's memory ends so.",
        )

    async def _live(self) -> bool:
        """One life of the process; whether it answered anything."""
        async with companion("student.keep", self._log) as process:
            self._companion = process
            await process.say(self._request.model_dump_json())
            answered = False
            try:
                async with aclosing(process.heard()) as lines:
                    async for line in lines:
                        told = TOLD.validate_json(line)
                        answered |= isinstance(told, Ended) and told.finish != "dropped"
                        self._take(told)
            finally:
                self._companion = self.loaded = None
                for stream in self._open.values():
                    stream.close()
                self._open.clear()
                before, self._slots = self._slots, anyio.Semaphore(0)
                for _ in range(self._waiting):  # each finds that what it waited for is gone
                    before.release()
            return answered

    def _take(self, told: Told) -> None:
        match told:
            case Loaded():
                self.loaded, self._slots = told, anyio.Semaphore(told.parallel)
                self.ready.set()
            case NotLoaded():
                raise rebuild_error({"kind": told.error, "what": told.what, "next_step": told.next_step})
            case Refused() | Ended():
                if stream := self._open.pop(told.id, None):
                    stream.send_nowait(told)
                    stream.close()
                self._slots.release()
            case Begun() | Wrote():
                if stream := self._open.get(told.id):
                    stream.send_nowait(told)

    @asynccontextmanager
    async def asked(self, ask: Ask) -> AsyncGenerator[MemoryObjectReceiveStream[Answering]]:
        """Ask, and read what comes; leaving the block before the answer's end drops the question.

        The stream ends without an ``Ended`` when the model's process did.

        Raises:
            NotReadyError: It is not loaded.
            BusyError: Too many wait already.
        """
        if self._when_wanted is not None:
            self._wanted.set()
            await self.ready.wait()
        if self.loaded is None:
            raise NotReadyError
        if self._waiting >= self._most_waiting:
            raise BusyError
        slots = self._slots
        self._waiting += 1
        try:
            await slots.acquire()
        finally:
            self._waiting -= 1
        to, from_ = anyio.create_memory_object_stream[Answering](math.inf)
        process = self._companion
        if process is None or slots is not self._slots:
            raise ModelEndedError
        ask = ask.model_copy(update={"id": next(self._ids)})
        self._open[ask.id] = to
        with from_:
            try:
                await process.say(ask.model_dump_json())
                yield from_
            finally:
                if ask.id in self._open:
                    del self._open[ask.id]
                    to.close()
                    with anyio.CancelScope(shield=True):
                        await process.say(Drop(id=ask.id).model_dump_json())
