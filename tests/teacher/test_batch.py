"""Questions in batches, over real HTTP in both wire formats: half the price, merged by id, topped up live, never sent twice."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nanodistill_mcp.demo.wire import Fails, Refuses, Says, WireReply, WireRequest
from nanodistill_mcp.errors import BudgetError, ConfigurationError, TeacherError
from nanodistill_mcp.runs.journal import Journal, read_journal, spend_of
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.batch_book import batch_summary, open_batches
from nanodistill_mcp.teacher.batch_terms import AtProvider, BatchTerms
from nanodistill_mcp.teacher.budget import Caps
from nanodistill_mcp.teacher.client import Answer, RowDeclined, Teacher
from tests.teacher.conftest import BAD, GOOD, USD_PER_MTOK, Desk, question, questions

QUICK: dict[str, Any] = {"quiet_s": 0.05, "poll_s": 0.01, "longest_poll_s": 0.02}
PRICED = Says(GOOD.value, input_tokens=1000, output_tokens=200)
LIVE_USD = (1000 * USD_PER_MTOK[0] + 200 * USD_PER_MTOK[1]) / 1e6
WAIT_S = 60

WORKER = """
import asyncio, sys
from pathlib import Path
from nanodistill_mcp.runs.journal import Journal, spend_of
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.batch import BatchTerms
from nanodistill_mcp.teacher.budget import Budget, Caps
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Teacher

async def main(endpoint, path):
    with Journal.open(Path(path)) as journal:
        async with Teacher(TeacherEndpoint.model_validate_json(endpoint), journal=journal,
                           budget=Budget(Caps(usd=100), spend_of(journal.records), (3, 15)),
                           capabilities=Capabilities(), stage="amplify",
                           batch=BatchTerms("batch", quiet_s=0.05, poll_s=0.01, longest_poll_s=0.02)) as teacher:
            asked = [prompts.solve("Answer with a number.", f"What is {number} + 2?") for number in range(6)]
            await asyncio.gather(*[teacher.ask(prompt, WorkedSolution) for prompt in asked])

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def batching(desk: Desk, mode: str = "batch", **further: Any) -> AsyncGenerator[Teacher]:
    """A teacher that hands its questions in as batches, of a run in which one question was answered before."""
    terms = {name: further.pop(name) for name in ("on_change", "most_questions", "most_bytes") if name in further}
    answered_before(desk)
    batch = BatchTerms(mode, **{**QUICK, **terms})  # pyright: ignore[reportArgumentType]
    async with desk.teacher(batch=batch, stage="amplify", **further) as teacher:
        yield teacher


def answered_before(desk: Desk) -> None:
    """Put an answer into the journal, as synthesize_cot does before amplify is ever called."""
    if not desk.records("answer"):
        key = {"call_id": "0" * 20, "attempt": 1, "at": "2026-11-20T12:00:00.000+00:00"}
        counts = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "cost_usd": 0.0}
        with Journal.open(desk.journal_path) as journal:
            journal.append({"kind": "intent", **key, "max_usd": 0.1, "max_tokens": 100})
            journal.append({"kind": "answer", **key, "text": "", "finish_reason": "stop", **counts})


async def ask_all(teacher: Teacher, count: int = 6) -> list[Answer[WorkedSolution] | BaseException]:
    """Ask that many questions at once and wait for all."""
    asked = [teacher.ask(prompt, WorkedSolution) for prompt in questions(count)]
    async with asyncio.timeout(WAIT_S):
        return await asyncio.gather(*asked, return_exceptions=True)


def summary(desk: Desk) -> dict[str, Any]:
    """What batches brought so far."""
    return batch_summary(read_journal(desk.journal_path).records)


def numbered(request: WireRequest) -> WireReply:
    """An answer that says which question it is for."""
    number = request.user.rpartition("What is ")[2].partition(" +")[0]
    return Says({"solution": "Add.", "answer": f"answer to {number}"}, input_tokens=1000, output_tokens=200)


async def test_questions_asked_together_go_out_as_one_batch_and_cost_half(desk: Desk) -> None:
    """That is what a batch is for."""
    desk.script = numbered

    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert [answer.value.answer for answer in answers if isinstance(answer, Answer)] == [
        f"answer to {number}" for number in range(6)
    ], "merged by id: the results come back in another order"
    assert [answer.cost_usd for answer in answers if isinstance(answer, Answer)] == pytest.approx([LIVE_USD / 2] * 6)
    assert desk.requests == []
    assert summary(desk) == {
        "batches": 1,
        "answers": 6,
        "topped_up": 0,
        "saved_usd": pytest.approx(6 * LIVE_USD / 2),
    }
    spent = spend_of(read_journal(desk.journal_path).records)
    assert spent.usd == pytest.approx(6 * LIVE_USD / 2)
    assert spent.in_doubt_calls == 0


async def test_a_batch_holds_the_very_requests_that_would_go_out_live(desk: Desk) -> None:
    """The provider reads one form only, and LiteLLM writes it for both ways."""
    async with desk.teacher() as teacher:
        await teacher.ask(question(), WorkedSolution)
    live = desk.requests[0]
    desk.journal_path.unlink()

    async with batching(desk) as teacher:
        await teacher.ask(question(), WorkedSolution)

    (batch,) = desk.server.batches.all.values()
    assert [line["body"] for line in batch.lines] == [live.body]
    assert batch.headers.get("anthropic-beta") == live.headers.get("anthropic-beta")


async def test_the_first_question_of_a_run_goes_live(desk: Desk) -> None:
    """A wrong key or a refused parameter is met in seconds, and not tomorrow."""
    async with desk.teacher(batch=BatchTerms("batch", **QUICK)) as teacher:
        await ask_all(teacher, 3)

    assert len(desk.requests) == 1
    assert summary(desk)["answers"] == 2


async def test_a_question_answered_before_is_in_no_batch(desk: Desk) -> None:
    """The journal comes first, as always."""
    async with batching(desk) as teacher:
        await ask_all(teacher, 4)
    async with batching(desk) as teacher:
        again = await ask_all(teacher, 6)

    assert [answer.replayed for answer in again if isinstance(answer, Answer)] == [True] * 4 + [False] * 2
    assert [len(batch.lines) for batch in desk.server.batches.all.values()] == [4, 2]


async def test_what_a_batch_leaves_open_is_asked_live(desk: Desk) -> None:
    """One failed, one unreadable, one refused: each is asked once more, with what was wrong or in other words."""
    odd: dict[str, WireReply] = {"What is 1 +": Fails("server"), "What is 2 +": BAD, "What is 3 +": Refuses()}

    def script(request: WireRequest) -> WireReply:
        live = request in desk.requests
        return PRICED if live else next((reply for words, reply in odd.items() if words in request.user), PRICED)

    desk.script = script
    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.requests) == 3
    assert summary(desk) | {"saved_usd": 0} == {"batches": 1, "answers": 5, "topped_up": 3, "saved_usd": 0}
    assert [record["error"] for record in desk.records("error")] == ["server"]
    again = [request for request in desk.requests if "What is 2 +" in request.user]
    assert again[0].turns > 1, "it is told what was wrong with its answer"


async def test_a_question_too_long_for_the_model_is_not_asked_again(desk: Desk) -> None:
    """It would end the same way, at the full price."""
    desk.script = lambda request: Fails("too_long") if "What is 1 +" in request.user else GOOD

    async with batching(desk) as teacher:
        answers = await ask_all(teacher, 3)

    assert [answer.reason for answer in answers if isinstance(answer, RowDeclined)] == ["context"]
    assert desk.requests == []


async def test_an_expired_batch_keeps_what_it_answered_and_the_rest_is_asked_live(desk: Desk) -> None:
    """After a day the provider gives up; what it has not begun is not billed."""
    desk.script = lambda _: PRICED
    desk.server.batches.ending = "expired"
    desk.server.batches.serves_before_expiry = 4

    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.requests) == 2
    assert summary(desk) == {
        "batches": 1,
        "answers": 4,
        "topped_up": 2,
        "saved_usd": pytest.approx(4 * LIVE_USD / 2),
    }


async def test_a_batch_is_reported_while_it_is_waited_for(desk: Desk) -> None:
    """A day is long: the user wants to see that something is going on."""
    told: list[Sequence[AtProvider]] = []

    async with batching(desk, on_change=told.append) as teacher:
        await ask_all(teacher)

    assert [batch.questions for batch in told[0]] == [6]
    assert all(0 <= batch.age_s < WAIT_S for one in told for batch in one)
    assert told[-1] == []


async def test_more_questions_than_a_batch_may_hold_become_several(openai_desk: Desk) -> None:
    """Providers limit a batch in number and in bytes."""
    async with batching(openai_desk, most_questions=4) as teacher:
        await ask_all(teacher, 10)
    size = max(len(str(line["body"])) for batch in openai_desk.server.batches.all.values() for line in batch.lines)
    async with batching(openai_desk, most_bytes=2 * size) as teacher:
        await asyncio.gather(*[teacher.ask(prompt, WorkedSolution, sample=1) for prompt in questions(3)])

    assert [len(batch.lines) for batch in openai_desk.server.batches.all.values()] == [4, 4, 2, 2, 1]


async def test_a_batch_that_does_not_fit_under_the_cap_is_cut_to_what_does(desk: Desk) -> None:
    """The worst case is reserved before anything leaves; half of it, because that is what a batch may cost."""
    desk.script = lambda _: PRICED
    async with batching(desk) as teacher:
        await teacher.ask(question("How much is one at most?"), WorkedSolution)
    worst = desk.records("intent")[-1]["max_usd"]
    spent = spend_of(read_journal(desk.journal_path).records).usd

    async with batching(desk, caps=Caps(usd=spent + 2.5 * worst)) as teacher:
        answers = await ask_all(teacher, 12)

    sizes = [len(batch.lines) for batch in desk.server.batches.all.values()][1:]
    assert sizes[0] == 2
    assert any(isinstance(answer, BudgetError) for answer in answers)
    assert sum(isinstance(answer, Answer) for answer in answers) == sum(sizes)
    assert spend_of(read_journal(desk.journal_path).records).usd <= spent + 2.5 * worst


async def test_a_cap_on_calls_counts_the_questions_of_a_batch(desk: Desk) -> None:
    """A batch is one request over the wire and as many calls as it has questions."""
    async with batching(desk, caps=Caps(usd=100, calls=1 + 4)) as teacher:
        answers = await ask_all(teacher, 6)

    assert [len(batch.lines) for batch in desk.server.batches.all.values()] == [4]
    assert sum(isinstance(answer, BudgetError) for answer in answers) == 2


async def test_a_provider_without_batches_is_refused_before_anything_is_asked(openai_desk: Desk) -> None:
    """Asking the first question live and then failing would cost something for nothing."""
    endpoint = openai_desk.endpoint(model="hosted_vllm/desk")

    async with openai_desk.teacher(endpoint=endpoint, batch=BatchTerms("batch", **QUICK)) as teacher:
        with pytest.raises(ConfigurationError, match="anthropic, azure, mistral, openai, xai"):
            await teacher.ask(question(), WorkedSolution)

    assert openai_desk.requests == []


async def test_a_server_that_knows_no_batches_is_named(desk: Desk) -> None:
    """Many servers speak OpenAI's format and have no batches."""
    desk.server.batches.offered = False

    async with batching(desk) as teacher:
        answers = await ask_all(teacher, 2)

    assert {answer.what for answer in answers if isinstance(answer, TeacherError)} == {
        f"127.0.0.1:{desk.server.port} takes no batch of these 2 questions (HTTP 404); nothing was paid for them."
    }
    assert spend_of(read_journal(desk.journal_path).records).in_doubt_calls == 0


async def test_a_batch_that_was_turned_down_ends_the_stage_and_goes_out_again_next_time(openai_desk: Desk) -> None:
    """Asking all of it live at twice the price is not for us to decide."""
    openai_desk.server.batches.ending = "failed"
    openai_desk.server.batches.refusal = "token_limit_exceeded"
    async with batching(openai_desk) as teacher:
        answers = await ask_all(teacher, 3)
    assert all(isinstance(answer, TeacherError) and "no room in its queue" in answer.what for answer in answers)
    assert spend_of(read_journal(openai_desk.journal_path).records).in_doubt_calls == 0

    openai_desk.server.batches.ending = "completed"
    async with batching(openai_desk) as teacher:
        answers = await ask_all(teacher, 3)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert openai_desk.requests == []


async def test_a_look_that_fails_is_repeated(desk: Desk) -> None:
    """The batch goes on at the provider whether it can be seen or not."""
    desk.server.batches.looks_fail = [Fails("server"), Fails("rate_limit"), Fails("overloaded")]

    async with batching(desk) as teacher:
        answers = await ask_all(teacher, 3)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert desk.requests == []


async def test_a_submission_the_provider_cannot_take_now_is_tried_again(desk: Desk) -> None:
    """It says so: nothing was taken."""
    batches = desk.server.batches
    batches.submissions_fail = Fails("rate_limit", headers={"retry-after": "0"})

    async with batching(desk) as teacher:
        asking = asyncio.create_task(ask_all(teacher, 3))
        async with asyncio.timeout(WAIT_S):
            while len(desk.records("intent")) < 1 + 3:
                await asyncio.sleep(0.005)
        batches.submissions_fail = None
        answers = await asking

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(batches.all) == 1


async def test_a_batch_the_provider_does_not_know_is_not_paid_for_again_unasked(desk: Desk) -> None:
    """Mostly the key is of another account; asking again would pay twice. Live, the user has decided that."""
    desk.server.batches.hold = True
    await interrupted(desk, lambda: bool(desk.records("batch")))
    desk.server.batches.all.clear()

    async with batching(desk) as teacher:
        answers = await ask_all(teacher, 3)
    assert all(isinstance(answer, TeacherError) and "does not know the batch" in answer.what for answer in answers)
    assert desk.requests == []

    async with batching(desk, mode="live") as teacher:
        answers = await ask_all(teacher, 3)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert sum(record["cost_usd"] for record in desk.records("error")) > 0, "it may have been billed"


async def test_live_stops_the_batch_keeps_its_answers_and_asks_the_rest(desk: Desk) -> None:
    """The user does not want to wait any longer; what the provider has done by then is paid and used."""
    desk.server.batches.hold = True
    desk.server.batches.serves_before_expiry = 4
    await interrupted(desk, lambda: bool(desk.records("batch")))

    async with batching(desk, mode="live") as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert [batch.cancelled for batch in desk.server.batches.all.values()] == [True]
    assert len(desk.requests) == 2


async def test_cancelled_while_the_batch_is_out_the_next_teacher_waits_for_the_same_one(desk: Desk) -> None:
    """Nothing is handed in twice, and what is paid is fetched."""
    desk.script = lambda _: PRICED
    desk.server.batches.hold = True
    await interrupted(desk, lambda: bool(desk.records("batch")))
    (left,) = open_batches(read_journal(desk.journal_path).records)
    assert left.questions == 6

    desk.server.batches.hold = False
    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.server.batches.all) == 1
    assert desk.requests == []
    assert summary(desk)["saved_usd"] == pytest.approx(6 * LIVE_USD / 2)


async def test_a_cap_counts_an_open_batch_in_full_until_it_is_known_what_it_cost(desk: Desk) -> None:
    """Else a restart would spend what the batch is about to cost a second time."""
    desk.script = lambda _: PRICED
    desk.server.batches.hold = True
    await interrupted(desk, lambda: bool(desk.records("batch")))
    spent = spend_of(read_journal(desk.journal_path).records)
    desk.server.batches.hold = False

    async with batching(desk, caps=Caps(usd=spent.usd + spent.in_doubt_usd)) as teacher:
        answers = await ask_all(teacher)
        later = await teacher.ask(question("One more."), WorkedSolution)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert later.value.answer == "4", "the batch cost less than its worst case, so there is room again"


async def test_killed_while_the_batch_is_out_the_next_worker_fetches_it(desk: Desk) -> None:
    """A SIGKILL leaves no time for anything: all that is needed is on disk."""
    desk.server.batches.hold = True
    await killed(desk, lambda: bool(desk.records("batch")))
    desk.server.batches.hold = False

    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.server.batches.all) == 1
    assert desk.requests == []


async def test_killed_before_the_provider_s_id_is_on_disk_the_batch_is_found_again(desk: Desk) -> None:
    """The provider took it and its reply was lost: by our mark, or by the ids of its results, it is ours."""
    desk.server.batches.mute_submissions = 1
    await killed(desk, lambda: bool(desk.server.batches.all))
    assert desk.records("batch") == []

    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.server.batches.all) == 1, "it was not handed in a second time"
    assert desk.requests == []
    assert spend_of(read_journal(desk.journal_path).records).in_doubt_calls == 0


@pytest.mark.slow
async def test_killed_before_the_provider_had_the_batch_it_goes_out_once(desk: Desk) -> None:
    """The intents are on disk and nothing was sent: that is found out, and nothing stays in doubt."""
    desk.server.batches.submissions_fail = Fails("rate_limit", headers={"retry-after": "0"})
    await killed(desk, lambda: len(desk.records("intent")) == 1 + 6)
    desk.server.batches.submissions_fail = None

    async with batching(desk) as teacher:
        answers = await ask_all(teacher)

    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(desk.server.batches.all) == 1
    assert spend_of(read_journal(desk.journal_path).records).in_doubt_calls == 0


async def interrupted(desk: Desk, so_far: Callable[[], bool]) -> None:
    """A teacher that is closed, as by a cancel, while its questions are in a batch."""
    async with batching(desk) as teacher:
        asking = asyncio.create_task(ask_all(teacher))
        async with asyncio.timeout(WAIT_S):
            while not so_far():
                await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def killed(desk: Desk, so_far: Callable[[], bool]) -> None:
    """A worker process that asks six questions and is killed at a chosen moment."""
    answered_before(desk)
    command = [sys.executable, "-c", WORKER, desk.endpoint().model_dump_json(), str(desk.journal_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env=environment) as process:  # noqa: ASYNC220 - it is started once and polled
        async with asyncio.timeout(WAIT_S):
            while not so_far() and process.poll() is None:
                await asyncio.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
