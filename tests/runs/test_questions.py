"""The questions to the calling agent: handed out once, in pages that fit, and answered once."""

import os
import threading
import time
from pathlib import Path

import pytest

from nanodistill_mcp.runs.questions import LEASE_S, Given, Question, Questions
from nanodistill_mcp.runs.records import ProcessIdentity

ME = ProcessIdentity(pid=1, start_ticks=1.0, boot_id="b")
JOB = "002-amplify"


def asked(number: int, user: str = "") -> Question:
    """A question. The later its number, the later it was asked."""
    return Question(
        id=f"{number:020x}",
        template="solve",
        answer_shape="WorkedSolution",
        answer_schema={},
        system="Solve it.",
        user=user or f"input {number}",
        asked_at=f"2026-01-01T00:00:{number:02d}",
    )


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    """A folder that no question was put into yet."""
    return Questions(tmp_path / "host")


def lease(questions: Questions, most: int = 20, most_chars: int = 10_000, *, alive: bool = True) -> list[str]:
    """What an agent is given, by its text."""
    return [q.user for q in questions.lease(JOB, most, most_chars, ME, lambda _: alive)]


def test_the_oldest_come_first_and_never_more_text_than_fits(questions: Questions) -> None:
    """Clients cut long replies off, and a task that is cut off cannot be answered."""
    for number, size in enumerate((300, 400, 500, 2000)):
        questions.ask(asked(number, "x" * size), JOB)
    assert [len(user) for user in lease(questions, most_chars=1000)] == [300, 400]
    assert [len(user) for user in lease(questions, most_chars=1000)] == [500]
    assert [len(user) for user in lease(questions, most_chars=1000)] == [2000], "one that never fits is given alone"
    assert lease(questions) == []


def test_two_samples_of_one_question_are_not_given_together(questions: Questions) -> None:
    """Agreement of two answers means something only when the second was not copied from the first."""
    for number in range(2):
        questions.ask(asked(number, "the same"), JOB)
    questions.ask(asked(2, "another"), JOB)
    assert lease(questions) == ["the same", "another"]
    assert lease(questions) == ["the same"]


def test_only_the_questions_of_the_job_that_asks_are_given(questions: Questions) -> None:
    """What a cancelled job asked may never be asked again; an answer to it is still taken, in case it is."""
    questions.ask(asked(0), "001-amplify")
    assert lease(questions) == []
    assert questions.give(asked(0).id, Given(answer={"a": 1})) == "taken"
    questions.ask(asked(0), JOB)
    assert lease(questions) == [], "it is answered already"
    assert questions.given(asked(0).id) == Given(answer={"a": 1})
    assert len(list(questions.folder.glob("*.task.*"))) == 1


@pytest.mark.parametrize("ended_by", ["time", "server"])
def test_a_lease_ends_with_its_time_or_with_its_server(questions: Questions, ended_by: str) -> None:
    """Else a chat that was closed would hold its questions for good."""
    questions.ask(asked(0), JOB)
    assert lease(questions) == ["input 0"]
    assert lease(questions) == []
    assert questions.open_for(JOB, lambda _: True).leased == 1
    if ended_by == "time":
        late = time.time() - LEASE_S - 1
        os.utime(next(questions.folder.glob("*.lease.json")), (late, late))
    alive = ended_by == "time"
    assert questions.open_for(JOB, lambda _: alive).free == 1
    assert lease(questions, alive=alive) == ["input 0"]


def test_many_agents_at_once_share_the_questions_without_overlap(questions: Questions) -> None:
    """Each server is a process of its own; the folder's lock is all they have in common."""
    for number in range(40):
        questions.ask(asked(number), JOB)
    given: list[list[str]] = []
    agents = [threading.Thread(target=lambda: given.append(lease(questions, most=7))) for _ in range(8)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(timeout=30)
    users = [user for batch in given for user in batch]
    assert len(users) == len(set(users)) == 40


def test_the_first_of_many_answers_stands_and_a_closed_question_takes_none(questions: Questions) -> None:
    """A retry must change nothing, before the worker took the answer and after."""
    questions.ask(asked(0), JOB)
    name = asked(0).id
    found: list[str] = []

    def answer(number: int) -> None:
        found.append(questions.give(name, Given(answer={"n": number})))

    agents = [threading.Thread(target=answer, args=(number,)) for number in range(6)]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.join(timeout=30)
    assert sorted(found) == ["answered"] * 5 + ["taken"]
    questions.close(name)
    assert questions.give(name, Given(answer={})) == "gone"
    assert list(questions.folder.iterdir()) == []


def test_a_folder_that_does_not_exist_has_no_questions(questions: Questions) -> None:
    """A server is asked before any worker began."""
    assert lease(questions) == []
    assert questions.open_for(JOB, lambda _: True).total == 0
    assert questions.find("0" * 20) is None
