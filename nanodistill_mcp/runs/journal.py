"""The journal of paid calls: one checksummed JSON object a line, on disk before it counts.

What is covered: a record whose ``append`` returned is never lost, not by a kill and not by the power, and a reader never
takes a torn or flipped line for a record. A record that was only noted survives a kill at once, and the power from the next
``append`` on. An answer finds room on a disk that is full by then (:meth:`Journal.keep_room`). What is not covered: a call
that was in flight when its worker died leaves an intent without an answer; it is listed as in doubt, never guessed at.
"""

import contextlib
import errno
import fcntl
import json
import os
import threading
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.to_thread

from nanodistill_mcp.errors import RunStateError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import full_fsync, json_bytes, open_plain
from nanodistill_mcp.runs.records import Paid, Spend
from nanodistill_mcp.runs.room import KeptRoom

Record = dict[str, Any]


def encode(record: Record) -> bytes:
    """One line: the record's JSON with its CRC-32 as the last member."""
    body = json_bytes(record, separators=(",", ":"))
    return body[:-1] + f',"_crc":"{zlib.crc32(body):08x}"}}\n'.encode()


def decode(line: bytes) -> Record | None:
    """The record of a line; None unless the line is whole and its checksum fits."""
    head, mark, tail = line.rpartition(b',"_crc":"')
    if not mark or len(tail) != len(b'00000000"}\n') or not tail.endswith(b'"}\n'):
        return None
    body = head + b"}"
    if f"{zlib.crc32(body):08x}".encode() != tail[:8]:
        return None
    return json.loads(body)


@dataclass(frozen=True)
class JournalReading:
    """What a journal holds: its records, and how much of it could not be read."""

    records: list[Record] = field(default_factory=list[Record])
    damaged_lines: int = 0
    torn_bytes: int = 0


def read_journal(path: Path) -> JournalReading:
    """Read a journal without touching it. A missing file reads as an empty journal."""
    try:
        with open_plain(path) as stream:
            return parse(stream.read())
    except FileNotFoundError:
        return JournalReading()


def parse(data: bytes) -> JournalReading:
    """Read a journal's bytes."""
    whole, _, torn = data.rpartition(b"\n")
    lines = (whole + b"\n").splitlines(keepends=True) if whole else []
    records = [decode(line) for line in lines]
    kept = [record for record in records if record is not None]
    return JournalReading(kept, len(records) - len(kept), len(torn))


class Journal:
    """The one writer of a journal file. Thread-safe; waiters that arrive together share one fsync."""

    def __init__(self, path: Path, fd: int, reading: JournalReading) -> None:
        self.path = path
        self.records = reading.records
        self.damaged_lines = reading.damaged_lines
        self._fd = fd
        self._condition = threading.Condition()
        self._written = self._synced = 0
        self._syncing = False
        self._lost: OSError | None = None
        self._room = KeptRoom(path.with_name(path.name + ".room"))
        self._is_full = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for appending. A torn tail is moved to ``<name>.torn`` and cut off.

        Raises:
            RunStateError: Another process has the journal open.
        """
        fault("journal.open")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise RunStateError(
                "Another process is writing this run's journal.",
                next_step="Call get_status and wait for its job to end.",
            ) from None
        reading = read_journal(path)
        if reading.torn_bytes:
            keep = os.fstat(fd).st_size - reading.torn_bytes
            fault("journal.keep_torn")
            with path.with_name(path.name + ".torn").open("ab") as torn:
                torn.write(os.pread(fd, reading.torn_bytes, keep))
            fault("journal.cut_torn")
            os.ftruncate(fd, keep)
            fault("journal.cut.done")
            full_fsync(fd)
        return cls(path, fd, reading)

    def keep_room(self, size_bytes: int) -> None:
        """Keep so much of the disk for what is in flight. When the disk is full, answers have that room, and no intent is taken.

        Raises:
            OSError: There is not that much left, so nothing should be asked.
        """
        self._room.keep(size_bytes)

    def append(self, record: Record) -> None:
        """Add a record and return once it is on disk.

        Raises:
            OSError: It is not. After a failed flush nothing more is accepted: the kernel drops what it could not write,
                and a later flush would say all is well.
        """
        self.flush(self.note(record))

    def flush(self, upto: int) -> None:
        """Return once so many lines are on disk; :meth:`note` says how many there are.

        Raises:
            OSError: They are not.
        """
        with self._condition:
            while self._synced < upto:
                if self._lost is not None:
                    raise self._lost
                if self._syncing:
                    self._condition.wait()
                    continue
                self._syncing, written = True, self._written
                self._condition.release()
                try:
                    fault("journal.fsync")
                    full_fsync(self._fd)
                    fault("journal.fsync.done")
                except OSError as error:
                    lost = error
                else:
                    lost = None
                finally:
                    self._condition.acquire()
                    self._syncing = False
                    self._condition.notify_all()
                self._lost = lost
                if lost is None:
                    self._synced = max(self._synced, written)

    def note(self, record: Record) -> int:
        """Add a record that need not be flushed by itself: it shares the flush of the next one that is.

        For what a power cut may take with it: the intent of a call whose answer is not there either, or the verdict on an
        answer that can be judged again. No kill takes it.

        Returns:
            How many lines were added since the journal was opened, for :meth:`flush`.

        Raises:
            OSError: It could not be written, or an earlier flush failed.
        """
        data = encode(record)
        with self._condition:
            return self._write(record, data)

    def _write(self, record: Record, data: bytes) -> int:
        """Hand a line to the kernel, with the condition held; the number of lines handed over so far."""
        if self._lost is not None:
            raise self._lost
        is_intent = record.get("kind") == "intent"
        if self._is_full and is_intent:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            self._hand_over(data)
        except OSError as error:
            self._is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not self._is_full or is_intent or not self._room.give_up():
                raise
            self._hand_over(data)
        fault("journal.write.done")
        self._written += 1
        self.records.append(record)
        return self._written

    def _hand_over(self, data: bytes) -> None:
        size = os.fstat(self._fd).st_size
        try:
            fault("journal.write")
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")  # noqa: TRY301 - handled as any failed write
        except OSError:
            os.ftruncate(self._fd, size)  # half a line would glue itself to the next record
            raise

    async def append_async(self, record: Record) -> None:
        """``append``, with the flush in a thread, so that the event loop goes on meanwhile. The record is written at once."""
        await self.flush_async(self.note(record))

    async def flush_async(self, upto: int) -> None:
        """``flush`` in a thread."""
        await anyio.to_thread.run_sync(self.flush, upto)

    def close(self) -> None:
        """Flush what was only noted, and let go of the file, of its lock, and of the room that was kept for it."""
        if self._synced < self._written and self._lost is None:
            with contextlib.suppress(OSError):  # nothing of it was promised
                full_fsync(self._fd)
        with contextlib.suppress(OSError):  # it is taken anew
            self._room.give_up()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SpendSum:
    """Adds up what a journal says was paid, record by record.

    An intent that has neither answer nor error was in flight when its worker died: it may have been billed, so it is
    counted apart, at its worst case. What a clone borrowed of another run's journal, that run paid.
    """

    def __init__(self, paid: Spend | None = None) -> None:
        """Begin at nothing, or at what was paid for calls that are all closed."""
        self._closed = (paid or Spend()).model_copy()
        self._open: dict[tuple[str, int], list[Record]] = {}

    def add(self, record: Record) -> None:
        """Count one more record."""
        if "borrowed_from" in record:
            return
        closed = self._closed
        match record["kind"]:
            case "intent":
                self._open.setdefault((record["call_id"], record["attempt"]), []).append(record)
            case "answer":
                self._close(record)
                closed.calls += 1
                closed.input_tokens += record["input_tokens"]
                closed.output_tokens += record["output_tokens"]
                closed.usd += record["cost_usd"]
            case "error":
                self._close(record)
                closed.failed_calls += 1
                closed.usd += record["cost_usd"]
                closed.in_doubt_tokens += record.get("tokens", 0)
            case _:
                pass  # verdicts cost nothing

    def _close(self, record: Record) -> None:
        """An answer closes one intent: of two of the same attempt, because a worker died in the first, one stays in doubt."""
        key = record["call_id"], record["attempt"]
        if begun := self._open.get(key):
            begun.pop()
            if not begun:
                del self._open[key]

    def total(self) -> Spend:
        """What was paid by the records so far."""
        still_open = [record for begun in self._open.values() for record in begun]
        return self._closed.model_copy(
            update={
                "in_doubt_calls": self._closed.in_doubt_calls + len(still_open),
                "in_doubt_usd": self._closed.in_doubt_usd + sum(record["max_usd"] for record in still_open),
                "in_doubt_tokens": self._closed.in_doubt_tokens
                + sum(record.get("max_tokens", 0) for record in still_open),
            }
        )


def spend_of(records: list[Record]) -> Spend:
    """What a journal says was paid."""
    total = SpendSum()
    for record in records:
        total.add(record)
    return total.total()


class FollowedSpend:
    """What growing journals say was paid: of each, what was read once is not read again."""

    _MOST = 64

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, int, SpendSum]] = {}

    def of(self, path: Path, paid: Paid | None = None) -> Spend:
        """What the journal says by now.

        Args:
            path: The journal; one that is missing says nothing was paid.
            paid: What it said at an earlier length, to begin there where all calls were closed by then.
        """
        try:
            with open_plain(path) as stream:
                found = os.fstat(stream.fileno())
                inode, at, total = self._known.pop(path, (0, 0, SpendSum()))
                if inode != found.st_ino or at > found.st_size:  # another file, or one that was cut
                    at, total = 0, SpendSum()
                    if paid and paid.spend.in_doubt_calls == 0 and paid.journal_bytes <= found.st_size:
                        at, total = paid.journal_bytes, SpendSum(paid.spend)
                stream.seek(at)
                for line in stream:  # line by line: the first reading may be of hundreds of megabytes
                    if not line.endswith(b"\n"):
                        break
                    at += len(line)
                    if record := decode(line):
                        total.add(record)
        except FileNotFoundError:
            return Spend()
        self._known[path] = found.st_ino, at, total
        if len(self._known) > self._MOST:
            del self._known[next(iter(self._known))]  # whom nobody asked about for longest
        return total.total()


def paid_by_now(path: Path) -> Paid | None:
    """What the journal says by now, with its length; None when there is no journal."""
    try:
        with open_plain(path) as stream:
            data = stream.read()
    except FileNotFoundError:
        return None
    return Paid(journal_bytes=len(data), spend=spend_of(parse(data).records))


def spend_by_stage(records: list[Record]) -> dict[str, Spend]:
    """What each stage paid. A call is its stage's that began it."""
    stage_of: dict[str, str] = {}
    parted: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["kind"] == "intent":
            stage_of[record["call_id"]] = record["stage"]
        if stage := stage_of.get(record.get("call_id", "")):
            parted[stage].append(record)
    return {stage: spend_of(theirs) for stage, theirs in parted.items()}


def in_doubt(records: list[Record]) -> list[Record]:
    """The intents that were in flight when a worker died, oldest first. Only meaningful while no worker runs.

    An answer closes one intent. When the same attempt was begun twice, because a worker died in the first, the first
    stays in doubt: both may have been billed.
    """
    waiting: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        if "borrowed_from" in record:
            continue
        match record["kind"]:
            case "intent":
                waiting[record["call_id"], record["attempt"]].append(index)
            case "answer" | "error":
                if begun := waiting[record["call_id"], record["attempt"]]:
                    begun.pop()
            case _:
                pass
    return [records[index] for index in sorted(index for begun in waiting.values() for index in begun)]
