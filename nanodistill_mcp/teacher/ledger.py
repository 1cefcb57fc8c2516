"""What all runs of a user spend in a day, kept under one ceiling by every worker of every server.

One file a UTC day, one line a change, appended under a lock the kernel releases with its holder. A reservation is a line
before the call, its settlement a line after. What a dead worker had reserved stays counted until the day is over, because
it may have been billed. A call counts on the day it was begun.
"""

import errno
import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.runs.faults import fault

_APPENDING = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_PARTS_PER_USD = 10**12
"""Dollars are added up as whole numbers of these, so that the order of the lines makes no difference."""


@dataclass(frozen=True)
class Caps:
    """The most that may be spent; None is no cap of that kind."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None


@dataclass(frozen=True)
class Reservation:
    """The worst case of one attempt in flight, or of those of a batch together."""

    usd: float
    tokens: int
    calls: int = 1


@dataclass
class _Total:
    parts: int = 0
    tokens: int = 0
    calls: int = 0

    def add(self, usd: float, tokens: int, calls: int) -> None:
        self.parts += round(usd * _PARTS_PER_USD)
        self.tokens += tokens
        self.calls += calls


class DayLedger:
    """The day's spend of all runs.

    Args:
        directory: Holds a file for each day; made when it is not there.
        caps: The most that may be spent in a day.
    """

    def __init__(self, directory: Path, caps: Caps) -> None:
        self.caps = caps
        self._directory = directory
        self._path: Path = directory
        self._offset = 0
        self._total = _Total()
        self._open: list[tuple[Reservation, Path]] = []

    def reserve(self, worst: Reservation) -> bool:
        """Count a call at its worst case, if it fits under the day's ceilings."""
        with self._locked(self._today()) as fd:
            left = self._left()
            short = (
                (left.calls is not None and left.calls < worst.calls)
                or (left.tokens is not None and left.tokens < worst.tokens)
                or (self.caps.usd is not None and self._left_parts(self.caps.usd) < round(worst.usd * _PARTS_PER_USD))
            )
            if short:
                return False
            self._append(fd, worst.usd, worst.tokens, worst.calls)
            self._open.append((worst, self._path))
        return True

    def settle(self, reserved: Reservation, usd: float, tokens: int) -> None:
        """Put what a call cost in the place of its worst case, on the day it was reserved."""
        entry = next(entry for entry in self._open if entry[0] == reserved)
        with self._locked(entry[1]) as fd:
            self._append(fd, usd - reserved.usd, tokens - reserved.tokens, 0)
        self._open.remove(entry)

    @property
    def left(self) -> Caps:
        """What is left of the day's ceilings."""
        with self._locked(self._today()):
            return self._left()

    def _left(self) -> Caps:
        caps, total = self.caps, self._total
        return Caps(
            usd=None if caps.usd is None else max(0.0, self._left_parts(caps.usd) / _PARTS_PER_USD),
            tokens=None if caps.tokens is None else max(0, caps.tokens - total.tokens),
            calls=None if caps.calls is None else max(0, caps.calls - total.calls),
        )

    def _left_parts(self, cap_usd: float) -> int:
        return round(cap_usd * _PARTS_PER_USD) - self._total.parts

    def _today(self) -> Path:
        return self._directory / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"

    @contextmanager
    def _locked(self, path: Path) -> Generator[int, None, None]:
        """A day's file, locked, with all that other workers added read."""
        try:
            fd = os.open(path, _APPENDING, 0o600)
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, _APPENDING, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path != self._path or os.fstat(fd).st_size < self._offset:
                self._path, self._offset, self._total = path, 0, _Total()
            self._read(fd)
            yield fd
        finally:
            os.close(fd)

    def _read(self, fd: int) -> None:
        data = os.pread(fd, os.fstat(fd).st_size - self._offset, self._offset)
        whole, newline, torn = data.rpartition(b"\n")
        if torn:  # a worker died in mid-line, and we hold the lock
            os.ftruncate(fd, self._offset + len(whole) + len(newline))
        self._offset += len(whole) + len(newline)
        try:
            for line in whole.splitlines():
                change = json.loads(line)
                # lines of the first version hold dollars alone
                self._total.add(float(change["usd"]), int(change.get("tokens", 0)), int(change.get("calls", 0)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedRunError(
                f"The ledger of the day, {self._path.name}, is damaged, so the day's ceiling cannot be kept.",
                next_step="Look into the folder 'ledger' of the data directory; once that file is moved away, the day begins at zero.",
            ) from None

    def _append(self, fd: int, usd: float, tokens: int, calls: int) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        change = {"at": at, "pid": os.getpid(), "usd": usd, "tokens": tokens, "calls": calls}
        line = (json.dumps(change) + "\n").encode()
        fault("ledger.write")
        if os.write(fd, line) != len(line):
            os.ftruncate(fd, self._offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fault("ledger.write.done")
        self._offset += len(line)
        self._total.add(usd, tokens, calls)
