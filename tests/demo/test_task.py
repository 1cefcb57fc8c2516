"""The demo's task: what is held out stays held out, and the rules solve what they claim to solve."""

import random
import re

import pytest

from nanodistill_mcp.demo import task


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))


@pytest.fixture(scope="module")
def written() -> list[task.Message]:
    """Two thousand messages, as the teacher would write them."""
    rng = random.Random(20)
    return [task.write_message(rng, task.QUEUES[index % len(task.QUEUES)]) for index in range(2000)]


def test_nothing_the_generator_writes_is_or_contains_a_held_out_message(written: list[task.Message]) -> None:
    """The demo's score is about messages the student cannot have met, not even in another frame."""
    held_out = {_words(row["input"]) for row in task.held_out()}
    for message in written:
        assert _words(message.text) not in held_out
        assert not any(_words(message.core) in text for text in held_out), message.core


def test_no_held_out_message_is_near_one_that_the_generator_writes(written: list[task.Message]) -> None:
    """Even with every word counted, a held-out core sentence never returns: half of them were written by hand."""
    bags = {frozenset(_words(message.text).split()) for message in written}
    for row in task.held_out():
        own = frozenset(_words(row["input"]).split())
        closest = max(len(own & bag) / len(own | bag) for bag in bags)
        assert closest < 1, row


def test_no_seed_is_held_out() -> None:
    """A seed that is also a question would be an answer given away."""
    assert not {_words(row["input"]) for row in task.seeds()} & {_words(row["input"]) for row in task.held_out()}


def test_the_rules_solve_every_seed_and_every_held_out_message() -> None:
    """The teacher's ceiling is 100 %: what the student misses is the student's."""
    rows = [*task.seeds(), *task.held_out()]
    assert len(task.seeds()) == 10
    assert len(task.held_out()) == 60
    assert {row["output"] for row in rows} == set(task.QUEUES)
    assert [row for row in rows if task.solve(row["input"])[1] != row["output"]] == []


def test_the_rules_agree_with_what_the_generator_meant(written: list[task.Message]) -> None:
    """Each written message is solved again without its answer; a quarrel would be dropped by the pipeline."""
    assert [m.text for m in written if task.solve(m.text)[1] != m.queue] == []


def test_messages_are_diverse_and_hold_several_clues(written: list[task.Message]) -> None:
    """One keyword a queue would need no student."""
    assert len({message.text for message in written}) > 1900
    assert len({message.core for message in written}) > 1000
    assert all(len(task.clues_in(message.text)) >= 2 for message in written)
    crossing = sum(len({kind for _, kind in task.clues_in(message.text)}) > 1 for message in written)
    assert crossing > 200


@pytest.mark.parametrize(
    ("text", "queue"),
    [
        ("The REFUND is not on my Card!", "billing"),
        ("I paid, but neither parcel nor courier came.", "delivery"),
        ("My password, or the app?", "technical"),  # a tie: the later clue decides
        ("What a lovely day.", "account"),  # no clue: a person reads it
        ("", "account"),
    ],
)
def test_any_text_gets_a_queue(text: str, queue: str) -> None:
    """The teacher is asked about whatever a user types into the demo."""
    solution, answer = task.solve(text)
    assert answer == queue
    assert solution.endswith(f"so {queue}.")


def test_the_same_draw_writes_the_same_message() -> None:
    """A resumed demo meets the same teacher."""
    first, second = (task.write_message(random.Random(5), "login") for _ in range(2))
    assert first == second
