"""The calling agent as the teacher, seen from the worker: questions go out as files, and answers come in as paid ones do."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.errors import BudgetError, TeacherError
from nanodistill_mcp.jobs import processes
from nanodistill_mcp.runs.journal import Journal, read_journal, spend_of
from nanodistill_mcp.runs.questions import Given, Question, Questions
from nanodistill_mcp.runs.records import Spend
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.budget import Budget, Caps
from nanodistill_mcp.teacher.calls import KnownCall, RowDeclined
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Teacher
from nanodistill_mcp.teacher.host import ASKED_AT_ONCE, HostLine, why_not
from tests.teacher.conftest import question, questions

JOB = "001-synthesize_cot"
HOST = TeacherEndpoint(name="host", model="host", usd_per_mtok=(0, 0))
GOOD = Given(answer={"solution": "Two and two make four.", "answer": "4"})

WORKER = """
import asyncio, sys
from pathlib import Path
from nanodistill_mcp.pipeline.stages import STAGES
from nanodistill_mcp.runs.journal import Journal, spend_of
from nanodistill_mcp.runs.questions import Given, Questions
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.budget import Budget, Caps
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Teacher

async def main(folder):
    questions = Questions(Path(folder) / "host")
    with Journal.open(Path(folder) / "calls.jsonl") as journal:
        budget = Budget(Caps(usd=0), spend_of(journal.records), (0, 0))
        async with Teacher(TeacherEndpoint(model="host"), journal=journal, budget=budget, capabilities=Capabilities(),
                           stage="amplify", host=(questions, "001-amplify")) as teacher:
            asked = asyncio.create_task(teacher.ask(prompts.solve("Add.", "2 + 2"), WorkedSolution))
            while not (names := list(questions.folder.glob("*.task.*"))):
                await asyncio.sleep(0.01)
            questions.give(names[0].name.split(".")[0], Given(answer={"solution": "It is four.", "answer": "4"}))
            print((await asked).value.answer)

asyncio.run(main(sys.argv[1]))
print(sorted({"litellm", "instructor", "openai", "mlx", "numpy"} & sys.modules.keys()))
"""


@dataclass
class Room:
    """A run folder with questions in it, and an agent that a test plays."""

    folder: Path

    @property
    def questions(self) -> Questions:
        return Questions(self.folder / "host")

    @property
    def journal_path(self) -> Path:
        return self.folder / "calls.jsonl"

    @asynccontextmanager
    async def teacher(self, caps: Caps | None = None) -> AsyncGenerator[Teacher]:
        with Journal.open(self.journal_path) as journal:
            async with Teacher(
                HOST,
                journal=journal,
                budget=Budget(caps or Caps(usd=0), spend_of(journal.records), (0, 0)),
                capabilities=Capabilities(),
                stage="synthesize_cot",
                host=(self.questions, JOB),
            ) as teacher:
                yield teacher

    async def open(self, count: int) -> list[str]:
        """The ids of the open questions, once there are that many."""
        async with asyncio.timeout(20):
            while self.questions.open_for(JOB, processes.is_same).total < count:
                await asyncio.sleep(0.01)
        return [path.name.split(".")[0] for path in (self.folder / "host").glob("*.task.*")]

    def kinds(self) -> list[str]:
        return [record["kind"] for record in read_journal(self.journal_path).records]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """An empty run folder."""
    return Room(tmp_path)


async def test_all_questions_are_out_at_once_and_their_answers_stand_in_the_journal(room: Room) -> None:
    """Several agents can only work side by side when there is more than one question to take."""
    async with room.teacher() as teacher:
        asked = [asyncio.create_task(teacher.ask(prompt, WorkedSolution)) for prompt in questions(ASKED_AT_ONCE + 3)]
        for name in await room.open(ASKED_AT_ONCE):
            assert room.questions.give(name, GOOD) == "taken"
        for name in await room.open(3):
            room.questions.give(name, GOOD)
        answers = await asyncio.gather(*asked)
    assert {answer.value.answer for answer in answers} == {"4"}
    assert list(room.questions.folder.iterdir()) == []
    assert room.kinds().count("answer") == room.kinds().count("verdict") == ASKED_AT_ONCE + 3
    spend = spend_of(read_journal(room.journal_path).records)
    assert (spend.usd, spend.calls, spend.in_doubt_calls) == (0, ASKED_AT_ONCE + 3, 0)
    assert spend.output_tokens > spend.calls
    async with room.teacher() as teacher:
        again = [await teacher.ask(prompt, WorkedSolution) for prompt in questions(3)]
    assert all(answer.replayed for answer in again)


def test_a_worker_that_asks_the_host_loads_no_provider_s_library(tmp_path: Path) -> None:
    """It waits for an agent, perhaps for hours: it must take a twentieth of a gigabyte and not a fifth."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "4\n[]\n", ended.stderr


async def test_a_question_declined_twice_is_left_out_for_good(room: Room) -> None:
    """As with any teacher: once more in other words, then set aside, and not asked again by a later worker."""
    async with room.teacher() as teacher:
        asked = asyncio.create_task(teacher.ask(question(), WorkedSolution))
        systems: list[str] = []
        for _ in range(2):
            (name,) = await room.open(1)
            open_question = room.questions.find(name)
            assert open_question is not None
            systems.append(open_question.system)
            room.questions.give(name, Given(declined="I would rather not."))
            async with asyncio.timeout(20):
                while room.kinds().count("verdict") < len(systems):
                    await asyncio.sleep(0.01)
        with pytest.raises(RowDeclined) as caught:
            await asked
        assert caught.value.reason == "refused"
        assert systems[1].startswith(systems[0] + "\n\n")
    async with room.teacher() as teacher:
        with pytest.raises(RowDeclined):
            await teacher.ask(question(), WorkedSolution)
    assert room.kinds() == ["intent", "answer", "verdict"] * 2


async def test_an_unreadable_answer_that_came_by_another_way_is_asked_for_once_more(room: Room) -> None:
    """A file someone wrote by hand must neither end the stage nor be believed."""
    async with room.teacher() as teacher:
        asked = asyncio.create_task(teacher.ask(question(), WorkedSolution))
        for _ in range(2):
            (name,) = await room.open(1)
            room.questions.give(name, Given(answer={"working": "4"}))
        with pytest.raises(RowDeclined) as caught:
            await asked
    assert caught.value.reason == "invalid"
    assert room.kinds() == ["intent", "answer", "verdict"] * 2


async def test_a_cap_on_calls_holds_for_the_host_too(room: Room) -> None:
    """An agent's work is limited by what its user allows, as money is."""
    async with room.teacher(Caps(usd=0, calls=1)) as teacher:
        asked = asyncio.create_task(teacher.ask(question(), WorkedSolution))
        (name,) = await room.open(1)
        room.questions.give(name, GOOD)
        await asked
        with pytest.raises(BudgetError):
            await teacher.ask(question("What is 3 + 3?"), WorkedSolution)


async def test_a_stage_does_not_wait_for_ever(room: Room) -> None:
    """A chat that never comes back must not keep a worker, and a Mac, awake for good."""
    with Journal.open(room.journal_path) as journal:
        line = HostLine(
            room.questions,
            JOB,
            stage="amplify",
            journal=journal,
            budget=Budget(Caps(usd=0), Spend(), (0, 0)),
            before_call=None,
            patience_s=0.0,
        )
        with pytest.raises(TeacherError) as caught:
            await line.ask("0" * 20, KnownCall(), question(), WorkedSolution, max_tokens=10)
    assert caught.value.next_step.startswith("Everything answered is kept. Call the stage again")
    assert room.questions.open_for(JOB, processes.is_same).total == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"solution": "a", "answer": "b", "more": 1}, ""),
        ({"solution": "a"}, "answer: field required"),
        ({"solution": "a", "answer": "  "}, "answer: string should have at least 1 character"),
        ({"solution": "a", "answer": {"b": 1}}, "answer: input should be a valid string"),
        ({"solution": "a" * 300_000, "answer": "b"}, "longer than 200000 bytes"),
        ({"solution": "half a pair: \ud800", "answer": "b"}, "answer: it holds half a character (a lone surrogate)"),
        (
            {"solution": "Это решение написано совсем другими буквами.", "answer": "4"},
            "in another language than the task",
        ),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_by_field(answer: dict[str, Any], why: str) -> None:
    """The agent corrects it in one turn."""
    asked = question()
    put = Question(
        id="0" * 20,
        template="solve",
        answer_shape="WorkedSolution",
        answer_schema={},
        system=asked.system,
        user=asked.user,
        asked_at="",
    )
    assert why_not(put, answer) == why
