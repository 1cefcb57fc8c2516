"""A verdict says what the rows allow to be said, and a difference is real only when chance does not explain it."""

from typing import Any

import pytest

from nanodistill_mcp.pipeline.evaluate import compared, score
from nanodistill_mcp.pipeline.statistics import Paired, paired, rows_needed
from nanodistill_mcp.pipeline.verdicts import judged


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (10, 2, 158 / 4096), (2, 10, 158 / 4096), (5, 0, 2 / 32), (6, 0, 2 / 64), (7, 7, 1.0)],
)
def test_the_exact_test_of_mcnemar_counts_the_rows_that_differ(
    only_first: int, only_second: int, p_value: float
) -> None:
    """Binomial tails worked out by hand; rows that both have right say nothing of which is better."""
    for rows in (14, 1000):
        assert Paired(rows, only_first, only_second).p_value == pytest.approx(p_value)


def test_the_interval_of_a_difference_holds_it_and_narrows_with_rows() -> None:
    """The same each time, or a verdict would change when it is asked for again."""
    few, many = Paired(40, 14, 4), Paired(400, 140, 40)

    assert few.interval() == Paired(40, 14, 4).interval()
    assert few.interval()[0] < few.difference == many.difference < few.interval()[1]
    assert many.interval()[1] - many.interval()[0] < 0.4 * (few.interval()[1] - few.interval()[0])
    assert Paired(40, 0, 0).interval() == (0.0, 0.0)


def test_only_rows_that_were_asked_are_compared() -> None:
    """The teacher answers fewer rows than the student."""
    assert paired({"a", "b", "x"}, {"b", "c", "y"}, ["a", "b", "c", "d"]) == Paired(4, 1, 1)


def test_rows_needed_are_those_from_which_the_same_difference_shows() -> None:
    """Who is told "too few" wants to know how many."""
    needed = rows_needed(Paired(10, 3, 0))

    assert needed == 20
    assert rows_needed(Paired(10, 2, 2)) is None


def evaluation(rows: int, student: int, base: int, teacher: int | None = None) -> dict[str, Any]:
    """A held-out set of which each model has the first so many rows right."""
    ids = [str(number) for number in range(rows)]
    asked = [(row, "", "") for row in ids]
    right = {"student": set(ids[:student]), "base": set(ids[:base]), "teacher": set(ids[: teacher or 0])}
    part: dict[str, Any] = {name: score(asked, right[name]) for name in ("student", "base")}
    part["student_against_base"] = compared(right, "base", ids)
    if teacher is not None:
        part["teacher"] = score(asked, right["teacher"])
        part["student_against_teacher"] = compared(right, "teacher", ids)
    return {"held_out": part}


@pytest.mark.parametrize(
    ("summary", "decision", "words"),
    [
        pytest.param(evaluation(60, 57, 0, 60), "ship", "The student is better than its base", id="good"),
        pytest.param(evaluation(60, 57, 0), "ship", "The student is better than its base", id="no teacher asked"),
        pytest.param(
            evaluation(60, 40, 10, 60), "iterate", "the teacher, right in 100%, is better still", id="halfway"
        ),
        pytest.param(evaluation(60, 10, 30, 60), "stop", "The student is worse than its base", id="worse"),
        pytest.param(evaluation(60, 12, 10, 12), "stop", "The teacher is not good enough, right in 20%", id="teacher"),
        pytest.param(evaluation(200, 181, 180, 190), "stop", "The base may be as good already", id="no gain"),
        pytest.param(evaluation(10, 8, 5, 10), "too_few", "about 10 more would do", id="few"),
        pytest.param(evaluation(10, 5, 5, 10), "too_few", "hold out 100 or more", id="few and equal"),
    ],
)
def test_the_verdict_is_ship_iterate_stop_or_too_few(summary: dict[str, Any], decision: str, words: str) -> None:
    """One word for a script, one sentence for a person, and neither says more than the rows do."""
    found = judged(summary)

    assert found.decision == decision
    assert words in found.words
