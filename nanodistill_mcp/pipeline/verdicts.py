"""What a comparison allows to be said, in one word for a program and a few for a person: no difference is called real that is not."""

from dataclasses import dataclass
from typing import Any, Literal

from nanodistill_mcp.pipeline.statistics import SIGNIFICANT_BELOW, Paired, rows_needed

Decision = Literal["ship", "iterate", "stop", "too_few"]

_TEACHES_FROM = 0.5
"""A teacher that is right in fewer than half of the held-out examples cannot bring a student far."""
_ENOUGH = 100
"""Rows from which a difference that does not show is too small to matter to most: 20 to 30 points would show in nearly all draws."""


@dataclass(frozen=True)
class Verdict:
    """A decision, and the sentence that gives its reason."""

    decision: Decision
    words: str


def judged(summary: dict[str, Any]) -> Verdict:
    """Judge an evaluation: the user's held-out examples where there are any, else the synthetic ones.

    Ship a student that is better than its base and not shown to be worse than its teacher. Iterate where it is better than
    its base, and the teacher better still. Stop where many rows show no gain, or the teacher itself fails. Else say how
    many rows would tell.
    """
    name = "held_out" if "held_out" in summary else "synthetic"
    part = summary[name]
    if "student_against_parent" not in part:
        return _judged_alone(name, part)
    pair = _pair(part["student_against_parent"], "parent")
    passed = part["passed_before"]
    kept = f"of {passed['rows']} examples its parent had right it has {passed['still']}"
    if pair.p_value < SIGNIFICANT_BELOW and pair.difference < 0:
        return Verdict("stop", f"The student is worse than its parent, which is the one to keep: {kept}.")
    alone = _judged_alone(name, part)
    is_better = pair.p_value < SIGNIFICANT_BELOW
    told = "better than its parent" if is_better else "not shown to differ from its parent"
    return Verdict(alone.decision, f"{alone.words} It is {told}: {kept}, and {pair.only_first} more.")


def _judged_alone(name: str, part: dict[str, Any]) -> Verdict:
    student: dict[str, Any] = part["student"]
    teacher: dict[str, Any] | None = part.get("teacher")
    numbers = _numbers(
        part, "held-out examples" if name == "held_out" else "synthetic examples (no real one was held out)"
    )
    base = _pair(part["student_against_base"], "base")
    better = base.p_value < SIGNIFICANT_BELOW and base.difference > 0
    worse = base.p_value < SIGNIFICANT_BELOW and base.difference < 0
    if worse:
        return Verdict("stop", f"The student is worse than its base: {numbers}.")
    if not better:
        return _not_better(base, student["rows"], teacher, numbers)
    if teacher is not None:
        pair = _pair(part["student_against_teacher"], "teacher")
        if pair.p_value < SIGNIFICANT_BELOW and pair.difference < 0:
            told = f"the teacher, right in {teacher['accuracy']:.0%}, is better still: look at the failures"
            return Verdict("iterate", f"The student is better than its base: {numbers}; {told}.")
    return Verdict("ship", f"The student is better than its base: {numbers}.")


def _not_better(base: Paired, rows: int, teacher: dict[str, Any] | None, numbers: str) -> Verdict:
    if teacher is not None and teacher["interval_95"][1] < _TEACHES_FROM:
        words = f"The teacher is not good enough, right in {teacher['accuracy']:.0%}: {numbers}."
        return Verdict("stop", words)
    if rows >= _ENOUGH:
        return Verdict("stop", f"No difference to the base can be shown: {numbers}. The base may be as good already.")
    needed = rows_needed(base) if base.difference > 0 else None
    more = (
        f"about {needed - rows} more would do"
        if needed is not None and needed > rows
        else f"hold out {_ENOUGH} or more"
    )
    return Verdict("too_few", f"Too few examples to tell: {numbers}. With evaluate(test_path=...), {more}.")


def _pair(compared: dict[str, Any], other: str) -> Paired:
    return Paired(compared["rows"], compared["only_student"], compared[f"only_{other}"])


def _numbers(part: dict[str, Any], where: str) -> str:
    student, low_high = part["student"], part["student"]["interval_95"]
    return (
        f"student {student['accuracy']:.0%} ({low_high[0]:.0%}-{low_high[1]:.0%}), "
        f"base {part['base']['accuracy']:.0%} on {student['rows']} {where}"
    )
