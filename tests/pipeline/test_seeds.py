"""The user's examples: what is accepted, and the exact words for what is not."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import tables
from nanodistill_mcp.pipeline.seeds import check_inputs, check_table, digest, inputs_table, read_rows, seed_table, split
from nanodistill_mcp.pipeline.shapes import UNDERSTOOD

SHAPE = (
    "Give 3 or more rows with the columns input and output, the output left out where the teacher is to answer: "
    "a JSON array of objects, JSONL (one object a line) or CSV with a header line."
)
CANARY = "canary-4711"


def _rows(count: int) -> list[dict[str, Any]]:
    return [{"input": f"question {i}", "output": f"answer {i}"} for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that the server may read, beside one that it may not."""
    (tmp_path / "allowed" / "sub").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "rows.json").write_text(json.dumps([{"input": CANARY, "output": str(i)} for i in range(3)]))
    return tmp_path / "allowed"


def _refusal(folder: Path, name: str, data: bytes) -> UserInputError:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(UserInputError) as caught:
        read_rows(str(path), [folder])
    assert CANARY not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"
    return caught.value


_FORMS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "rows.json": json.dumps,
    "rows.JSON": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    "rows.jsonl": lambda rows: "\n".join(map(json.dumps, rows)),
    "rows.ndjson": lambda rows: "\r\n".join(map(json.dumps, rows)) + "\r\n\r\n",
    "rows.csv": lambda rows: "input,output\n" + "".join(f"{r['input']},{r['output']}\n" for r in rows),
    "other.csv": lambda rows: " Output ,INPUT\r\n" + "".join(f"{r['output']},{r['input']}\r\n" for r in rows) + "\r\n",
}


@pytest.mark.parametrize("name", _FORMS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_every_form_of_a_file_gives_the_same_rows(folder: Path, name: str, mark: bytes) -> None:
    """Spreadsheets and editors write what they write: a mark at the start, other case, other line ends."""
    (folder / name).write_bytes(mark + _FORMS[name](_rows(4)).encode())
    assert read_rows(str(folder / name), [folder]) == [(f"question {i}", f"answer {i}") for i in range(4)]


def test_a_line_separator_inside_a_text_does_not_end_a_line_of_jsonl(folder: Path) -> None:
    """U+2028 is a line end for str.splitlines and for JavaScript, and plain text for JSON."""
    rows = [{"input": f"a\u2028b\u2029c\u0085d {i}", "output": "x"} for i in range(3)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_rows(str(folder / "rows.jsonl"), [folder]) == [(row["input"], "x") for row in rows]


def test_csv_with_quotes_commas_and_line_ends_inside_is_read_as_written(folder: Path) -> None:
    """Tickets hold all three."""
    text = 'input,output\n"He said ""no"", twice",refund\n"two\nlines",bug\n"three\r\nlines, and more",refund\n'
    (folder / "rows.csv").write_bytes(text.encode())
    assert read_rows(str(folder / "rows.csv"), [folder]) == [
        ('He said "no", twice', "refund"),
        ("two\nlines", "bug"),
        ("three\r\nlines, and more", "refund"),
    ]


def test_values_that_are_not_text_become_their_json(folder: Path) -> None:
    """A number, a truth value or an object is a fine answer."""
    values = [1, 2.5, True, {"a": [1, "é"]}, ["x"]]
    (folder / "rows.json").write_text(json.dumps([{"input": f"q{i}", "output": v} for i, v in enumerate(values)]))
    assert [output for _, output in read_rows(str(folder / "rows.json"), [folder])] == [
        "1",
        "2.5",
        "true",
        '{"a": [1, "é"]}',
        '["x"]',
    ]


def test_what_no_file_and_no_tokenizer_takes_is_mended(folder: Path) -> None:
    """Half an emoji from a text that was cut, and NUL characters; whole emoji stay."""
    data = r'[{"input":"cut \ud83d","output":"a\u0000b"},{"input":"\ud83d\ude00 whole","output":"\ude00"},{"input":"c","output":"d"}]'
    (folder / "rows.json").write_text(data)
    rows = read_rows(str(folder / "rows.json"), [folder])
    assert rows == [("cut \ufffd", "ab"), ("\U0001f600 whole", "\ufffd"), ("c", "d")]
    assert digest(split(rows, None, 0))


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.json", b"", "The seed file is empty."),
        ("a.json", b"\xef\xbb\xbf \n", "The seed file is empty."),
        ("a.json", b"[]", "There are no examples."),
        ("a.jsonl", b"\n \n", "The seed file is empty."),
        ("a.csv", b"input,output\n", "There are no examples."),
        ("a.json", b'[{"input":"canary-4711","output":"a"}', "The seed file is not JSON (line 1)."),
        ("a.json", b'[\n{"input":\n canary-4711}]', "The seed file is not JSON (line 3)."),
        ("a.json", b"[" * 200_000, "The seed file is not JSON."),
        ("a.json", b"[" + b"9" * 5000 + b"]", "The seed file is not JSON."),
        ("a.json", b'{"input":"canary-4711","output":"a"}', "The seed file's JSON is not an array of examples."),
        ("a.json", b'"canary-4711"', "The seed file's JSON is not an array of examples."),
        ("a.jsonl", b'{"input":"a","output":"b"}\ncanary-4711\n', "Line 2 of the seed file is not JSON."),
        ("a.jsonl", b'{"input":"a","output":"b"}\n\n{"input":"canary-4711"', "Line 3 of the seed file is not JSON."),
        ("a.jsonl", b"[" * 200_000, "Line 1 of the seed file is not JSON."),
        ("a.jsonl", b'["canary-4711"]\n', "Example 1 is not an object with input and output."),
        ("a.json", b'[{"input":"a","output":"b"},"canary-4711"]', "Example 2 is not an object with input and output."),
        ("a.json", b"[null]", "Example 1 is not an object with input and output."),
        (
            "a.json",
            b'[{"input":"a","canary-4711":"b"}]',
            "Example 1 has 2 columns that are not exactly input and output.",
        ),
        (
            "a.json",
            b'[{"input":"a","output":"b","canary-4711":1}]',
            "Example 1 has 3 columns that are not exactly input and output.",
        ),
        ("a.json", b"[{}]", "Example 1 has 0 columns that are not exactly input and output."),
        (
            "a.csv",
            b"input;output\ncanary-4711;b\n",
            "Example 1 has 1 columns that are not exactly input and output.",
        ),
        (
            "a.csv",
            b"input,output\na,b\nc,d,canary-4711\n",
            "Example 2 has 3 columns that are not exactly input and output.",
        ),
        ("a.csv", b"input,output\na,b\ncanary-4711\n", "Row 2 of the seed file has fewer columns than its header."),
        ("a.csv", b"input,output,Output\na,b,canary-4711\n", "The CSV file's header names a column twice."),
        ("a.csv", b'input,output\n"canary-4711" x,b\n', "The seed file is not CSV."),
        ("a.json", b'[{"input":" ","output":"canary-4711"}]', "Example 1 has an empty input."),
        (
            "a.json",
            b'[{"input":"canary-4711","output":null}]',
            "There is one distinct example; at least 3 are needed, ten or more are better.",
        ),
        (
            "a.json",
            b'[{"input":"canary-4711","output":"a"}]',
            "There is one distinct example; at least 3 are needed, ten or more are better.",
        ),
        (
            "a.json",
            b'[{"input":"a","output":"b"},{"input":"a","output":"b"},{"input":"c","output":"d"}]',
            "There are 2 distinct examples; at least 3 are needed, ten or more are better.",
        ),
        (
            "a.json",
            b'[{"input":"a","output":"b"},{"input":"c","output":"d"},{"input":" a ","output":"canary-4711"}]',
            "Example 3 repeats an earlier input with another output.",
        ),
        ("a.json", b"\x89PNG\r\n\x1a\n\0\0canary-4711", "The seed file is binary, not text."),
        ("a.csv", "input,output\ncanary-4711,b\n".encode("utf-16"), "The seed file is binary, not text."),
        ("a.csv", b"input,output\ncanary-4711 \xe9t\xe9,b\n", "The seed file is not UTF-8 text (byte 25)."),
        ("a.txt", b"canary-4711", "The seed file's name does not end in .json, .jsonl or .csv."),
        ("a", b"canary-4711", "The seed file's name does not end in .json, .jsonl or .csv."),
        ("a.xlsx", b"PK\x03\x04\0", "The seed file is binary, not text."),
    ],
)
def test_a_file_that_is_not_accepted_is_refused_in_these_words(folder: Path, name: str, data: bytes, what: str) -> None:
    """The agent repeats them to the user; nothing of the file's content is in them, for it may be a key file."""
    refusal = _refusal(folder, name, data)
    assert refusal.what == what
    assert refusal.next_step


def test_the_next_step_describes_the_file_that_is_wanted(folder: Path) -> None:
    """Most refusals end with it."""
    assert _refusal(folder, "a.json", b"[]").next_step == SHAPE
    assert _refusal(folder, "a.json", b'[{"in": 1}]').next_step == (
        f"Rename the columns to input and output and remove the others. {SHAPE} {UNDERSTOOD}"
    )


def test_ten_thousand_rows_are_accepted_and_one_more_is_not(folder: Path) -> None:
    """The limit is said with the number there was."""
    (folder / "rows.json").write_text(json.dumps(_rows(10_000)))
    assert len(read_rows(str(folder / "rows.json"), [folder])) == 10_000
    assert _refusal(folder, "rows.json", json.dumps(_rows(10_001)).encode()).what == (
        "There are 10001 examples; at most 10000 are accepted."
    )


def test_a_text_may_have_fifty_thousand_characters_and_no_more() -> None:
    """Characters, not bytes."""
    rows = [*_rows(3), {"input": "é" * 50_000, "output": "x"}]
    assert len(check_table(seed_table(rows, "", []))) == 4
    with pytest.raises(UserInputError) as caught:
        check_table(seed_table([*_rows(3), {"input": "a", "output": CANARY * 5000}], "", []))
    assert caught.value.what == "Example 4 has an output of 55000 characters; at most 50000 are accepted."
    assert CANARY not in str(caught.value)


def test_a_file_that_is_too_large_is_not_read_to_its_end(folder: Path) -> None:
    """Ten million bytes at most, whatever the file's size says."""
    path = folder / "rows.json"
    with path.open("wb") as stream:
        stream.truncate(50_000_000_000)
    with pytest.raises(UserInputError) as caught:
        read_rows(str(path), [folder])
    assert caught.value.what == "The seed file is larger than 10 MB."
    path.write_bytes(b" " * (tables.MAX_FILE_BYTES + 1))
    with pytest.raises(UserInputError, match="larger than 10 MB"):
        read_rows(str(path), [folder])


@pytest.fixture
def zoo(folder: Path) -> Path:
    """The allowed directory with one of everything that must not be read through it."""
    private = folder.parent / "private" / "rows.json"
    (folder / "linked-folder").symlink_to(private.parent)
    (folder / "link.json").symlink_to(private)
    os.link(private, folder / "hard-link.json")
    (folder / ".hidden.json").write_bytes(private.read_bytes())
    (folder / ".config").mkdir()
    (folder / ".config" / "rows.json").write_bytes(private.read_bytes())
    os.mkfifo(folder / "fifo.json")
    (folder / "folder.json").mkdir()
    (folder / "file").write_text("")
    (folder.parent / "allowed-not").mkdir()
    (folder.parent / "allowed-not" / "rows.json").write_bytes(private.read_bytes())
    return folder


_OUTSIDE = "That file is outside the directories this server may read ("
_NOT_PLAIN = "That path is not a plain file: it is or crosses a link, or is a directory or a device."
_HIDDEN = "That path leaves the allowed directory or names a hidden file."
_ABSENT = "There is no such seed file."
_RELATIVE = "The path of the seed file must be absolute."


@pytest.mark.parametrize(
    ("path_text", "what"),
    [
        ("<zoo>/../private/rows.json", _OUTSIDE),
        ("<zoo>/sub/../../private/rows.json", _OUTSIDE),
        ("<zoo>/linked-folder/rows.json", _OUTSIDE),
        ("<zoo>-not/rows.json", _OUTSIDE),
        ("/etc/passwd", _OUTSIDE),
        ("<zoo>/link.json", _NOT_PLAIN),
        ("<zoo>/hard-link.json", _NOT_PLAIN),
        ("<zoo>/fifo.json", _NOT_PLAIN),
        ("<zoo>/folder.json", _NOT_PLAIN),
        ("<zoo>/file/rows.json", _NOT_PLAIN),
        ("<zoo>/.hidden.json", _HIDDEN),
        ("<zoo>/.config/rows.json", _HIDDEN),
        ("<zoo>", _HIDDEN),
        ("<zoo>/..", _HIDDEN),
        ("<zoo>/absent.json", _ABSENT),
        ("<zoo>/absent/rows.json", _ABSENT),
        (f"<zoo>/{'n' * 300}.json", _ABSENT),
        ("rows.json", _RELATIVE),
        ("", _RELATIVE),
        ("<zoo>/ro\0ws.json", _RELATIVE),
        ("<zoo>/su\0b/rows.json", _RELATIVE),
        ("<zoo>/\ud83d.json", _RELATIVE),
        ("~nobody-of-this-name/rows.json", _RELATIVE),
    ],
)
def test_a_path_that_is_not_a_plain_allowed_file_is_refused_in_words(zoo: Path, path_text: str, what: str) -> None:
    """The rows go to a teacher on the net: what may be read is what the server's owner allowed, and nothing else."""
    with pytest.raises(UserInputError) as caught:
        read_rows(path_text.replace("<zoo>", str(zoo)), [zoo])
    assert caught.value.what.startswith(what)
    assert caught.value.next_step
    assert CANARY not in str(caught.value)


def test_a_folder_inside_the_allowed_one_is_allowed_also_through_a_link_to_it(folder: Path) -> None:
    """A link between allowed places leads nowhere new."""
    (folder / "sub" / "rows.json").write_text(json.dumps(_rows(3)))
    (folder / "link").symlink_to(folder / "sub")
    (folder.parent / "way-in").symlink_to(folder)
    for text in ("sub/rows.json", "link/rows.json", "./sub/../sub/rows.json"):
        assert len(read_rows(f"{folder}/{text}", [folder])) == 3
    assert len(read_rows(f"{folder.parent}/way-in/sub/rows.json", [folder])) == 3


def test_the_home_directory_may_be_written_as_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people write it."""
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "rows.json").write_text(json.dumps(_rows(3)))
    assert len(read_rows("~/allowed/rows.json", [folder])) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_this_user_may_not_read_is_said(folder: Path) -> None:
    """Not 'no such file'."""
    (folder / "rows.json").touch(mode=0o000)
    with pytest.raises(UserInputError, match="may not be read by this user"):
        read_rows(str(folder / "rows.json"), [folder])


def test_when_no_directory_is_allowed_the_answer_says_so() -> None:
    """The agent then passes the examples themselves."""
    with pytest.raises(UserInputError) as caught:
        read_rows("/etc/passwd", [])
    assert caught.value.what == "That file is outside the directories this server may read (none are configured)."
    assert caught.value.next_step.startswith("Pass the examples as the argument seed")


def _texts(count: int, outputs: int = 3) -> list[tuple[str, str]]:
    return [(f"question {i}", f"answer {i % outputs}") for i in range(count)]


@pytest.mark.parametrize(
    ("count", "held_out"), [(3, 0), (4, 0), (5, 2), (9, 2), (10, 2), (13, 3), (50, 10), (1000, 200)]
)
def test_a_fifth_is_held_out_and_two_at_least_of_five_or_more(count: int, held_out: int) -> None:
    """With fewer there would be nothing to learn from."""
    made = split(_texts(count), None, 0)
    assert sum(seed.split == "held_out" for seed in made) == held_out
    assert [(seed.input, seed.output) for seed in made] == _texts(count)
    assert len({seed.id for seed in made}) == count


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_two_examples_at_least_are_left_to_learn_from_whatever_the_share(count: int, share: float) -> None:
    """A share of 0.9 of three would leave none."""
    made = split(_texts(count), share, 0)
    held_out = sum(seed.split == "held_out" for seed in made)
    assert held_out == min(round(share * count), count - 2)
    assert count - held_out >= 2


def test_the_split_hangs_on_the_texts_and_the_seed_and_not_on_their_order() -> None:
    """A file that was sorted in between must not mix held-out examples into training."""
    rows = _texts(40)

    def held(made: list[Any]) -> set[str]:
        return {seed.input for seed in made if seed.split == "held_out"}

    assert held(split(rows, None, 0)) == held(split(rows[::-1], None, 0)) == held(split(sorted(rows), None, 0))
    assert held(split(rows, None, 0)) != held(split(rows, None, 1))


def test_an_answer_that_occurs_once_is_kept_for_training() -> None:
    """A class that is only held out cannot be learned."""
    rows = [*[(f"question {i}", "common") for i in range(8)], ("rare question", "rare"), ("other question", "other")]
    for number in range(30):
        held = [seed.output for seed in split(rows, None, number) if seed.split == "held_out"]
        assert held == ["common", "common"]


def test_examples_named_by_their_numbers_are_held_out_and_no_others() -> None:
    """The user knows which examples are the ones that count."""
    made = split(_texts(6), None, 0, numbers=[1, 6, 6])
    assert [seed.split for seed in made] == ["held_out", *["train"] * 4, "held_out"]
    assert all(seed.split == "train" for seed in split(_texts(6), None, 0, numbers=[]))


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ([0], "held_out names 0, which is no example with an output"),
        ([7, -1], "held_out names -1, 7, which"),
        ([2], "held_out names 2, which"),
        ([1, 3, 4, 5, 6], "held_out leaves fewer than 2 of 6 examples to learn from"),
    ],
)
def test_a_number_that_cannot_be_held_out_is_named(numbers: list[int], what: str) -> None:
    """The second example here has no output: nothing could be held against it."""
    rows = [(source, output if number != 2 else "") for number, (source, output) in enumerate(_texts(6), 1)]
    with pytest.raises(UserInputError, match=re.escape(what)):
        split(rows, None, 0, numbers=numbers)


def test_test_rows_are_all_held_out_and_never_trained_on() -> None:
    """A row that is in both files would be learned by heart and then asked."""
    rows, tests = _texts(6), [("question 2", "another answer"), ("new question", "x")]
    made = split(rows, None, 0, tests=tests)
    assert [(seed.input, seed.split) for seed in made if seed.id.startswith("t")] == [
        ("question 2", "held_out"),
        ("new question", "held_out"),
    ]
    assert [seed.input for seed in made if seed.split == "train"] == [f"question {i}" for i in (0, 1, 3, 4, 5)]
    with pytest.raises(UserInputError, match="nothing is left to learn from"):
        split(rows, None, 0, tests=rows[:5])


def test_the_digest_tells_specs_apart() -> None:
    """It decides whether a repeated create_run is the same run."""
    rows = _texts(10)
    same = digest(split(rows, None, 0))
    assert same == digest(split(list(rows), None, 0))
    others = [
        digest(split(rows, None, 1)),
        digest(split(rows[:-1], None, 0)),
        digest(split([*rows[:-1], ("question 9", "other")], None, 0)),
        digest(split([("a\n", "b"), ("c", "d"), ("e", "f")], None, 0)),
        digest(split([("a", "\nb"), ("c", "d"), ("e", "f")], None, 0)),
    ]
    assert len({same, *others}) == 6


@pytest.mark.parametrize("row", [{"input": "a"}, {"input": "a", "output": ""}, {"input": "a", "output": None}])
def test_an_example_without_an_output_is_one_the_teacher_answers(folder: Path, row: dict[str, Any]) -> None:
    """Raw inputs are what most people have; a list may mix them with answered ones."""
    (folder / "rows.json").write_text(json.dumps([row, *_rows(2)]))
    rows = read_rows(str(folder / "rows.json"), [folder])
    assert rows == [("a", ""), ("question 0", "answer 0"), ("question 1", "answer 1")]
    assert [seed.labelled for seed in split(rows, None, 0)] == [False, True, True]


def test_a_table_of_inputs_alone_is_a_seed_file(folder: Path) -> None:
    """A column exported from a help desk."""
    (folder / "rows.csv").write_text("input\none\ntwo\nthree\n")
    assert read_rows(str(folder / "rows.csv"), [folder]) == [("one", ""), ("two", ""), ("three", "")]


@pytest.mark.parametrize("order", [1, -1])
def test_an_input_that_is_given_with_and_without_an_answer_keeps_the_answer(order: int) -> None:
    """A person's answer is worth more than a teacher's."""
    rows = [{"input": "a", "output": "x"}, {"input": "a"}, *_rows(2)][::order]
    assert ("a", "x") in check_table(seed_table(rows, "", []))
    assert len(check_table(seed_table(rows, "", []))) == 3


def test_a_test_file_needs_every_answer(folder: Path) -> None:
    """A proof against the teacher's own answers proves nothing."""
    (folder / "test.json").write_text(json.dumps([{"input": CANARY}, *_rows(3)]))
    with pytest.raises(UserInputError) as caught:
        read_rows(str(folder / "test.json"), [folder], labelled=True)
    assert str(caught.value) == "Example 1 has an empty output. Fill it in or remove the example."
    with pytest.raises(UserInputError, match="There is no such test file"):
        read_rows(str(folder / "absent.json"), [folder], labelled=True)


@pytest.mark.parametrize(("labelled", "held_out"), [(0, 0), (4, 0), (5, 2), (20, 4)])
def test_only_answered_examples_are_held_out(labelled: int, held_out: int) -> None:
    """The held-out proof needs a person's answer, and unanswered examples do not make it larger."""
    rows = [*_texts(labelled), *((f"raw {i}", "") for i in range(30))]
    for share in (None, 0.2, 0.9):
        chosen = [seed for seed in split(rows, share, 0) if seed.split == "held_out"]
        assert all(seed.labelled and seed.output for seed in chosen)
        assert share is not None or len(chosen) == held_out


_INPUT_FORMS: dict[str, Callable[[list[str]], str]] = {
    "in.txt": "\r\n\n".join,
    "in.json": json.dumps,
    "rows.json": lambda texts: json.dumps([{"id": i, "input": t, "output": "old"} for i, t in enumerate(texts)]),
    "in.jsonl": lambda texts: "\n".join(json.dumps({"input": text}) for text in texts),
    "in.csv": lambda texts: "Input,date\n" + "".join(f"{text},2026-01-01\n" for text in texts),
}


@pytest.mark.parametrize("name", _INPUT_FORMS)
def test_inputs_are_read_from_every_form_each_once(folder: Path, name: str) -> None:
    """Whatever a help desk exports: other columns are passed over, old answers too."""
    texts = [f"where is parcel {i}?" for i in range(5)]
    (folder / name).write_text(_INPUT_FORMS[name]([*texts, texts[0]]))
    assert check_inputs(inputs_table(str(folder / name), [folder])) == texts


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("in.txt", b" \n", "The inputs file is empty."),
        ("in.md", b"canary-4711", "The inputs file's name does not end in .txt, .json, .jsonl or .csv."),
        ("in.json", b"[]", "There are no examples."),
        ("in.json", b'[{"text": "canary-4711"}]', "Row 1 of the inputs file has no input."),
        ("in.json", b'["a", 3]', "Row 2 of the inputs file has no input."),
        ("in.jsonl", b'{"input": "a"}\n{"input": ""}', "Row 2 of the inputs file has an empty input."),
        ("in.csv", b"input,date\na,b\ncanary-4711\n", "Row 2 of the inputs file has fewer columns than its header."),
        (
            "in.txt",
            b"a\n" + b"x" * 50_001,
            "Row 2 of the inputs file has an input of 50001 characters; at most 50000 are accepted.",
        ),
        ("in.txt", b"a\n" * 10_001, "There are 10001 examples; at most 10000 are accepted."),
        ("in.txt", b"canary-4711\0", "The inputs file is binary, not text."),
    ],
)
def test_a_file_of_inputs_that_is_not_accepted_is_refused_in_these_words(
    folder: Path, name: str, data: bytes, what: str
) -> None:
    """The same bounds as for seed files, and nothing of the content."""
    (folder / name).write_bytes(data)
    with pytest.raises(UserInputError) as caught:
        check_inputs(inputs_table(str(folder / name), [folder]))
    assert caught.value.what == what
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("path_text", ["/etc/passwd", "<zoo>/link.json", "<zoo>/.hidden.json", "rows.json"])
def test_a_file_of_inputs_is_read_from_allowed_directories_only(zoo: Path, path_text: str) -> None:
    """Its rows go to a teacher on the net, as a seed file's do."""
    with pytest.raises(UserInputError) as caught:
        check_inputs(inputs_table(path_text.replace("<zoo>", str(zoo)), [zoo]))
    assert CANARY not in str(caught.value)


def test_the_inputs_take_part_in_the_digest() -> None:
    """The same name with another file of inputs is another run."""
    made = split(_texts(10), None, 0)
    assert digest(made) == digest(made, [])
    assert len({digest(made), digest(made, ["a", "b"]), digest(made, ["b", "a"]), digest(made, ["a\nb"])}) == 4
