"""What all runs of a user spend in a day, kept under one ceiling by every worker of every server.

One file a UTC day, one line a change, appended under a lock the kernel releases with its holder. A reservation is a line
before the call, its settlement a line after. What a dead worker had reserved stays counted until the day is over, because
it may have been billed.
"""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from nanodistill_mcp.errors import DamagedRunError


class DayLedger:
    """The day's spend of all runs.

    Args:
        directory: Holds a file for each day; made when it is not there.
        cap_usd: The most that may be spent in a day.
    """

    def __init__(self, directory: Path, cap_usd: float) -> None:
        self.cap_usd = cap_usd
        self._directory = directory
        self._path: Path = directory
        self._offset = 0
        self._total_usd = 0.0
        self._open: list[tuple[float, Path]] = []

    def reserve(self, usd: float) -> bool:
        """Count a call's worst case, if it fits under the day's ceiling."""
        with self._locked() as fd:
            if self._total_usd + usd > self.cap_usd:
                return False
            self._append(fd, usd)
            self._open.append((usd, self._path))
        return True

    def settle(self, reserved_usd: float, usd: float) -> None:
        """Put what a call cost in the place of its worst case. One from before midnight counts on both days."""
        with self._locked() as fd:
            reserved = next(entry for entry in self._open if entry[0] == reserved_usd)
            self._open.remove(reserved)
            self._append(fd, usd - reserved_usd if reserved[1] == self._path else usd)

    @property
    def left_usd(self) -> float:
        """What is left of the day's ceiling."""
        with self._locked():
            return max(0.0, self.cap_usd - self._total_usd)

    @contextmanager
    def _locked(self) -> Generator[int, None, None]:
        """Today's file, locked, with all that other workers added read."""
        path = self._directory / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path != self._path:
            self._path, self._offset, self._total_usd = path, 0, 0.0
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
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
            self._total_usd += sum(float(json.loads(line)["usd"]) for line in whole.splitlines() if line)
        except (ValueError, KeyError, TypeError):
            raise DamagedRunError(
                f"The ledger of the day, {self._path.name}, is damaged, so the day's ceiling cannot be kept.",
                next_step="Look into the folder 'ledger' of the data directory; once that file is moved away, the day begins at zero.",
            ) from None

    def _append(self, fd: int, usd: float) -> None:
        line = (
            json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "pid": os.getpid(), "usd": usd}) + "\n"
        )
        os.write(fd, line.encode())
        self._offset += len(line)
        self._total_usd += usd
