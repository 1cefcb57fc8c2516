"""The short way to a server of one's own: what LiteLLM would send and read, without LiteLLM, and with it for all that is odd."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from nanodistill_mcp.demo.wire import Breaks, Fails, Says, WireReply
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.direct import DirectLine
from nanodistill_mcp.teacher.libraries import litellm
from tests.teacher.conftest import BAD, GOOD, SECRET, Desk, question, questions

WARM = 2
"""Questions after which the short way is taken: the first is LiteLLM's, the second shows it."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call that LiteLLM itself makes from here on."""
    made: list[dict[str, Any]] = []
    acompletion: Callable[..., Any] = litellm().acompletion

    async def counted(**request: Any) -> Any:
        made.append(request)
        return await acompletion(**request)

    monkeypatch.setattr(litellm(), "acompletion", counted)
    return made


async def test_only_the_first_question_of_a_form_costs_litellms_work(openai_desk: Desk, calls: list[Any]) -> None:
    """One call of its own and one that is only played: everything after that is filled in."""
    async with openai_desk.teacher() as teacher:
        for prompt in questions(6):
            assert (await teacher.ask(prompt, WorkedSolution)).value.answer == "4"
    assert (len(openai_desk.requests), len(calls)) == (6, 2)


async def test_the_server_sees_no_difference(openai_desk: Desk) -> None:
    """Key, headers and body are those of LiteLLM's own request, whatever stands in the question."""
    odd = 'What is "2" \\ {{7*7}} «2»\x02\u2028\U0001f600 </input>\n\n '
    async with openai_desk.teacher(sampling={"temperature": 0.7}) as teacher:
        for text in ("plain", odd):
            await teacher.ask(question(text), WorkedSolution)
    by_litellm, direct = openai_desk.requests
    unlike = ("host", "content-length")
    for name in by_litellm.headers.keys() - set(unlike):
        assert direct.headers[name] == by_litellm.headers[name]
    assert direct.headers.keys() == by_litellm.headers.keys()
    assert direct.body["messages"][1]["content"] == question(odd).user
    assert {**direct.body, "messages": 0} == {**by_litellm.body, "messages": 0}


@pytest.mark.parametrize(
    ("replies", "errors"),
    [
        ([Fails("rate_limit", headers={"retry-after": "0.01"})], [("rate_limit", 429)]),
        ([Fails("server"), Fails("overloaded")], [("server", 500), ("server", 503)]),
        ([Breaks("html")], [("broken", 0)]),
        ([Breaks("half_json")], [("broken", 0)]),
        ([Breaks("reset")], [("broken", 0)]),
        ([Fails("parameter", name="temperature")], [("rejected", 400)]),
    ],
)
async def test_failures_are_those_that_litellm_makes_of_them(
    openai_desk: Desk, replies: list[WireReply], errors: list[tuple[str, int]]
) -> None:
    """What a stage does about a failure depends on how LiteLLM names it, so it is played to LiteLLM."""
    async with openai_desk.teacher(sampling={"temperature": 0.7}) as teacher:
        for prompt in questions(WARM):
            await teacher.ask(prompt, WorkedSolution)
        openai_desk.answers(*replies)
        assert (await teacher.ask(question("and now?"), WorkedSolution)).value.answer == "4"
    assert [(record["error"], record["status"]) for record in openai_desk.records("error")] == errors
    assert len(openai_desk.requests) == WARM + len(replies) + 1  # none was sent twice


async def test_a_silent_server_is_a_timeout(openai_desk: Desk) -> None:
    """A timeout may be billed and slows the pace down, so it must not pass for a broken answer."""
    async with openai_desk.teacher(timeout_s=0.5) as teacher:
        for prompt in questions(WARM):
            await teacher.ask(prompt, WorkedSolution)
        openai_desk.answers(Says(GOOD.value, delay_s=30))
        assert (await teacher.ask(question("and now?"), WorkedSolution)).value.answer == "4"
    assert [record["error"] for record in openai_desk.records("error")] == ["timeout"]


async def test_an_unreadable_answer_goes_back_with_what_was_wrong(openai_desk: Desk) -> None:
    """Asking again is Instructor's work, and it needs the reply as LiteLLM reads it."""
    async with openai_desk.teacher() as teacher:
        for prompt in questions(WARM):
            await teacher.ask(prompt, WorkedSolution)
        openai_desk.answers(BAD, GOOD)
        assert (await teacher.ask(question("and now?"), WorkedSolution)).value.answer == "4"
    assert len(openai_desk.requests) == WARM + 2
    told = openai_desk.requests[-1].body["messages"]
    assert json.loads(told[2]["content"]) == BAD.value
    assert "solution" in told[3]["content"]


async def test_thinking_is_parted_from_the_answer_as_before(openai_desk: Desk, calls: list[Any]) -> None:
    """LiteLLM takes thinking out of a reply that begins with it; such a model goes by LiteLLM from then on."""
    thinks = Says("<think>two and two</think>" + json.dumps(GOOD.value))
    async with openai_desk.teacher() as teacher:
        for prompt in questions(WARM):
            await teacher.ask(prompt, WorkedSolution)
        openai_desk.answers(then=thinks)
        before = len(calls)
        for number in range(3):
            await teacher.ask(question(f"and {number}?"), WorkedSolution)
    assert len(calls) - before == 3
    assert openai_desk.records("answer")[-1]["text"] == json.dumps(GOOD.value)


async def test_a_server_that_always_thinks_aloud_is_left_to_litellm(openai_desk: Desk, calls: list[Any]) -> None:
    """The short way is not taken before one answer has shown that it comes to the same."""
    openai_desk.answers(then=Says("<think>two and two</think>" + json.dumps(GOOD.value)))
    async with openai_desk.teacher() as teacher:
        for prompt in questions(3):
            await teacher.ask(prompt, WorkedSolution)
    assert (len(openai_desk.requests), len(calls)) == (3, 4)


async def test_claude_goes_by_litellm(claude_desk: Desk, calls: list[Any]) -> None:
    """Nothing but OpenAI's format is known well enough."""
    async with claude_desk.teacher() as teacher:
        for prompt in questions(3):
            await teacher.ask(prompt, WorkedSolution)
    assert len(calls) == 3


async def test_no_key_shows_in_what_may_be_printed(openai_desk: Desk) -> None:
    """A reply and the line itself may turn up in a traceback."""
    address = openai_desk.server.openai_url
    fixed = {"model": "openai/desk", "timeout": 5, "api_base": address, "api_key": SECRET}
    line = DirectLine(fixed, own_prices=True)
    sent = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "max_tokens": 16}
    replies = [await line.send(sent) for _ in range(3)]
    await line.aclose()
    assert replies[-1].response is None
    assert isinstance(replies[-1].raw, httpx.Response)
    assert SECRET not in repr(replies) + repr(line) + repr(replies[-1].raw)
