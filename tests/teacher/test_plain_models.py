"""Models without tool use and JSON mode on the wire: how the way of asking goes down to plain text, what that costs, once."""

import json

import pytest

from nanodistill_mcp.demo.wire import Fails, Says, WireReply, WireRequest
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.client import RowDeclined
from tests.teacher.conftest import GOOD, Desk, question
from tests.teacher.shapes import NewExample, NewExamples

IN_WORDS = Says("It is four, of course.")
UNDER_HEADINGS = Says("## Solution\nTwo and two make four.\n\n## Answer\n4")
PAIRS = Says("- Input: What is 1 + 1?\n- Output: 2\n\n- Input: What is 2 + 3?\n- Output: 5\n")


def prose_only(request: WireRequest) -> WireReply:
    """A small local model: it knows no JSON mode, ignores pleas for JSON, and can fill in a form."""
    if "response_format" in request.body:
        return Fails("parameter", name="response_format")
    return UNDER_HEADINGS if "## Solution" in request.system else IN_WORDS


async def ask(desk: Desk, text: str = "What is 2 + 2?") -> WorkedSolution:
    """One question of a stage of its own."""
    async with desk.teacher() as teacher:
        return (await teacher.ask(question(text), WorkedSolution)).value


async def test_a_model_that_writes_only_prose_is_asked_to_fill_in_a_form(openai_desk: Desk) -> None:
    """Refused once, unreadable twice; from then on it is asked in the form it can keep to, and that is remembered."""
    openai_desk.script = prose_only

    assert await ask(openai_desk) == WorkedSolution(solution="Two and two make four.", answer="4")
    assert len(openai_desk.requests) == 1 + 2 + 1
    assert await ask(openai_desk, "And 3 + 2?") == WorkedSolution(solution="Two and two make four.", answer="4")
    assert len(openai_desk.requests) == 5

    (learnt,) = json.loads(openai_desk.capabilities_path.read_text(encoding="utf-8")).values()
    assert sorted(learnt) == ["json", "response_format"]
    assert "## Answer\n(The final answer alone" in openai_desk.requests[-1].system
    assert [intent["form"] for intent in openai_desk.records("intent")] == ["json_schema", "md_json", "md_json", "text", "text"]  # fmt: skip


async def test_what_a_form_brought_back_is_read_again_for_nothing(openai_desk: Desk) -> None:
    """The journal holds the text as it came, in whatever form."""
    openai_desk.script = prose_only
    read = await ask(openai_desk)
    sent = len(openai_desk.requests)

    assert await ask(openai_desk) == read
    assert len(openai_desk.requests) == sent


async def test_a_form_that_is_not_filled_in_is_shown_once_more(openai_desk: Desk) -> None:
    """With what was wrong in our words; then the row is set aside, however often the stage comes back."""
    openai_desk.script = prose_only
    await ask(openai_desk)
    openai_desk.server.requests.clear()
    openai_desk.script = lambda _: IN_WORDS

    for _ in range(2):
        async with openai_desk.teacher() as teacher:
            with pytest.raises(RowDeclined) as caught:
                await teacher.ask(question("And 3 + 2?"), WorkedSolution)

        assert caught.value.reason == "invalid"
        assert len(openai_desk.requests) == 2
    assert "could not be read" in openai_desk.requests[1].system
    assert openai_desk.requests[1].turns == 1


@pytest.mark.parametrize("words", ["Input: and Output: lines", "JSON array"])
async def test_examples_in_the_forms_nanodistill_reads_are_taken_at_the_first_asking(desk: Desk, words: str) -> None:
    """Whatever was asked for: what can be read is not asked for again."""
    array = Says('Here:\n[{"input": "What is 1 + 1?", "output": "2"}, {"input": "What is 2 + 3?", "output": "5"},]')
    desk.answers(then=PAIRS if words.startswith("Input") else array)

    async with desk.teacher() as teacher:
        prompt = prompts.generate("Add.", "{}", [{"input": "What is 7 + 1?", "output": "8"}], [{}, {}])
        answer = await teacher.ask(prompt, NewExamples)

    assert answer.value.examples == [NewExample(input="What is 1 + 1?", output="2"), NewExample(input="What is 2 + 3?", output="5")]  # fmt: skip
    assert len(desk.requests) == 1
    assert [record["why"] for record in desk.records("verdict")] == ["read leniently"]


@pytest.mark.parametrize(
    "reply",
    [
        Says('{"solution": "Two and two make four.", "answer": "4",}'),
        Says("{'solution': 'Two and two make four.', 'answer': '4'}"),
        Says("**Solution:** Two and two make four.\n**Answer:** 4"),
    ],
    ids=["trailing comma", "single quotes", "bold labels"],
)
async def test_a_slip_in_an_answer_costs_nothing(desk: Desk, reply: Says) -> None:
    """The answer is there and paid for."""
    desk.answers(then=reply)

    assert await ask(desk) == WorkedSolution(solution="Two and two make four.", answer="4")
    assert len(desk.requests) == 1
    assert await ask(desk) == WorkedSolution(solution="Two and two make four.", answer="4")
    assert len(desk.requests) == 1, "and is read the same way again"


async def test_a_list_that_was_cut_off_keeps_its_whole_items_without_another_call(desk: Desk) -> None:
    """Eight examples and a half one are eight examples."""
    text = json.dumps({"examples": [{"input": f"What is {n} + 1?", "output": str(n + 1)} for n in range(9)]})
    desk.answers(then=Says(text[: text.index("What is 8")], ending="truncated"))

    for _ in range(2):
        async with desk.teacher() as teacher:
            answer = await teacher.ask(question(), NewExamples)
        assert len(answer.value.examples) == 8
        assert len(desk.requests) == 1


async def test_an_endpoint_that_once_kept_to_json_is_not_given_up_for_one_bad_question(openai_desk: Desk) -> None:
    """Also when the good answers were given to a worker before this one: the journal knows."""
    openai_desk.script = lambda request: (
        Fails("parameter", name="response_format") if "response_format" in request.body else GOOD
    )
    await ask(openai_desk)
    openai_desk.script = lambda _: IN_WORDS

    async with openai_desk.teacher() as teacher:
        with pytest.raises(RowDeclined):
            await teacher.ask(question("And 3 + 2?"), WorkedSolution)

    assert [intent["form"] for intent in openai_desk.records("intent")] == ["json_schema", *["md_json"] * 3]
