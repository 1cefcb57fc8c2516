# ruff: noqa: RUF001 - the languages are what is tested
"""A reply that is no answer is asked for once more in other words, then set aside; and nobody pays for either again."""

import asyncio
from typing import Any

import pytest

from nanodistill_mcp.demo.wire import Refuses, Says, WireReply, WireRequest
from nanodistill_mcp.errors import BudgetError
from nanodistill_mcp.runs.journal import Journal, read_journal
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.budget import Caps
from nanodistill_mcp.teacher.client import Answer, RowDeclined
from tests.teacher.conftest import Desk, question

CUT = Says('{"solution": "First one adds', ending="truncated")
CYRILLIC = Says({"solution": "Сначала сложим два и два, тогда получим четыре.", "answer": "4"})
ENGLISH = Says({"solution": "We add two and two and get four.", "answer": "4"})
FAULTS: dict[str, tuple[WireReply, str]] = {
    "refused": (Refuses(), "ordinary piece of work"),
    "refused_in_words": (Says("I'm sorry, but I can't help with that."), "ordinary piece of work"),
    "empty": (Says(""), "was empty"),
    "truncated": (CUT, "cut off"),
    "wrong_language": (CYRILLIC, "in another language"),
}


def fault(name: str) -> tuple[WireReply, str]:
    """A reply that is no answer, and words of the paragraph that follows it."""
    return FAULTS[name]


async def warm(desk: Desk) -> None:
    """A first question that is answered: from then on the endpoint is known to keep to the form it was asked in."""
    async with desk.teacher() as teacher:
        await teacher.ask(question("Warm up."), WorkedSolution)
    desk.server.requests.clear()


async def outcome(desk: Desk, **further: Any) -> "Answer[WorkedSolution] | RowDeclined":
    """What a stage gets for the one question."""
    async with desk.teacher(**further) as teacher:
        try:
            return await teacher.ask(question(), WorkedSolution)
        except RowDeclined as declined:
            return declined


def forget_after(desk: Desk, kind: str, count: int) -> None:
    """Put the journal back to the moment a worker was killed: after so many records of a kind."""
    kept: list[dict[str, Any]] = []
    for record in read_journal(desk.journal_path).records:
        kept.append(record)
        if sum(each["kind"] == kind for each in kept) == count:
            break
    desk.journal_path.unlink()
    with Journal.open(desk.journal_path) as journal:
        for record in kept:
            journal.append(record)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_reply_that_is_no_answer_is_asked_for_once_more_in_other_words(desk: Desk, name: str) -> None:
    """The same words would end the same way; a sentence on what went wrong often does not."""
    reply, words = fault(name)
    desk.answers(reply)

    answer = await outcome(desk)

    assert isinstance(answer, Answer)
    assert answer.value.answer == "4"
    first, second = desk.requests
    assert words not in first.system
    assert words in second.system
    assert second.system.startswith(first.system.rstrip()[:200])
    assert second.turns == 1, "a refusal that is shown again is repeated"
    assert second.user == first.user
    assert answer.cost_usd == pytest.approx(sum(record["cost_usd"] for record in desk.records("answer")))


@pytest.mark.parametrize("name", FAULTS)
async def test_a_second_reply_that_is_no_answer_sets_the_row_aside_with_its_reason(desk: Desk, name: str) -> None:
    """Two paid calls are enough; a third would be the beginning of a loop."""
    await warm(desk)
    desk.answers(then=fault(name)[0])

    row = await outcome(desk)

    assert isinstance(row, RowDeclined)
    assert row.reason == name.removesuffix("_in_words")
    assert len(desk.requests) == 2


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("killed_after", ["answer", "verdict"])
async def test_a_worker_killed_before_the_second_attempt_pays_only_for_that(
    desk: Desk, name: str, killed_after: str
) -> None:
    """The first reply was paid for; its successor asks in other words, as the killed worker would have."""
    reply, words = fault(name)
    desk.answers(reply)
    await outcome(desk)
    forget_after(desk, killed_after, 1)
    desk.server.requests.clear()

    answer = await outcome(desk)

    assert isinstance(answer, Answer)
    (request,) = desk.requests
    assert words in request.system
    again = await outcome(desk)
    assert isinstance(again, Answer)
    assert again.replayed
    assert again.cost_usd == answer.cost_usd
    assert len(desk.requests) == 1


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("killed_after", ["answer", "verdict"])
async def test_a_row_that_was_set_aside_costs_nothing_when_the_stage_comes_back(
    desk: Desk, name: str, killed_after: str
) -> None:
    """Whether or not the worker lived to judge the second reply."""
    await warm(desk)
    desk.answers(then=fault(name)[0])
    await outcome(desk)
    forget_after(desk, killed_after, 1 + 2)

    row = await outcome(desk)

    assert isinstance(row, RowDeclined)
    assert row.reason == name.removesuffix("_in_words")
    assert len(desk.requests) == 2


async def test_a_filtered_answer_is_asked_for_in_neutral_words(openai_desk: Desk) -> None:
    """A filter looks at wording; the Anthropic wire marks its own as a refusal."""
    openai_desk.answers(Says({"solution": "Add.", "answer": "4"}, ending="filtered"))

    assert isinstance(await outcome(openai_desk), Answer)

    assert "neutral, factual words" in openai_desk.requests[1].system


async def test_an_answer_that_was_cut_off_gets_twice_the_room(desk: Desk) -> None:
    """Asked the same with the same room, it would be cut off at the same place."""
    desk.answers(CUT)

    await outcome(desk)

    assert [request.body["max_tokens"] for request in desk.requests] == [2048, 4096]


async def test_an_answer_is_not_asked_for_again_where_the_model_has_no_more_room(claude_desk: Desk) -> None:
    """The second reply would be cut off like the first."""
    claude_desk.answers(then=CUT)
    endpoint = claude_desk.endpoint(model="anthropic/claude-sonnet-4-5")

    async with claude_desk.teacher(endpoint=endpoint) as teacher:
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution, max_tokens=64_000)

    assert caught.value.reason == "truncated"
    assert len(claude_desk.requests) == 1


async def test_a_second_attempt_with_more_room_than_the_budget_has_sets_the_row_aside(openai_desk: Desk) -> None:
    """The stage goes on: an ordinary question may still fit."""
    openai_desk.answers(CUT)
    tokens = 12_000

    async with openai_desk.teacher(caps=Caps(tokens=tokens)) as teacher:
        with pytest.raises(RowDeclined) as caught:
            await teacher.ask(question(), WorkedSolution, max_tokens=5_000)
        assert (await teacher.ask(question("What is 1 + 1?"), WorkedSolution, max_tokens=1_000)).value.answer == "4"
        with pytest.raises(BudgetError):
            await teacher.ask(question("What is 1 + 2?"), WorkedSolution, max_tokens=tokens)

    assert caught.value.reason == "truncated"


async def test_side_by_side_every_question_is_asked_twice_at_most(openai_desk: Desk) -> None:
    """A provider on a bad day refuses everything; what that costs has to stay in sight."""
    openai_desk.answers(then=Refuses())

    async with openai_desk.teacher() as teacher:
        asked = [teacher.ask(question(f"What is {number} + 2?"), WorkedSolution) for number in range(12)]
        results = await asyncio.gather(*asked, return_exceptions=True)

    assert all(isinstance(result, RowDeclined) for result in results)
    assert len(openai_desk.requests) == 24


@pytest.mark.parametrize(
    ("instruction", "text", "reply"),
    [
        ("Translate into Russian.", "Good morning, dear neighbour.", CYRILLIC),
        ("Sort the ticket.", "Здравствуйте, мой заказ не пришёл.", CYRILLIC),
        ("Answer with a number.", "What is 2 + 2?", Says({"solution": "2 + 2 = 4", "answer": "четыре, конечно же, а что ещё"})),
        ("Gib eine Zahl.", "Was ist 2 + 2?", ENGLISH),
        ("数字で答えてください。", "2と2を足すと?", Says({"solution": "二加二等于四，所以答案是四。二加二等于四，所以答案是四。", "answer": "4"})),
    ],
    ids=["named language", "input's script", "answer alone", "same script", "japanese and chinese"],
)  # fmt: skip
async def test_a_language_the_question_shows_or_names_is_no_wrong_one(
    openai_desk: Desk, instruction: str, text: str, reply: WireReply
) -> None:
    """A right answer that is thrown away is worse than a wrong one that is kept for the next filter."""
    from nanodistill_mcp.teacher import prompts

    openai_desk.answers(then=reply)

    async with openai_desk.teacher() as teacher:
        await teacher.ask(prompts.solve(instruction, text), WorkedSolution)

    assert len(openai_desk.requests) == 1


async def test_prose_in_english_under_a_task_in_russian_is_asked_for_again(openai_desk: Desk) -> None:
    """The blocks' tags are English in every prompt; they do not make English the task's language."""
    from nanodistill_mcp.teacher import prompts

    def script(request: WireRequest) -> WireReply:
        return CYRILLIC if "another language" in request.system else ENGLISH

    openai_desk.script = script
    async with openai_desk.teacher() as teacher:
        answer = await teacher.ask(prompts.solve("Ответь одним числом.", "Сколько будет 2 + 2?"), WorkedSolution)

    assert answer.value == WorkedSolution.model_validate(CYRILLIC.value)
    assert [record["verdict"] for record in openai_desk.records("verdict")] == ["wrong_language", "valid"]
