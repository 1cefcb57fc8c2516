"""What is paid for is paid for once: the journal answers what was asked before, whoever died in between."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from nanodistill_mcp.demo.wire import Refuses, Says
from nanodistill_mcp.runs.journal import Journal, read_journal
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.client import RowDeclined
from tests.teacher.conftest import BAD, GOOD, Desk, question, questions

QUESTIONS = 40
WORKER = """
import asyncio, os, sys
from pathlib import Path
from nanodistill_mcp.runs.journal import Journal, spend_of
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.budget import Budget, Caps
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Teacher

async def main(endpoint, path):
    with Journal.open(Path(path)) as journal:
        budget = Budget(Caps(usd=100), spend_of(journal.records), (3, 15))
        async with Teacher(TeacherEndpoint.model_validate_json(endpoint), journal=journal, budget=budget,
                           capabilities=Capabilities(), stage="amplify", concurrency=8) as teacher:
            async def one(number):
                prompt = prompts.solve("Answer with a number.", f"What is {number} + 2?")
                answer = await teacher.ask(prompt, WorkedSolution)
                os.write(1, f"{answer.call_id} {int(answer.replayed)}\\n".encode())
            await asyncio.gather(*[one(number) for number in range(40)])

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_same_question_is_answered_from_the_journal_for_nothing(desk: Desk) -> None:
    """A stage that is called again after a crash asks the same questions."""
    async with desk.teacher() as teacher:
        paid = [await teacher.ask(prompt, WorkedSolution) for prompt in questions(5)]
    sent = len(desk.requests)
    size = desk.journal_path.stat().st_size

    async with desk.teacher() as teacher:
        again = [await teacher.ask(prompt, WorkedSolution) for prompt in questions(5)]

    assert len(desk.requests) == sent
    assert [answer.value for answer in again] == [answer.value for answer in paid]
    assert [answer.call_id for answer in again] == [answer.call_id for answer in paid]
    assert [answer.cost_usd for answer in again] == [answer.cost_usd for answer in paid], "rows come out the same"
    assert all(answer.replayed for answer in again)
    assert desk.journal_path.stat().st_size == size


async def test_each_intent_says_which_wording_of_the_template_asks(openai_desk: Desk) -> None:
    """An example is traced back to the prompt that made it; the name alone stays the same when the text is edited."""
    async with openai_desk.teacher() as teacher:
        await teacher.ask(question(), WorkedSolution)
        await teacher.ask(replace(question(), system="Another wording."), WorkedSolution)
    first, second = openai_desk.records("intent")
    assert (first["template"], first["prompt_sha"]) == ("solve", question("Anything else.").sha)
    assert (second["template"], second["prompt_sha"]) == ("solve", replace(question(), system="Another wording.").sha)
    assert first["prompt_sha"] != second["prompt_sha"]


async def test_the_same_question_asked_twice_at_once_is_paid_once(desk: Desk) -> None:
    """Two rows with equal inputs are no reason to pay twice."""
    async with desk.teacher() as teacher:
        answers = await asyncio.gather(*[teacher.ask(question(), WorkedSolution) for _ in range(6)])

    assert len(desk.requests) == 1
    assert [answer.replayed for answer in answers].count(False) == 1


async def test_another_sample_or_another_limit_is_another_question(openai_desk: Desk) -> None:
    """Agreement between samples means something only when they were drawn apart."""
    async with openai_desk.teacher(sampling={"seed": 3}) as teacher:
        answers = [
            await teacher.ask(question(), WorkedSolution),
            await teacher.ask(question(), WorkedSolution, sample=1),
            await teacher.ask(question(), WorkedSolution, max_tokens=512),
        ]

    assert len({answer.call_id for answer in answers}) == 3
    assert [request.body["seed"] for request in openai_desk.requests] == [3, 4, 3]


@pytest.mark.parametrize(("reply", "reason", "paid"), [(Refuses(), "refused", 2), (BAD, "invalid", 2)])
async def test_a_declined_row_stays_declined(desk: Desk, reply: Says | Refuses, reason: str, paid: int) -> None:
    """Its refusal was paid for, too."""
    desk.answers(GOOD, then=reply)
    async with desk.teacher() as teacher:
        await teacher.ask(question("Warm up."), WorkedSolution)
        with pytest.raises(RowDeclined):
            await teacher.ask(question(), WorkedSolution)
    assert len(desk.requests) == 1 + paid

    async with desk.teacher() as teacher:
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution)

    assert caught.value.reason == reason
    assert len(desk.requests) == 1 + paid


@pytest.mark.parametrize(("reply", "verdicts"), [(GOOD, ["valid"]), (Refuses(), ["refused", "refused"])])
async def test_an_answer_that_was_never_judged_is_judged_on_the_way_back(
    desk: Desk, reply: Says | Refuses, verdicts: list[str]
) -> None:
    """The worker died between writing the answer down and reading it."""
    desk.answers(then=reply)
    async with desk.teacher() as teacher:
        await asyncio.gather(teacher.ask(question(), WorkedSolution), return_exceptions=True)
    kept = [record for record in read_journal(desk.journal_path).records if record["kind"] != "verdict"]
    desk.journal_path.unlink()
    with Journal.open(desk.journal_path) as journal:
        for record in kept:
            journal.append(record)

    async with desk.teacher() as teacher:
        await asyncio.gather(teacher.ask(question(), WorkedSolution), return_exceptions=True)

    assert len(desk.requests) == len(verdicts)
    assert [record["verdict"] for record in desk.records("verdict")] == verdicts


def worker(desk: Desk, further: str = "") -> "subprocess.Popen[str]":
    """A worker process that asks forty questions and prints each answer it counts."""
    command = [sys.executable, "-c", WORKER + further, desk.endpoint().model_dump_json(), str(desk.journal_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def killed_in_mid_stage(desk: Desk) -> set[str]:
    """Let a worker count twelve answers and kill it. Returns the call ids it had counted."""
    with worker(desk) as process:
        assert process.stdout is not None
        counted = [process.stdout.readline() for _ in range(12)]
        os.kill(process.pid, signal.SIGKILL)
        counted += [line for line in process.stdout.readlines() if line.endswith("\n")]
    return {line.split()[0] for line in counted}


async def test_a_worker_killed_in_mid_stage_loses_no_answer_that_counted(openai_desk: Desk) -> None:
    """Counted means on disk: an answer a caller ever saw is in the journal, and the next worker does not pay for it."""
    openai_desk.answers(then=Says(GOOD.value, delay_s=0.05))

    counted = await asyncio.to_thread(killed_in_mid_stage, openai_desk)
    answered = {record["call_id"] for record in openai_desk.records("answer")}
    asked = {record["call_id"] for record in openai_desk.records("intent")}
    sent = len(openai_desk.requests)
    async with openai_desk.teacher() as teacher:
        answers = await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(QUESTIONS)])

    assert 12 <= len(counted) < QUESTIONS
    assert counted <= answered
    assert len(asked - answered) <= 8, "as many are in doubt as were in flight"
    assert sum(answer.replayed for answer in answers) == len(answered)
    assert len(openai_desk.requests) - sent == QUESTIONS - len(answered)


async def test_replaying_does_not_load_the_provider_s_library(openai_desk: Desk) -> None:
    """A stage that has nothing left to pay for starts at once."""
    async with openai_desk.teacher() as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(QUESTIONS)])

    process = worker(openai_desk, "\nassert not {'litellm', 'instructor'} & sys.modules.keys()")
    printed, _ = await asyncio.to_thread(process.communicate, timeout=60)

    assert process.returncode == 0
    assert printed.count(" 1\n") == QUESTIONS


async def test_no_more_calls_are_open_in_the_journal_than_run_side_by_side(openai_desk: Desk) -> None:
    """What is open when the worker is killed is in doubt and asked again: the limit the user set is the most that can be."""
    async with openai_desk.teacher(concurrency=4) as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in questions(80)])
    in_flight = most = 0
    for record in read_journal(openai_desk.journal_path).records:
        in_flight += {"intent": 1, "answer": -1, "error": -1}.get(record["kind"], 0)
        most = max(most, in_flight)
    assert most == 4
