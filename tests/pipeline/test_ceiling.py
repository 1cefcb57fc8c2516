"""What the teacher's agreement with the given answers says: go on, look, or stop."""

from typing import Literal

import pytest

from nanodistill_mcp.pipeline.ceiling import ceiling, decide
from nanodistill_mcp.runs.records import Trace


def trace(
    number: int, *, confidence: float = 1.0, split: Literal["train", "held_out"] = "train", derived: bool = False
) -> Trace:
    """A seed as the teacher solved it."""
    return Trace(
        id=f"s{number}",
        input=f"input {number}",
        thinking="Derived." if derived else "Own.",
        teacher_thinking="Own." if derived else "",
        output="billing",
        teacher_output="billing" if confidence else "delivery",
        agrees=confidence > 0,
        derived=derived,
        objection="It speaks of a parcel." if derived else "",
        confidence=confidence,
        split=split,
        call_ids=["c"],
    )


@pytest.mark.parametrize(
    ("agree", "solved", "decision"),
    [
        (10, 10, "proceed"),
        (8, 10, "proceed"),
        (7, 10, "look"),
        (5, 10, "look"),
        (4, 10, "stop"),
        (0, 3, "stop"),
        (0, 0, "stop"),
        (62, 100, "look"),
        (60, 100, "stop"),
        (80, 100, "proceed"),
    ],
)
def test_the_more_was_tried_the_surer_the_decision(agree: int, solved: int, decision: str) -> None:
    """Six of ten may be bad luck; sixty of a hundred is a teacher that cannot do the task as it is described."""
    assert decide(agree, solved) == decision


def test_held_out_seeds_count_as_well_and_a_second_try_does_not() -> None:
    """The teacher saw the answer to neither; what it finds at the second try, a student would not."""
    found = ceiling([trace(1), trace(2, confidence=0.5), trace(3, split="held_out"), trace(4, split="held_out")])

    assert (found["agree"], found["solved"]) == (3, 4)
    assert found["train"]["agree"] == 1
    assert found["held_out"]["interval_95"][0] < 1.0
    assert [row["id"] for row in found["disagreements"]] == ["s2"]
    assert found["disagreements"][0]["right_at_second_try"]


def test_disagreements_stand_side_by_side_with_the_teachers_own_solution() -> None:
    """A person has to see what the teacher thought, not the solution that was written towards the given answer."""
    (row,) = ceiling([trace(1, confidence=0.0, derived=True)])["disagreements"]

    assert (row["given"], row["teacher"], row["teacher_solution"]) == ("billing", "delivery", "Own.")
    assert row["objection"] == "It speaks of a parcel."
    assert row["kept_with_derived_solution"]


def test_an_agent_that_wrote_the_answers_down_itself_is_no_blind_teacher() -> None:
    """With the chat as the teacher its agreement may be a memory, and nobody can tell from the number."""
    assert "may have seen" in ceiling([trace(1)], may_have_seen_answers=True)["why"]
    assert "may have seen" not in ceiling([trace(1)])["why"]
