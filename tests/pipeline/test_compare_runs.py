"""Two runs beside each other: what was changed, and whether it helped, told no surer than the rows allow."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.compare_runs import compare_runs
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.records import Example, Exit
from nanodistill_mcp.runs.store import Run, RunStore, now
from nanodistill_mcp.server.artifacts import read_page
from tests.runs.made import SEEDS, manifest


def _run(
    home: Path, name: str, right: set[int], *, rows: int = 40, first: int = 0, checker: str = "exact", **spec: Any
) -> Run:
    """A run that was evaluated: which of its held-out rows the student has right."""
    run, _ = RunStore(home).create(manifest(name, **spec), SEEDS)
    examples = [
        Example(
            id=f"g{number}", input=f"synthetic {number}", thinking="", output="x" if number else name, confidence=1.0,
            origin="synthetic", parents=[], call_ids=[],
        )
        for number in range(3)
    ]  # fmt: skip
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
    recipe = {"learning_rate": 0.001, "lora_rank": spec.get("options", {}).get("lora_rank", 16)}
    write_json(run.paths.training, {"recipe": recipe})
    table = [
        {
            "set": "held_out",
            "id": f"h{n}",
            "input": f"question {n}",
            "expected": "yes",
            "student": {"correct": n in right},
        }
        for n in range(first, first + rows)
    ]
    write_lines(run.paths.answers, table)
    write_json(run.paths.evaluation, {"checker": checker})
    return run


def test_a_difference_that_chance_explains_is_not_called_one(tmp_path: Path) -> None:
    """38 against 36 right looks better and says nothing; the user would pay for the wrong run."""
    first = _run(tmp_path, "first", set(range(38)))
    second = _run(tmp_path, "second", set(range(36)))
    found = compare_runs(first, second)
    assert found["verdict"].startswith(
        "No difference is shown: first has 38 right and second 36 of the 40 held-out rows both answered (+5.0%, 95% "
    )
    assert found["verdict"].endswith("about 120 rows would show it.")
    scores = found["scores"]["held_out"]
    assert (scores["only_one_right"], scores["shown"], scores["p_value"]) == ([2, 0], False, 0.5)
    assert scores["student"][0]["interval_95"][0] < scores["student"][1]["accuracy"]


def test_a_difference_that_chance_does_not_explain_is_told_with_its_interval(tmp_path: Path) -> None:
    """The same rows answered by both count, which tells sooner than two intervals beside each other."""
    worse, better = _run(tmp_path, "worse", set(range(28))), _run(tmp_path, "better", set(range(39)))
    found = compare_runs(worse, better)
    assert found["verdict"].startswith("better is better: worse has 28 right and better 39 of the 40 held-out rows")
    assert found["verdict"].endswith("which chance does not explain.")
    scores = found["scores"]["held_out"]
    assert scores["interval_95"][1] < 0
    assert scores["p_value"] < 0.01
    assert compare_runs(better, worse)["scores"]["held_out"]["difference"] == -scores["difference"]


def test_only_rows_that_both_answered_are_held_against_each_other(tmp_path: Path) -> None:
    """Another split asks other questions: a student is not better because its questions were easier."""
    first = _run(tmp_path, "first", set(range(40)))
    second = _run(tmp_path, "second", set(range(30, 70)), first=30)
    scores = compare_runs(first, second)["scores"]["held_out"]
    assert (scores["rows"], scores["rows_in_both"], scores["right_in_both"]) == ([40, 40], 10, [10, 10])
    apart = _run(tmp_path, "apart", set(range(100, 140)), first=100)
    assert compare_runs(first, apart)["verdict"].endswith("cannot be held against each other: the two share no row.")


def test_answers_judged_by_different_checkers_are_not_held_against_each_other(tmp_path: Path) -> None:
    """A stricter checker makes a worse score of the same answers."""
    first, second = _run(tmp_path, "first", {1}), _run(tmp_path, "second", set(range(40)), checker="normalized")
    assert compare_runs(first, second)["verdict"].endswith("by different checkers: exact, normalized.")


def test_an_evaluation_older_than_its_student_says_nothing_of_it(tmp_path: Path) -> None:
    """A student that was trained again since is another one."""
    first, second = _run(tmp_path, "first", {1}), _run(tmp_path, "second", {1})
    os.utime(second.paths.evaluation, (1, 1))
    assert "is older than its student" in compare_runs(first, second)["verdict"]
    second.paths.evaluation.unlink()
    assert compare_runs(first, second)["verdict"].endswith("not evaluated: second.")


def test_what_was_asked_and_trained_differently_stands_beside_each_other(tmp_path: Path) -> None:
    """What helped is only known when it is known what was changed."""
    first = _run(tmp_path, "first", {1})
    changed: dict[str, Any] = {"preset": "quick", "options": {"lora_rank": 8}, "instruction": "S" * 400}
    second = _run(tmp_path, "second", {1}, **changed)
    job = second.paths.jobs / "001-train"
    job.mkdir()
    write_json(job / "exit.json", Exit(outcome="done", ended_at=now(), elapsed_s=12.34).model_dump())
    found = compare_runs(first, second)
    assert found["asked_differently"] == {
        "instruction": ["Sort the ticket.", "S" * 300 + "..."],
        "preset": ["recommended", "quick"],
        "options.lora_rank": [None, 8],
    }
    assert found["trained_differently"] == {"lora_rank": [16, 8]}
    assert found["data"]["examples"] == [3, 3]
    assert (found["data"]["examples_in_both"], found["data"]["of_them_answered_alike"]) == (3, 2)
    assert found["took"][1]["elapsed_s"] == {"train": 12.3}


def test_the_comparison_is_read_as_an_artifact_and_names_the_runs_there_are(tmp_path: Path) -> None:
    """An agent needs no further tool for it."""
    first, _ = _run(tmp_path, "first", {1}), _run(tmp_path, "second", {1})
    assert json.loads(read_page(first, "compare/second", 0, 40_000).text)["runs"] == ["first", "second"]
    with pytest.raises(UserInputError, match="Known runs: second, first"):
        read_page(first, "compare/third", 0, 0)
    with pytest.raises(UserInputError, match="no run"):
        read_page(first, "compare/../first", 0, 0)
    with pytest.raises(UserInputError, match="the same run"):
        read_page(first, "compare/first", 0, 0)
