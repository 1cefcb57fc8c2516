"""What the demo's base model was taught leaves the task itself out, so that "before" and "after" mean something."""

import random
import re

import pytest

from nanodistill_mcp.demo import primitives, task


@pytest.fixture(scope="module")
def exercises() -> list[primitives.Exercise]:
    """A few thousand draws, as the base was trained on."""
    rng = random.Random(3)
    return [primitives.draw(rng) for _ in range(3000)]


def _answer(exercise: primitives.Exercise) -> str:
    return re.sub(r"<thinking>.*</thinking>", "", exercise.answer, flags=re.DOTALL).strip()


def test_a_queue_is_never_the_answer_to_a_question_about_meaning(exercises: list[primitives.Exercise]) -> None:
    """The base may know that a refund is money. That money goes to billing is the run's to teach."""
    about_meaning = [exercise for exercise in exercises if exercise.name not in ("copy", "pick")]
    assert about_meaning
    assert {_answer(exercise) for exercise in about_meaning}.isdisjoint(task.QUEUES)
    assert not [exercise for exercise in about_meaning if re.search(rf"so ({'|'.join(task.QUEUES)})", exercise.answer)]


def test_kinds_that_have_a_queue_have_no_place() -> None:
    """The further fact is taught about other kinds alone."""
    assert set(primitives.PLACES).isdisjoint(task.queue_of_kind())
    assert set(primitives.PLACES.values()).isdisjoint(task.QUEUES)
    assert set(primitives.PLACES) | set(task.queue_of_kind()) == set(primitives.kinds())


def test_the_base_never_saw_the_instruction_or_a_message(exercises: list[primitives.Exercise]) -> None:
    """Not a seed, not a held-out message, not a sentence the generator writes."""
    rng = random.Random(4)
    unseen = [task.INSTRUCTION, *(row["input"] for row in (*task.seeds(), *task.held_out()))]
    unseen += [task.write_message(rng, rng.choice(task.QUEUES)).core for _ in range(500)]
    taught = "\n".join(
        turn["content"] for exercise in exercises for turn in primitives.conversation(rng, exercise)
    ).lower()
    assert not [text for text in unseen if text.lower().rstrip(".?!") in taught]


def test_no_word_is_of_two_kinds() -> None:
    """A word of two kinds could not be learnt."""
    words = [word for group in primitives.kinds().values() for word in group]
    assert len(words) == len(set(words))
    assert set(words).isdisjoint(primitives.plain_words())
