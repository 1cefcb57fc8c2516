"""Published distillation data as a run: which rows are taken, which are not and why, and what becomes of them."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.data_files import data_rows
from nanodistill_mcp.pipeline.import_data import Imported, Wanted, import_rows, select, shares
from nanodistill_mcp.pipeline.scored_rows import scored_row

WORDS = (
    *("apple", "river", "stone", "cloud", "garden", "window", "paper", "silver"),
    *("mountain", "candle", "forest", "bridge", "yellow", "winter", "pencil"),
)


def _record(cd: int, rv: int, text: str, *, correct: object = True) -> dict[str, Any]:
    """One reasoning record as OmniThought documents it."""
    return {
        "thought": f"thinking of {text}",
        "solution": f"solution of {text}",
        "full_response": f"<think>thinking of {text}</think>solution of {text}",
        "teacher": "DeepSeek-R1",
        "thought_correctness_verify": correct,
        "Reasoning_Verbosity": {"judge": "QwQ-32B", "level": rv},
        "Cognitive_Difficulty": {"judge": "QwQ-32B", "level": cd},
    }


def _question(number: int) -> str:
    """No two of them are near copies."""
    first, second, third = number % 15, number // 15 % 15, number // 225 % 15
    return f"{WORDS[first]} {WORDS[second]} of the {WORDS[third]} {number}?"


def omnithought(count: int) -> list[dict[str, Any]]:
    """Rows whose difficulty goes round from 0 to 9, with two records each: a short one, and one of verbosity 7."""
    return [
        {"question": _question(i), "reasoning": [_record(i % 10, 2, f"{i} short"), _record(i % 10, 7, f"{i} long")]}
        for i in range(count)
    ]


def _imported(rows: list[Any], **wanted: Any) -> Imported:
    asked = Wanted(**wanted)
    return import_rows(select(rows, asked), asked, "Answer the question.", {"file": "rows.jsonl"})


@pytest.mark.parametrize(
    ("row", "question", "thinking", "output"),
    [
        ({"instruction": "Why?", "output": "So."}, "Why?", "", "So."),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2", "", "3"),
        ({"question": "q", "answer": 8}, "q", "", "8"),
        ({"question": "q", "reasoning": "r", "answer": "a", "source": "x"}, "q", "r", "a"),
        ({"problem": "q", "response": "<think>\nr\n</think>\n\na"}, "q", "r", "a"),
        (
            {
                "instruction": "q",
                "response": "<|begin_of_thought|>r<|end_of_thought|><|begin_of_solution|>a<|end_of_solution|>",
                "cognitive_difficulty": 4,
            },
            "q",
            "r",
            "a",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>r</think>a"}]},
            "q",
            "r",
            "a",
        ),
        ({"input": "q", "thinking": "r", "output": "a", "confidence": 1}, "q", "r", "a"),
        ({"question": "q", "reasoning": [{"full_response": "<think>r</think>a"}]}, "q", "r", "a"),
        ({"question": "q", "reasoning": [_record(1, 1, "x")]}, "q", "thinking of x", "solution of x"),
    ],
)
def test_rows_of_each_program_are_a_question_a_reasoning_and_an_answer(
    row: dict[str, Any], question: str, thinking: str, output: str
) -> None:
    """DistilQwen's, OmniThought's, EasyDistill 2's before and after scoring, chats, NanoDistill's own."""
    before = json.dumps(row)
    read = scored_row(row)
    assert read is not None
    assert (read.question, read.answers[0].thinking, read.answers[0].output) == (question, thinking, output)
    assert json.dumps(row) == before


@pytest.mark.parametrize(
    "row", [None, [], "text", {}, {"question": "q"}, {"output": "a"}, {"question": "q", "reasoning": []}]
)
def test_a_row_without_both_is_none(row: Any) -> None:
    """Nothing is made up for it."""
    assert scored_row(row) is None


def test_of_each_question_the_first_answer_within_the_levels_is_taken() -> None:
    """The EasyDistill app fell back to the first one where none passed, and held one level against the other's bound."""
    found = select(omnithought(100), Wanted(verbosity=(3, 10), difficulty=(4, 8), held_out=0))
    assert len(found.chosen) == 50
    assert {each.answer.verbosity for each in found.chosen} == {7}
    assert {each.answer.difficulty for each in found.chosen} == {4, 5, 6, 7, 8}
    assert all(each.answer.output.endswith("long") for each in found.chosen)
    assert found.left_out == {"outside the levels that were asked for": 50}


def test_levels_are_numbers_objects_or_shares_and_a_row_without_them_does_not_pass_a_filter() -> None:
    """The same data is published with judges and without, from 0 to 9 and from 0 to 1."""
    rows: list[Any] = [
        {"question": "aa", "answer": "x", "Cognitive_Difficulty": {"level": 6}},
        {"question": "bb", "answer": "x", "cognitive_difficulty": 6},
        {"question": "cc", "answer": "x", "cd_score": 0.6},
        {"question": "dd", "answer": "x", "cognitive_difficulty": "6"},
        {"question": "ee", "answer": "x"},
        {"question": "ff", "answer": "x", "cognitive_difficulty": None},
        {"question": "gg", "answer": "x", "cognitive_difficulty": True},
    ]
    found = select(rows, Wanted(difficulty=(6, 10), held_out=0))
    assert [each.question for each in found.chosen] == ["aa", "bb", "cc", "dd"]
    assert found.left_out == {"without the levels that were asked for": 3}
    assert len(select(rows, Wanted(held_out=0)).chosen) == 7


@pytest.mark.parametrize("word", [False, 0, "FALSE", "incorrect", "no"])
def test_what_a_judge_called_wrong_is_never_taken(word: object) -> None:
    """It is published so that others may learn from it, and a student would."""
    bad, good = _record(3, 3, "bad", correct=word), _record(3, 3, "good")
    [chosen] = select([{"question": "q", "reasoning": [bad, good]}], Wanted(held_out=0)).chosen
    assert chosen.answer.output == "solution of good"
    assert select([{"question": "q", "reasoning": [bad]}], Wanted(held_out=0)).left_out == {"judged wrong": 1}


@pytest.mark.parametrize(
    ("per_bin", "wanted"),
    [("20", {0: 20, 1: 20, 2: 20}), ("5,10,40", {0: 5, 1: 10, 2: 40}), ("20%,30%,50%", {0: 20, 1: 30, 2: 50})],
)
def test_bins_of_difficulty_hold_the_rows_that_were_asked_for(per_bin: str, wanted: dict[int, int]) -> None:
    """Hard rows are rare or common in a file; a student needs the mix that its user wants, also beside held-out rows."""
    bins = (0.0, 3.0, 6.0, 10.0)
    made = _imported(omnithought(1000), bins=bins, per_bin=shares(per_bin, bins, 100), limit=100, held_out=10)
    assert Counter(example.checks["cd_bin"] for example in made.examples) == wanted
    assert made.facts["by_bin"] == {"0 to 3": wanted[0], "3 to 6": wanted[1], "6 to 10": wanted[2]}
    assert sum(seed.split == "held_out" for seed in made.seeds) == 10
    levels = {example.checks["cd_bin"]: set[float]() for example in made.examples}
    for example in made.examples:
        levels[example.checks["cd_bin"]].add(example.checks["cd"])
    assert levels == {0: {0, 1, 2}, 1: {3, 4, 5}, 2: {6, 7, 8, 9}}


@pytest.mark.parametrize("per_bin", ["many", "1,2", "20%,80%", "-1", "10%,20,30"])
def test_a_cap_that_fits_no_bins_is_refused(per_bin: str) -> None:
    """A typing error must not be a mix nobody asked for."""
    with pytest.raises(UserInputError, match="per-bin"):
        shares(per_bin, (0.0, 3.0, 6.0, 10.0), 100)


def test_repetitions_near_copies_and_what_gives_a_held_out_row_away_are_left_out() -> None:
    """The same cleaning as amplify's: what is proved must not have been learnt."""
    rows = omnithought(60)
    rows.insert(1, {**rows[0], "question": f" {rows[0]['question'].upper()} "})
    near = "a man walks along the old river road to the town and counts all the trees he sees on his way"
    rows += [{"question": near, "output": "many"}, {"question": f"{near} home", "output": "many"}]
    made = _imported(rows, held_out=10)
    assert made.facts["left_out"]["an input that was there before"] == 1
    assert made.facts["left_out"]["a near copy of another"] == 1
    held_out = [seed.input for seed in made.seeds if seed.split == "held_out"]
    given_away = [{"question": f"Please answer: {text} Thanks.", "output": "x"} for text in held_out]
    again = _imported([*rows, *given_away], held_out=10)
    kept = [seed.input for seed in again.seeds if seed.split == "held_out"]
    trained = {example.input for example in again.examples}
    assert not [text for text in kept for other in trained if text in other]
    assert again.facts["left_out"]["like a held-out one"] >= 1


def test_what_is_made_of_it_costs_nothing_and_says_where_it_is_from() -> None:
    """The run's ledger is the teacher's; somebody else paid for these."""
    made = _imported(omnithought(40), held_out=5)
    assert len(made.examples) == 35
    assert {example.cost_usd for example in made.examples} == {0}
    assert {tuple(example.call_ids) for example in made.examples} == {()}
    assert Counter(example.origin for example in made.examples) == {"seed": 10, "labelled": 25}
    assert made.examples[0].checks["imported"] is True
    assert made.examples[0].checks["teacher"] == "DeepSeek-R1"
    assert made.facts["file"] == "rows.jsonl"
    assert made.facts["teachers"] == {"DeepSeek-R1": 35}
    with pytest.raises(UserInputError, match=r"Only 0 rows are left to train on \(40 outside the levels"):
        _imported(omnithought(40), difficulty=(9.5, 10.0))


def test_reading_stops_when_there_is_enough(tmp_path: Path) -> None:
    """A file of the hub has a million rows; a hundred are wanted."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in omnithought(500)), encoding="utf-8")
    rows = data_rows(path)
    assert len(select(rows, Wanted(limit=20, held_out=5)).chosen) == 25
    assert sum(1 for _ in rows) == 475


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_every_notation_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """A line that is not JSON is a row that is none."""
    rows = [{"question": _question(i), "answer": f"a{i}"} for i in range(3)]
    texts = {
        "rows.jsonl": "\ufeff" + "\r\n\n".join(map(json.dumps, rows)) + "\n{torn",
        "rows.json": json.dumps(rows),
        "rows.csv": "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in rows),
    }
    (tmp_path / name).write_text(texts[name], encoding="utf-8")
    assert [row for row in data_rows(tmp_path / name) if row] == rows


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("rows.txt", b"x", "ends in none of"),
        ("rows.json", b"{}", "not a JSON array"),
        ("rows.json", b"[", "not a JSON array"),
        ("absent.jsonl", None, "There is no such file"),
        ("rows.parquet", b"PAR2", "not Parquet" if importlib.util.find_spec("pyarrow") else "pip install pyarrow"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, name: str, data: bytes | None, told: str) -> None:
    """Parquet needs a package that is not brought along; the words say which."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserInputError, match=told):
        list(data_rows(tmp_path / name))


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path: Path) -> None:
    """As OmniThought is published: nested lists of records."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not brought along")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(omnithought(150)), tmp_path / "rows.parquet", row_group_size=40)
    assert list(data_rows(tmp_path / "rows.parquet")) == omnithought(150)
