"""The rows a student is trained on: which teach reasoning, which the answer alone, and in what form."""

from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.pipeline.dataset import build_dataset, mode_of
from nanodistill_mcp.pipeline.thinking import FORMATS, part
from nanodistill_mcp.runs.files import read_json, read_lines, write_lines
from nanodistill_mcp.runs.records import Example, ThinkingFormat
from nanodistill_mcp.runs.store import Run, RunStore
from tests.runs.made import SEEDS, manifest

_ROWS = 400


def _built(home: Path, *, thinks_natively: bool = False, **spec: Any) -> tuple[Run, dict[str, str]]:
    """A run whose dataset was built, and what its student is taught to write for each input."""
    asked = manifest(**spec).model_copy(update={"student_thinks_natively": thinks_natively})
    run, _ = RunStore(home).create(asked, SEEDS)
    examples = [
        Example(
            id=f"g{i}",
            input=f"question {i}",
            thinking=f"because {i}",
            output=f"answer {i}",
            confidence=1.0,
            origin="synthetic",
            parents=[],
            call_ids=[],
        )
        for i in range(_ROWS)
    ]
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
    build_dataset(run, 0.1)
    rows = [row for name in ("train", "valid", "test") for row in read_lines(run.paths.dataset / f"{name}.jsonl")]
    return run, {row["messages"][1]["content"]: row["messages"][2]["content"] for row in rows}


def test_direct_rows_hold_the_answer_and_no_reasoning(home: Path) -> None:
    """System 1: a student that is to answer at once must not be taught to write anything before."""
    run, targets = _built(home, reasoning="direct")
    assert targets == {f"question {i}": f"answer {i}" for i in range(_ROWS)}
    counts: Any = read_json(run.paths.dataset / "manifest.json")
    assert {part["with_reasoning"] for part in counts["files"].values()} == {0}


def test_cot_rows_all_hold_their_reasoning(home: Path) -> None:
    """System 2."""
    _, targets = _built(home, reasoning="cot")
    assert targets == {f"question {i}": f"<thinking>\nbecause {i}\n</thinking>\nanswer {i}" for i in range(_ROWS)}


@pytest.mark.parametrize(("share", "options"), [(0.5, {}), (0.25, {"cot_share": 0.25}), (0.9, {"cot_share": 0.9})])
def test_mixed_rows_keep_the_share_that_was_asked_for(home: Path, share: float, options: dict[str, Any]) -> None:
    """Short answers for small students, reasoning where it pays: the ratio is the user's to set."""
    run, targets = _built(home, reasoning="mixed", options=options)
    with_reasoning = {text for text, target in targets.items() if part(target, "xml")[0]}
    assert len(with_reasoning) / _ROWS == pytest.approx(share, abs=0.08)
    assert all(part(target, "xml")[1] == text.replace("question", "answer") for text, target in targets.items())
    assert with_reasoning == {text for text in targets if mode_of(text, run.manifest.spec) == "cot"}
    counts: Any = read_json(run.paths.dataset / "manifest.json")
    assert sum(part["with_reasoning"] for part in counts["files"].values()) == len(with_reasoning)


@pytest.mark.parametrize(("share", "mode"), [(0, "direct"), (1, "cot")])
def test_the_ends_of_the_range_are_one_mode_alone(share: float, mode: str) -> None:
    """A share of nothing must not leave one row over."""
    spec = manifest(reasoning="mixed", options={"cot_share": share}).spec
    assert {mode_of(f"question {i}", spec) for i in range(_ROWS)} == {mode}


def test_a_row_that_had_its_reasoning_keeps_it_when_the_share_grows() -> None:
    """What was paid for at a small share is part of a larger one."""
    taught: list[set[str]] = []
    for share in (0.2, 0.5, 0.8):
        spec = manifest(reasoning="mixed", options={"cot_share": share}).spec
        taught.append({f"question {i}" for i in range(_ROWS) if mode_of(f"question {i}", spec) == "cot"})
    assert taught[0] < taught[1] < taught[2]


@pytest.mark.parametrize("form", FORMATS)
def test_the_form_that_was_asked_for_is_what_the_student_learns_to_write(home: Path, form: ThinkingFormat) -> None:
    """And its manifest says which, for whoever reads the rows."""
    run, targets = _built(home, options={"thinking_format": form})
    assert {part(target, form) for target in targets.values()} == {
        (f"because {i}", f"answer {i}") for i in range(_ROWS)
    }
    written: Any = read_json(run.paths.dataset / "manifest.json")
    assert written["thinking_format"] == form


def test_a_student_with_tags_of_its_own_is_taught_with_them_unless_asked_otherwise(home: Path) -> None:
    """It knows them already."""
    _, targets = _built(home, thinks_natively=True)
    assert targets["question 1"] == "<think>\nbecause 1\n</think>\nanswer 1"
    _, targets = _built(home, run_id="other", thinks_natively=True, options={"thinking_format": "plain"})
    assert targets["question 1"] == "Reasoning: because 1\n\nAnswer: answer 1"


def _split(home: Path, examples: list[Example], val_split: float = 0.2) -> dict[str, Any]:
    """The rows of each part by id, and by what they were kept together."""
    run, _ = RunStore(home).create(manifest(), SEEDS)
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
    build_dataset(run, val_split)
    parts: dict[str, Any] = {
        name: [row["id"] for row in read_lines(run.paths.dataset / f"{name}.jsonl")]
        for name in ("train", "valid", "test")
    }
    written: Any = read_json(run.paths.dataset / "manifest.json")
    return {**parts, "split_by": written["split_by"]}


def _example(id_: str, parents: list[str], call: str) -> Example:
    return Example(
        id=id_,
        input=f"question {id_}",
        thinking="",
        output="yes",
        confidence=1.0,
        origin="seed" if parents == [id_] else "synthetic",
        parents=parents,
        call_ids=[call, f"solve {id_}"],
    )


def test_rows_of_one_seed_are_never_on_both_sides(home: Path) -> None:
    """A validation row whose twin was trained on measures memory, and the wrong checkpoint is taken for the best."""
    seeds = [f"s{number}" for number in range(30)]
    examples = [_example(seed, [seed], seed) for seed in seeds]
    examples += [
        _example(f"g{i}-{n}", [seeds[i], seeds[(i + n) % 3 + i // 3 * 3]], f"c{i}") for i in range(30) for n in range(4)
    ]
    parts = _split(home, examples)
    assert parts["split_by"] == "seed"
    parents = {example.id: set(example.parents) for example in examples}
    sides = [set[str]().union(*(parents[id_] for id_ in parts[name])) for name in ("train", "valid", "test")]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert sorted(id_ for name in ("train", "valid", "test") for id_ in parts[name]) == sorted(parents)
    assert 0.1 * len(examples) < len(parts["valid"]) < 0.3 * len(examples)
    assert len(parts["test"]) > 0


def test_where_every_call_was_shown_most_seeds_the_rows_of_one_call_stay_together(home: Path) -> None:
    """With ten seeds and six of them in every prompt no seed could be kept apart; rows written in one breath are the nearest."""
    seeds = [f"s{number}" for number in range(8)]
    examples = [_example(seed, [seed], seed) for seed in seeds]
    examples += [_example(f"g{i}-{n}", seeds[: i % 3 + 5], f"c{i}") for i in range(20) for n in range(8)]
    parts = _split(home, examples)
    assert parts["split_by"] == "call"
    calls = [{id_.split("-")[0] for id_ in parts[name]} for name in ("train", "valid", "test")]
    assert not calls[0] & calls[1]
    assert not calls[0] & calls[2]
    assert not calls[1] & calls[2]
    assert set(seeds) <= set(parts["train"])
    assert len(parts["valid"]) == pytest.approx(0.2 * (len(examples) - len(parts["test"])), abs=8)


@pytest.mark.parametrize("rows", [1, 2, 19])
def test_few_rows_are_all_trained_on(home: Path, rows: int) -> None:
    """A validation set of one or two rows says nothing."""
    parts = _split(home, [_example(f"g{n}-0", [], f"c{n}") for n in range(rows)])
    assert (len(parts["train"]), parts["valid"], parts["test"]) == (rows, [], [])


@pytest.mark.parametrize("rows", [20, 21, 33, 100])
def test_at_least_half_of_the_rows_are_trained_on_however_they_hang_together(home: Path, rows: int) -> None:
    """Large groups must not eat the training set."""
    for size in (1, 3, 8, 20):
        examples = [_example(f"g{n // size}-{n}", ["s0", "s1"], f"c{n // size}") for n in range(rows)]
        parts = _split(home / str(size), examples, val_split=0.1)
        assert len(parts["train"]) >= rows / 4, size
        assert len(parts["train"]) + len(parts["valid"]) + len(parts["test"]) == rows
