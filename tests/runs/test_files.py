"""Bytes on disk: whole or absent, appended or not, and never behind a link."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nanodistill_mcp.errors import DamagedRunError, UserInputError
from nanodistill_mcp.runs.files import (
    append_line,
    count_lines,
    open_beneath,
    read_json,
    read_lines,
    tail_lines,
    write_atomic,
    write_json,
    write_lines,
)

_WRITES_FOR_EVER = """
import sys
from pathlib import Path
from nanodistill_mcp.runs.files import write_atomic
print("ready", flush=True)
number = 0
while True:
    number += 1
    write_atomic(Path(sys.argv[1]), str(number % 10).encode() * 2_000_000, durable=False)
"""

# Ends at the call that is named, as a kill there would: no handler runs, nothing is cleaned up.
_DIES_AT = """
import os, signal, sys
from pathlib import Path
from nanodistill_mcp.runs.files import write_atomic
real = getattr(os, sys.argv[2])
def deadly(*arguments, **named):
    result = real(*arguments, **named) if sys.argv[3] == "after" else None
    os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(os, sys.argv[2], deadly)
write_atomic(Path(sys.argv[1]), b"new")
"""


def _child(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-c", program, *map(str, arguments)], stdout=subprocess.PIPE)


def _others(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if entry.name != path.name)


def test_a_reader_beside_a_writer_only_ever_sees_whole_contents(tmp_path: Path) -> None:
    """A server reads while a worker writes, and is never told of it."""
    path = tmp_path / "heartbeat.json"
    with _child(_WRITES_FOR_EVER, path) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        seen: set[bytes] = set()
        while len(seen) < 3:
            if path.exists():
                data = path.read_bytes()
                assert len(data) == 2_000_000
                assert data.count(data[:1]) == len(data)
                seen.add(data[:1])
        writer.send_signal(signal.SIGKILL)
    assert len(path.read_bytes()) == 2_000_000


@pytest.mark.parametrize(
    ("call", "moment", "left"),
    [
        ("write", "before", b"old"),
        ("write", "after", b"old"),
        ("fsync", "before", b"old"),
        ("fsync", "after", b"old"),
        ("replace", "before", b"old"),
        ("replace", "after", b"new"),
    ],
)
def test_a_kill_at_any_step_of_a_write_leaves_the_old_or_the_new_content(
    tmp_path: Path, call: str, moment: str, left: bytes
) -> None:
    """The old content is destroyed by a rewrite in place; each step of ours is tried on its own."""
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    with _child(_DIES_AT, path, call, moment) as child:
        assert child.wait(timeout=30) == -signal.SIGKILL
    assert path.read_bytes() == left
    write_atomic(path, b"again")
    assert path.read_bytes() == b"again"


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """A full disk refuses the flush or the rename; the file that was there is still the truth."""
    target = tmp_path / "taken"
    (target / "by-a-folder").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(target, b"new")
    assert _others(target) == []
    assert (target / "by-a-folder").is_dir()


def test_a_write_does_not_follow_a_link_but_replaces_it(tmp_path: Path) -> None:
    """A link planted in a run folder must not turn a write of ours into a write elsewhere."""
    outside, path = tmp_path / "outside", tmp_path / "run.json"
    outside.write_text("theirs")
    path.symlink_to(outside)
    write_atomic(path, b"ours")
    assert outside.read_text() == "theirs"
    assert not path.is_symlink()
    assert path.read_bytes() == b"ours"


def test_a_written_file_is_private_to_its_user(tmp_path: Path) -> None:
    """A run holds the user's own data."""
    write_json(tmp_path / "run.json", {})
    append_line(tmp_path / "events.jsonl", {})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_an_append_through_a_link_is_refused(tmp_path: Path) -> None:
    """Appending is the one write that does not go through a rename."""
    outside, path = tmp_path / "outside", tmp_path / "events.jsonl"
    path.symlink_to(outside)
    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        append_line(path, {"event": "x"})
    assert not outside.exists()


def test_values_that_json_and_utf_8_find_hard_come_back_equal(tmp_path: Path) -> None:
    """Half a surrogate pair comes from a text that was cut inside an emoji; losing the row would lose a paid answer."""
    rows = [{"text": text} for text in ("é", "a\u2028b\u0085c", "half \ud83d of one", "\x00\x1b[0m", '"\\\n\r')]
    path = tmp_path / "rows.jsonl"
    write_lines(path, rows)
    assert list(read_lines(path)) == rows
    append_line(path, rows[2])
    assert tail_lines(path, 1) == [rows[2]]
    write_json(tmp_path / "one.json", rows[2])
    assert read_json(tmp_path / "one.json") == rows[2]
    assert path.read_text(encoding="utf-8")  # what we write is UTF-8, always


def test_a_torn_last_line_is_left_out_at_every_cut(tmp_path: Path) -> None:
    """A death in mid-append leaves any part of the last line."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "text": "ä" * i} for i in range(4)]
    for row in rows:
        append_line(path, row)
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        assert list(read_lines(path, appended=True)) == rows[:whole]
        if cut and data[cut - 1] != ord("\n"):
            with pytest.raises(DamagedRunError, match=f"Line {whole + 1} of metrics.jsonl"):
                list(read_lines(path))
        assert count_lines(path) == whole
        assert tail_lines(path, 10) == rows[:whole]


@pytest.mark.parametrize("damage", [b"{\n", b"\n", b"[1]\n", b'"text"\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_before_the_last_is_said_and_named(tmp_path: Path, damage: bytes) -> None:
    """Skipping it would train on fewer examples than the reply says."""
    path = tmp_path / "traces_cot.jsonl"
    path.write_bytes(b'{"id":1}\n' + damage + b'{"id":3}\n')
    with pytest.raises(DamagedRunError) as caught:
        list(read_lines(path))
    assert caught.value.what == "Line 2 of traces_cot.jsonl is not a JSON object."


def test_a_file_that_is_not_there_reads_as_nothing(tmp_path: Path) -> None:
    """What a stage has not written yet is not an error."""
    path = tmp_path / "absent"
    assert (read_json(path), list(read_lines(path)), count_lines(path), tail_lines(path, 3)) == (None, [], 0, [])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"{}x"])
def test_a_file_that_is_not_json_is_damaged_and_its_content_is_not_told(tmp_path: Path, data: bytes) -> None:
    """The words of a file are data; a file that goes too deep for the parser is one more that is not readable."""
    path = tmp_path / "policy.json"
    path.write_bytes(data)
    with pytest.raises(DamagedRunError) as caught:
        read_json(path)
    assert caught.value.what == "policy.json of this run is not readable JSON."


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "symlink", "loop"])
def test_what_stands_in_a_files_place_is_damage_and_never_makes_the_reader_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Opening a fifo blocks until someone writes: one such entry would hang every listing of every server."""
    path = tmp_path / "run.json"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            monkeypatch.chdir(tmp_path)  # the path of a socket must be short
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path.name)
        case "symlink":
            (tmp_path / "elsewhere").write_text("{}")
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            path.symlink_to(path)
    readers: list[Callable[[], object]] = [
        lambda: read_json(path),
        lambda: list(read_lines(path)),
        lambda: count_lines(path),
        lambda: tail_lines(path, 1),
    ]
    for read in readers:
        with pytest.raises(DamagedRunError):
            read()


def test_the_tail_is_found_whatever_the_block_size(tmp_path: Path) -> None:
    """Lines longer than a block, and blocks that end in the middle of a character."""
    path = tmp_path / "metrics.jsonl"
    rows = [{"n": i, "text": "ü" * (i * 7 % 40)} for i in range(50)]
    write_lines(path, rows)
    for block_bytes in (1, 2, 3, 17, 64, 4096):
        for limit in (1, 2, 49, 50, 51):
            assert tail_lines(path, limit, block_bytes=block_bytes) == rows[-limit:]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A root with everything in it that must not be opened, and two things that may."""
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "plain.txt").write_text("plain")
    (root / "sub" / "deep" / "plain.txt").write_text("plain")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("canary")
    (root / "link.txt").symlink_to(tmp_path / "secret" / "key.txt")
    (root / "inner.txt").symlink_to(root / "plain.txt")
    (root / "folder").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret" / "key.txt", root / "hard.txt")
    os.mkfifo(root / "fifo")
    (root / ".hidden").write_text("canary")
    (root / ".config").mkdir()
    (root / ".config" / "key.txt").write_text("canary")
    return root


@pytest.mark.parametrize("relative", ["plain.txt", "./plain.txt", "sub/deep/plain.txt", "sub//deep/./plain.txt"])
def test_a_plain_file_below_the_root_is_opened(shelf: Path, relative: str) -> None:
    """What follows is only worth something when this works."""
    with os.fdopen(open_beneath(shelf, relative)) as stream:
        assert stream.read() == "plain"


@pytest.mark.parametrize(
    "relative",
    [
        "..",
        "../secret/key.txt",
        "sub/../../secret/key.txt",
        "sub/..",
        "/etc/passwd",
        "~/x",
        "",
        ".",
        "./",
        ".hidden",
        ".config/key.txt",
        "sub/.x",
        "plain.txt\0",
        "\0",
        "pl\0ain.txt",
        "half \ud83d",
        "link.txt",
        "inner.txt",
        "folder/key.txt",
        "folder",
        "hard.txt",
        "fifo",
        "sub",
        "plain.txt/x",
        "/dev/stdin",
    ],
)
def test_anything_else_is_refused_in_words(shelf: Path, relative: str) -> None:
    """The caller may be an agent that was talked into naming a key file."""
    with pytest.raises(UserInputError) as caught:
        open_beneath(shelf, relative)
    assert caught.value.next_step
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("relative", ["absent", "sub/absent/x", "n" * 300, "sub/" + "n" * 300 + "/x"])
def test_a_file_that_is_not_there_is_told_apart_from_one_that_is_refused(shelf: Path, relative: str) -> None:
    """'No such file' and 'not allowed' have different next steps."""
    with pytest.raises(FileNotFoundError):
        open_beneath(shelf, relative)


def test_no_path_made_of_hostile_parts_reaches_a_secret_and_no_descriptor_leaks(shelf: Path) -> None:
    """A seeded corpus of 3,000 paths: whatever opens is one of the two plain files."""
    parts = (
        "..",
        ".",
        "",
        "sub",
        "deep",
        "plain.txt",
        "link.txt",
        "folder",
        "key.txt",
        "hard.txt",
        "fifo",
        "~",
        ".hidden",
    )
    chooser = random.Random(1)
    before, opened = len(os.listdir("/dev/fd")), 0
    for _ in range(3000):
        relative = "/".join(chooser.choices(parts, k=chooser.randint(1, 5)))
        try:
            fd = open_beneath(shelf, relative)
        except (UserInputError, FileNotFoundError):
            continue
        opened += 1
        with os.fdopen(fd) as stream:
            assert stream.read() == "plain", relative
    assert opened > 10
    assert len(os.listdir("/dev/fd")) == before


def test_a_folder_that_is_swapped_for_a_link_is_not_followed(shelf: Path, tmp_path: Path) -> None:
    """Between a check of the path and its opening; the walk opens each part and follows none."""
    (tmp_path / "secret" / "deep").mkdir()
    (tmp_path / "secret" / "deep" / "plain.txt").write_text("canary")
    swapper = _child(
        "import os, sys\n"
        "a, b, c = sys.argv[1:]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    os.rename(a, c); os.symlink(b, a); os.unlink(a); os.rename(c, a)\n",
        shelf / "sub",
        tmp_path / "secret",
        tmp_path / "aside",
    )
    with swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        outcomes: Counter[str] = Counter()
        # The machine is shared, so it goes on until it has met the folder and the link often enough.
        while min(outcomes["plain"], outcomes["UserInputError"]) < 20:
            assert swapper.poll() is None
            try:
                fd = open_beneath(shelf, "sub/deep/plain.txt")
            except (UserInputError, FileNotFoundError) as error:
                outcomes[type(error).__name__] += 1
                continue
            with os.fdopen(fd) as stream:
                outcomes[stream.read()] += 1
        swapper.send_signal(signal.SIGKILL)
    assert "canary" not in outcomes


def test_json_that_python_writes_is_json_that_others_read(tmp_path: Path) -> None:
    """People and other programs read a run folder."""
    write_json(tmp_path / "a.json", {"path": tmp_path, "text": "naïve"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": str(tmp_path), "text": "naïve"}
