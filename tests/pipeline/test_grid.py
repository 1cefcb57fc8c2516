"""The cells that new inputs are asked for."""

from collections import Counter

from nanodistill_mcp.pipeline.grid import cell
from nanodistill_mcp.runs.records import TaskPolicy


def policy(**fields: object) -> TaskPolicy:
    """A policy with fields of its own."""
    base = {
        "task_description": "t",
        "input_format": "i",
        "output_format": "o",
        "reasoning_style": "r",
        "key_constraints": [],
        "difficulty_level": "mixed",
        "reasoning_patterns": [],
        "examples_summary": "e",
        "input_length_range": (20, 160),
        "output_length_range": (1, 9),
        "checker": "choice",
        "choices": ["a", "b", "c", "d", "e"],
        "topics": ["parcels", "refunds", "logins", "returns"],
        "personas": ["a buyer", "a seller"],
    }
    return TaskPolicy.model_validate({**base, **fields})


def test_every_value_of_every_dimension_comes_up_equally_often() -> None:
    """A student that saw one label twice as often learns to guess it."""
    cells = [cell(policy(), number) for number in range(60)]

    for name, count in (("answer", 12), ("topic", 15), ("difficulty", 20), ("length", 20), ("persona", 30)):
        assert set(Counter(each[name] for each in cells).values()) == {count}, name


def test_dimensions_do_not_move_in_step() -> None:
    """Else all hard inputs would be long ones, and a label would be known by its topic."""
    cells = [cell(policy(), number) for number in range(180)]

    assert len({(each["difficulty"], each["length"]) for each in cells}) == 9
    assert len({(each["answer"], each["topic"]) for each in cells}) == 20


def test_the_same_number_is_always_the_same_cell() -> None:
    """The prompt is made of it, and what was asked before must be found in the journal."""
    assert cell(policy(), 7) == cell(policy(), 7)


def test_lengths_part_the_range_of_the_policy_and_a_single_length_is_no_dimension() -> None:
    """Characters, so that a model can be held to them."""
    assert {cell(policy(), number)["length"] for number in range(3)} == {
        "20 to 40 characters",
        "40 to 80 characters",
        "80 to 160 characters",
    }
    assert "length" not in cell(policy(input_length_range=(50, 50)), 0)


def test_what_a_policy_does_not_have_is_not_asked_for() -> None:
    """A policy of an earlier release names neither topics nor personas, and free text has no list of answers."""
    plain = policy(checker="normalized", choices=[], topics=[], personas=[])
    assert cell(plain, 0).keys() == {"difficulty", "length"}
