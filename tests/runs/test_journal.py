"""The journal of paid calls: what was on disk comes back, and nothing that was not."""

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from nanodistill_mcp.errors import RunStateError
from nanodistill_mcp.runs import faults
from nanodistill_mcp.runs import journal as module
from nanodistill_mcp.runs.journal import (
    FollowedSpend,
    Journal,
    decode,
    encode,
    in_doubt,
    paid_by_now,
    parse,
    read_journal,
    spend_of,
)

_RECORDS: list[dict[str, Any]] = [
    {"kind": "intent", "call_id": "a", "attempt": 0, "max_usd": 0.5},
    {"kind": "answer", "call_id": "a", "attempt": 0, "text": 'ä "quoted" \\ \n ,"_crc":"00000000"} \u2028'},
    {},
    {"kind": "answer", "text": "half \ud83d of an emoji", "nested": {"a": [1, None, True, 1.5]}},
]


def _write(path: Path, records: list[dict[str, Any]]) -> bytes:
    with Journal.open(path) as journal:
        for record in records:
            journal.append(record)
    return path.read_bytes()


def test_what_was_appended_comes_back_equal_and_as_plain_json_lines(tmp_path: Path) -> None:
    """People and other programs read the file, so each line is JSON and UTF-8 whatever a teacher wrote."""
    data = _write(tmp_path / "calls.jsonl", _RECORDS[:2] + _RECORDS[3:])
    assert read_journal(tmp_path / "calls.jsonl").records == _RECORDS[:2] + _RECORDS[3:]
    assert [min(json.loads(line)) for line in data.decode("utf-8").split("\n")[:-1]] == ["_crc"] * 3


def test_every_cut_gives_back_exactly_the_whole_lines_and_appending_works_again(tmp_path: Path) -> None:
    """The power may fail at any byte. The torn tail is kept aside: it may be the only trace of a paid answer."""
    data = _write(tmp_path / "calls.jsonl", _RECORDS)
    later = {"kind": "verdict", "call_id": "later"}
    path = tmp_path / "cut.jsonl"
    torn_path = tmp_path / "cut.jsonl.torn"
    for cut in range(len(data) + 1):
        whole = data[:cut].count(b"\n")
        tail = data[:cut].rpartition(b"\n")[2]
        reading = parse(data[:cut])
        assert (reading.records, reading.damaged_lines, reading.torn_bytes) == (_RECORDS[:whole], 0, len(tail))
        if cut % 7 and cut not in (0, len(data)):
            continue  # the file itself at every seventh: each opening flushes
        path.write_bytes(data[:cut])
        torn_path.unlink(missing_ok=True)
        with Journal.open(path) as journal:
            assert journal.records == _RECORDS[:whole]
            journal.append(later)
        assert read_journal(path).records == [*_RECORDS[:whole], later]
        assert (torn_path.read_bytes() if torn_path.exists() else b"") == tail


def test_no_flipped_bit_ever_makes_a_record_that_was_not_written(tmp_path: Path) -> None:
    """Plain JSONL turns a third of single-bit flips into silently wrong records; here, each bit of a journal is tried."""
    data = _write(tmp_path / "calls.jsonl", _RECORDS)
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for position, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        line = sum(end < position for end in ends)
        # A line whose newline was hit runs into the one after it.
        hit = {line, line + 1} if position in ends else {line}
        kept = [record for i, record in enumerate(_RECORDS) if i not in hit]
        assert parse(bytes(flipped)).records == kept, (position, bit)


def test_zeroed_runs_and_garbage_in_the_middle_cost_only_the_lines_they_hit(tmp_path: Path) -> None:
    """What a file system leaves after a crash is often a run of zero bytes."""
    path = tmp_path / "calls.jsonl"
    data = _write(path, [{"n": i, "text": "x" * 20} for i in range(20)])
    chooser = random.Random(2)
    for _ in range(500):
        start = chooser.randrange(len(data))
        length = chooser.randint(1, 200)
        filler = bytes(length) if chooser.random() < 0.5 else chooser.randbytes(length)
        records = parse((data[:start] + filler + data[start + length :])[: len(data)]).records
        numbers = [record["n"] for record in records]
        assert numbers == sorted(set(numbers))
        first, last = data[:start].count(b"\n"), data[: start + length].count(b"\n") + 1
        assert set(numbers) >= set(range(20)) - set(range(first, last + 1))
        assert all(record == {"n": record["n"], "text": "x" * 20} for record in records)


def test_a_damaged_line_stays_in_the_file_and_is_counted(tmp_path: Path) -> None:
    """Nothing of a journal is ever thrown away, and the reader says that something is missing."""
    path = tmp_path / "calls.jsonl"
    data = bytearray(_write(path, _RECORDS))
    data[5] ^= 1
    path.write_bytes(data)
    with Journal.open(path) as journal:
        assert journal.damaged_lines == 1
        assert journal.records == _RECORDS[1:]
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b'{"kind":"answer","cost_usd":0}\n',
        b',"_crc":"00000000"}\n',
        encode({"a": 1})[:-1],
        encode({"a": 1}).replace(b"1", b"2", 1),
        encode({"a": 1}).upper(),
        b" " + encode({"a": 1}),
        encode({"a": 1})[:-1] + b" \n",
    ],
)
def test_a_line_without_its_own_checksum_is_no_record(line: bytes) -> None:
    """A line that someone typed, or that another program wrote, was never paid for."""
    assert decode(line) is None


def test_records_of_many_threads_are_all_there_and_share_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty calls in flight may end at once; each waits for the disk, but not each for its own flush."""
    real, flushes = module.full_fsync, itertools.count()

    def counting(fd: int) -> None:
        next(flushes)
        real(fd)

    monkeypatch.setattr(module, "full_fsync", counting)
    path = tmp_path / "calls.jsonl"
    threads_n, each = 40, 25
    with Journal.open(path) as journal:
        together = threading.Barrier(threads_n)

        def many(who: int) -> None:
            together.wait(timeout=30)
            for i in range(each):
                journal.append({"who": who, "i": i})

        threads = [threading.Thread(target=many, args=(who,)) for who in range(threads_n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)
    records = read_journal(path).records
    assert sorted((r["who"], r["i"]) for r in records) == [(w, i) for w in range(threads_n) for i in range(each)]
    for who in range(threads_n):
        assert [r["i"] for r in records if r["who"] == who] == list(range(each))
    assert next(flushes) < threads_n * each / 2


def test_a_record_is_in_the_file_when_append_returns_and_the_process_is_killed(tmp_path: Path) -> None:
    """The promise: an answer that was acknowledged is never lost."""
    program = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from nanodistill_mcp.runs.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]))\n"
        "def go(who):\n"
        "    for i in range(10_000):\n"
        "        journal.append({'who': who, 'i': i})\n"
        "        os.write(1, f'{who} {i}\\n'.encode())\n"
        "for who in range(8): threading.Thread(target=go, args=(who,)).start()\n"
    )
    path = tmp_path / "calls.jsonl"
    for kill_after in (1, 30, 100):
        with subprocess.Popen([sys.executable, "-I", "-c", program, path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            acknowledged = [child.stdout.readline() for _ in range(kill_after)]
            child.send_signal(signal.SIGKILL)
            acknowledged += child.stdout.read().splitlines(keepends=True)
        told = {tuple(map(int, line.split())) for line in acknowledged if line.endswith(b"\n")}
        with Journal.open(path) as journal:
            there = {(record["who"], record["i"]) for record in journal.records}
        assert told <= there
        path.unlink()


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Two writers would pay for the same call twice."""
    path = tmp_path / "calls.jsonl"
    with Journal.open(path) as first:
        first.append({"n": 1})
        with pytest.raises(RunStateError) as caught:
            Journal.open(path)
        assert caught.value.next_step == "Call get_status and wait for its job to end."
        assert read_journal(path).records == [{"n": 1}]
    with Journal.open(path) as second:
        assert second.records == [{"n": 1}]


def test_a_journal_is_not_opened_through_a_link(tmp_path: Path) -> None:
    """Opening it cuts a torn tail off: through a link, that would cut another file."""
    outside = tmp_path / "theirs.txt"
    outside.write_text("no newline at the end")
    (tmp_path / "calls.jsonl").symlink_to(outside)
    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        Journal.open(tmp_path / "calls.jsonl")
    assert outside.read_text() == "no newline at the end"


def test_a_disk_that_fills_up_in_mid_record_leaves_no_half_line(tmp_path: Path) -> None:
    """Half a line would glue itself to the next record, and both would be lost once there is space again."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from nanodistill_mcp.runs.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal.open(Path(sys.argv[1]))\n"
        "journal.append({'n': 0})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    journal.append({'text': 'x' * 5000})\n"
        "except OSError:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    journal.append({'n': 1})\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "calls.jsonl"
    subprocess.run([sys.executable, "-I", "-c", program, path], check=True, timeout=30)
    reading = read_journal(path)
    assert (reading.records, reading.damaged_lines, reading.torn_bytes) == ([{"n": 0}, {"n": 1}], 0, 0)


def test_an_answer_finds_room_on_a_disk_that_is_full_and_no_further_question_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in flight is paid for when the disk fills up; what is not asked yet had better not be."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setattr(faults, "_armed", [])
    with Journal.open(path) as journal:
        journal.keep_room(65_536)
        journal.append(_intent("a"))
        kept = {each.name: each.stat().st_size for each in tmp_path.iterdir()}
        faults.arm("journal.write:1:ENOSPC")
        journal.append(_answer("a"))
        assert kept.keys() - {each.name for each in tmp_path.iterdir()} == {"calls.jsonl.room"}
        assert kept["calls.jsonl.room"] == 65_536
        with pytest.raises(OSError, match="No space left"):
            journal.append(_intent("b"))
    assert read_journal(path).records == [_intent("a"), _answer("a")]
    with Journal.open(path) as journal:
        faults.arm("journal.write:1:ENOSPC")
        with pytest.raises(OSError, match="No space left"):
            journal.append(_answer("nobody kept room for this one"))


def test_room_is_kept_while_a_journal_is_open_and_where_there_is_enough_of_it(tmp_path: Path) -> None:
    """A run that rests takes no more of the disk than what it holds; what a killed worker kept is used again."""
    path, room = tmp_path / "calls.jsonl", tmp_path / "calls.jsonl.room"
    room.write_bytes(b"of a worker that was killed")
    with Journal.open(path) as journal:
        journal.keep_room(1000)
        assert room.stat().st_size == 1000
    assert not room.exists()
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from nanodistill_mcp.runs.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    Journal.open(Path(sys.argv[1])).keep_room(5000)\n"
        "except OSError:\n"
        "    print('refused')\n"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", program, path], check=True, capture_output=True, timeout=30)
    assert (ran.stdout, room.exists()) == (b"refused\n", False)


def test_after_a_failed_flush_nothing_more_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops pages it could not write and reports it once: a later flush would say that all is well."""
    calls = itertools.count()

    def failing(_: int) -> None:
        if next(calls) == 0:
            raise OSError(5, os.strerror(5))

    with Journal.open(tmp_path / "calls.jsonl") as journal:
        monkeypatch.setattr(module, "full_fsync", failing)
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                journal.append({"n": 1})
    assert next(calls) == 1


async def test_the_event_loop_goes_on_while_a_record_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush takes milliseconds to seconds; forty calls are in flight meanwhile."""
    flushing, went_on = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        flushing.set()
        assert went_on.wait(timeout=20)

    monkeypatch.setattr(module, "full_fsync", slow)
    with Journal.open(tmp_path / "calls.jsonl") as journal, anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.append_async, {"n": 1})
            while not flushing.is_set():
                await anyio.lowlevel.checkpoint()
            went_on.set()
    assert read_journal(tmp_path / "calls.jsonl").records == [{"n": 1}]


def _intent(call: str, attempt: int = 0, max_usd: float = 1.0) -> dict[str, Any]:
    return {"kind": "intent", "call_id": call, "attempt": attempt, "max_usd": max_usd}


def _answer(call: str, attempt: int = 0, cost: float = 0.25) -> dict[str, Any]:
    tokens = {"input_tokens": 10, "output_tokens": 5}
    return {"kind": "answer", "call_id": call, "attempt": attempt, "cost_usd": cost, **tokens}


def _error(call: str, attempt: int = 0, cost: float = 0.0) -> dict[str, Any]:
    return {"kind": "error", "call_id": call, "attempt": attempt, "cost_usd": cost}


_VERDICT = {"kind": "verdict", "call_id": "a", "attempt": 0, "verdict": "valid"}


@pytest.mark.parametrize(
    ("records", "usd", "calls", "failed", "doubt", "doubt_usd"),
    [
        ([], 0.0, 0, 0, 0, 0.0),
        ([_intent("a")], 0.0, 0, 0, 1, 1.0),
        ([_intent("a"), _answer("a"), _VERDICT], 0.25, 1, 0, 0, 0.0),
        ([_intent("a"), _error("a")], 0.0, 0, 1, 0, 0.0),
        # A request that timed out may have been billed: it is settled at its worst case.
        ([_intent("a"), _error("a", cost=1.0), _intent("a", 1), _answer("a", 1)], 1.25, 1, 1, 0, 0.0),
        # Several in flight at once, answered in another order.
        ([_intent("a"), _intent("b"), _intent("c"), _answer("c"), _answer("a")], 0.5, 2, 0, 1, 1.0),
        # A worker died in flight and the next one begins the same attempt again: the first stays in doubt.
        ([_intent("a", max_usd=0.5), _intent("a", max_usd=2.0), _answer("a")], 0.25, 1, 0, 1, 0.5),
        ([_intent("a"), _intent("a"), _intent("a")], 0.0, 0, 0, 3, 3.0),
        # An answer whose intent was in a damaged line still counts.
        ([_answer("a"), _intent("a")], 0.25, 1, 0, 1, 1.0),
        # A kind of a later version is not ours to judge.
        ([{"kind": "refund", "usd": 3}, _intent("a")], 0.0, 0, 0, 1, 1.0),
    ],
)
def test_spend_is_what_was_answered_and_doubt_is_what_was_left_open(
    records: list[dict[str, Any]], usd: float, calls: int, failed: int, doubt: int, doubt_usd: float
) -> None:
    """The budget rests on these sums: every mix of ends a call can have."""
    spend = spend_of(records)
    assert (spend.usd, spend.calls, spend.failed_calls) == (usd, calls, failed)
    assert (spend.in_doubt_calls, spend.in_doubt_usd) == (doubt, doubt_usd)
    assert (spend.input_tokens, spend.output_tokens) == (10 * calls, 5 * calls)


def test_what_was_borrowed_costs_nothing_and_is_never_in_doubt() -> None:
    """A clone answers from another run's journal, which paid; its own budget must not shrink by it."""
    borrowed = [{**record, "borrowed_from": "other"} for record in (_intent("a"), _answer("a"), _intent("b"))]
    assert spend_of(borrowed) == spend_of([])
    assert spend_of([*borrowed, _intent("c"), _answer("c")]) == spend_of([_intent("c"), _answer("c")])


def test_calls_in_doubt_are_listed_oldest_first() -> None:
    """They are named to the user, who can look them up with the provider."""
    records = [_intent("b"), _intent("a"), _intent("c"), _answer("a"), _intent("b", 1)]
    assert [(r["call_id"], r["attempt"]) for r in in_doubt(records)] == [("b", 0), ("c", 0), ("b", 1)]


def test_a_growing_journal_is_added_up_without_reading_again_what_was_read(tmp_path: Path) -> None:
    """A stage that runs for hours is asked about every few seconds: what it paid long ago must cost nothing any more."""
    path, followed = tmp_path / "calls.jsonl", FollowedSpend()
    assert followed.of(path) == spend_of([])
    records = [_intent("a"), _intent("b"), _answer("a"), _error("b", cost=1.0), _intent("a", 1), _answer("c"), _VERDICT]
    for count, record in enumerate(records, 1):
        line = encode(record)
        with path.open("ab") as stream:
            stream.write(line[:9])
        assert followed.of(path) == spend_of(records[: count - 1]), "half a line is not one yet"
        with path.open("ab") as stream:
            stream.write(line[9:])
        assert followed.of(path) == spend_of(records[:count])
    was_read = path.stat().st_size
    with path.open("r+b") as stream:
        stream.write(b"x" * (was_read - 1))
    assert followed.of(path) == spend_of(records), "what was read is not read again"
    with path.open("wb") as stream:
        stream.write(encode(_answer("d")))
    assert followed.of(path) == spend_of([_answer("d")]), "a shorter one is another one"


def test_what_a_journal_came_to_at_the_end_of_a_job_is_where_the_next_ones_sum_begins(tmp_path: Path) -> None:
    """A new server need not read what was paid by jobs that ended; unless a call was open then, which may be closed since."""
    path = tmp_path / "calls.jsonl"
    before, after = [_intent("a"), _answer("a")], [_intent("b"), _answer("b"), _intent("c")]
    path.write_bytes(b"".join(map(encode, before)))
    paid = paid_by_now(path)
    assert paid is not None
    path.write_bytes(b"?" * (paid.journal_bytes - 1) + b"\n" + b"".join(map(encode, after)))
    assert FollowedSpend().of(path, paid) == spend_of([*before, *after])
    path.write_bytes(b"".join(map(encode, [_intent("a"), _intent("x"), _answer("a")])))
    open_then = paid_by_now(path)
    with path.open("ab") as stream:
        stream.write(encode(_answer("x")))
    assert FollowedSpend().of(path, open_then).in_doubt_calls == 0


def test_a_journal_of_many_lines_is_read_in_time_that_grows_with_them() -> None:
    """get_status reads it; a large run must not make it slow."""
    data = b"".join(encode(_intent(str(i))) for i in range(30_000))
    began = time.process_time()
    assert spend_of(parse(data).records).in_doubt_calls == 30_000
    assert time.process_time() - began < 3
