"""What each new input is to be like: a cell of topic, difficulty, length, persona and, for tasks with a fixed list, answer."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from nanodistill_mcp.runs.records import TaskPolicy

DIFFICULTIES = ("easy", "medium", "hard")

Cell = dict[str, str]


def cell(policy: TaskPolicy, number: int) -> Cell:
    """The cell of the ``number``-th input that is asked for.

    Each dimension is gone through in full before any of its values comes again, in an order of its own each time round.
    So every value has the same share, however few inputs are asked for, and all combinations come up in the long run.
    """
    dimensions: dict[str, Sequence[str]] = {
        "answer": policy.choices if policy.checker == "choice" else (),
        "topic": policy.topics,
        "difficulty": DIFFICULTIES,
        "length": _lengths(policy.input_length_range),
        "persona": policy.personas,
    }
    return {name: _turn(name, values, number) for name, values in dimensions.items() if values}


def _turn(name: str, values: Sequence[str], number: int) -> str:
    turn, place = divmod(number, len(values))
    order = sorted(range(len(values)), key=lambda i: hashlib.sha256(f"{name}\0{turn}\0{i}".encode()).digest())
    return values[order[place]]


def _lengths(limits: tuple[int, int]) -> list[str]:
    """Three ranges of characters between the shortest and the longest input, each as many times longer than the last."""
    shortest, longest = max(1, limits[0]), max(1, *limits)
    step = (longest / shortest) ** (1 / 3)
    if step < 1.1:  # noqa: PLR2004 - all inputs are of one length: there is nothing to spread over
        return []
    bounds = [round(shortest * step**i) for i in range(4)]
    return [f"{low} to {high} characters" for low, high in pairwise(bounds)]
