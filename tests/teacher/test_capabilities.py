"""How a teacher is asked, and how that changes when it refuses a parameter: on the wire, and in the file that remembers."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nanodistill_mcp.demo.wire import Fails, Says, WireReply, WireRequest
from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.teacher.answers import WorkedSolution
from nanodistill_mcp.teacher.capabilities import THINKING_TOKENS, Capabilities
from tests.teacher.conftest import GOOD, Desk, question


def remembered(desk: Desk) -> dict[str, dict[str, str]]:
    """What stands in the file of learnt refusals."""
    return json.loads(desk.capabilities_path.read_text(encoding="utf-8"))


def body(desk: Desk) -> dict[str, Any]:
    """What the newest request asked."""
    return desk.requests[-1].body


async def ask(desk: Desk, text: str = "What is 2 + 2?", **further: Any) -> str:
    """One question of a stage of its own."""
    async with desk.teacher(**further) as teacher:
        return (await teacher.ask(question(text), WorkedSolution)).value.answer


async def test_what_a_current_claude_refuses_is_dropped_once_and_remembered(claude_desk: Desk) -> None:
    """A model no library knows yet: sampling parameters and forced tools answer 400, and the stage goes on."""
    endpoint = claude_desk.endpoint(model="anthropic/claude-future-9")

    first = await ask(claude_desk, endpoint=endpoint, sampling={"temperature": 0.7})
    refused = len(claude_desk.requests) - 1
    second = await ask(claude_desk, "And 3 + 2?", endpoint=endpoint, sampling={"temperature": 0.7})

    assert (first, second) == ("4", "4")
    assert refused == 2
    assert len(claude_desk.requests) == refused + 2, "the second stage begins with what the first one learnt"
    assert "temperature" not in body(claude_desk)
    assert body(claude_desk)["tools"][0]["name"] == "WorkedSolution"
    today = datetime.now(UTC).date().isoformat()
    assert list(remembered(claude_desk).values()) == [{"temperature": today, "tool_choice": today}]


async def test_the_default_teacher_is_asked_right_the_first_time(claude_desk: Desk) -> None:
    """Its schema is native, it takes no sampling parameters, and its own thinking needs room beside the answer."""
    await ask(claude_desk, endpoint=claude_desk.endpoint(model="claude-sonnet-5-5"), sampling={"temperature": 0.7})

    assert len(claude_desk.requests) == 1
    assert "temperature" not in body(claude_desk)
    assert "tool_choice" not in body(claude_desk)
    assert body(claude_desk)["output_format"]["type"] == "json_schema"
    assert body(claude_desk)["output_config"] == {"effort": "low"}
    assert body(claude_desk)["max_tokens"] == 2048 + THINKING_TOKENS


async def test_a_parameter_a_server_does_not_know_is_dropped(openai_desk: Desk) -> None:
    """Servers that speak OpenAI's format know different parts of it."""
    openai_desk.script = lambda request: Fails("parameter", name="top_p") if "top_p" in request.body else GOOD

    await ask(openai_desk, sampling={"top_p": 0.9, "temperature": 0.5})

    assert len(openai_desk.requests) == 2
    assert body(openai_desk)["temperature"] == 0.5
    assert [record["cost_usd"] for record in openai_desk.records("error")] == [0.0]


async def test_the_old_name_of_the_token_limit_gives_way_to_the_new_one(openai_desk: Desk) -> None:
    """Newer servers refuse max_tokens and name its successor; without either, an answer could cost anything."""
    complaint = Fails("parameter", name="max_tokens' is not supported, use 'max_completion_tokens")
    openai_desk.script = lambda request: complaint if "max_tokens" in request.body else GOOD

    await ask(openai_desk)

    assert body(openai_desk)["max_completion_tokens"] == 2048


async def test_a_server_without_json_schemas_is_asked_in_words(openai_desk: Desk) -> None:
    """A refused response_format changes the way of asking; the row is not lost."""
    openai_desk.script = lambda request: (
        Fails("parameter", name="response_format") if "response_format" in request.body else GOOD
    )

    assert await ask(openai_desk) == "4"

    assert len(openai_desk.requests) == 2
    assert '"answer"' in openai_desk.requests[-1].system, "the schema is in the words"


async def test_a_server_that_takes_a_schema_and_ignores_it_is_asked_in_words(openai_desk: Desk) -> None:
    """Such a server never errs; only its answers show it. One question is spent on finding out."""

    def script(request: WireRequest) -> WireReply:
        return Says("It is four, of course.") if "response_format" in request.body else GOOD

    openai_desk.script = script

    assert await ask(openai_desk) == "4"
    assert len(openai_desk.requests) == 3
    assert await ask(openai_desk, "And 3 + 2?") == "4"
    assert len(openai_desk.requests) == 4


async def test_what_one_endpoint_refuses_is_still_sent_to_another(openai_desk: Desk) -> None:
    """Two servers behind the same model name are two endpoints."""
    here = openai_desk.endpoint()
    elsewhere = openai_desk.endpoint(api_base="http://127.0.0.1:1/v1")
    capabilities = Capabilities(openai_desk.capabilities_path)

    assert capabilities.learn(here, {"temperature": 1}, "`temperature` is deprecated") == "temperature"

    again = Capabilities(openai_desk.capabilities_path)
    assert "temperature" in next(iter(remembered(openai_desk).values()))
    assert again.learn(elsewhere, {}, "`temperature` is deprecated") == ""


async def test_a_refusal_is_believed_for_a_month(openai_desk: Desk) -> None:
    """Servers are updated; what they refused once is tried again."""
    old = (datetime.now(UTC) - timedelta(days=40)).date().isoformat()
    key = f"openai/desk at {openai_desk.server.openai_url}"
    openai_desk.capabilities_path.write_text(json.dumps({key: {"temperature": old}}), encoding="utf-8")

    await ask(openai_desk, sampling={"temperature": 0.5})

    assert body(openai_desk)["temperature"] == 0.5


async def test_a_refusal_that_names_no_parameter_stops_the_stage(desk: Desk) -> None:
    """Dropping something at random would only hide what is wrong."""
    desk.answers(then=Fails("parameter", name="moonlight"))

    with pytest.raises(TeacherError, match=r"rejects the form of the request \(HTTP 400\)"):
        await ask(desk, sampling={"temperature": 0.5})

    assert len(desk.requests) == 1


async def test_a_damaged_memory_is_no_obstacle(openai_desk: Desk) -> None:
    """It only saves a request; it can be learnt again."""
    openai_desk.capabilities_path.write_text("{", encoding="utf-8")

    assert await ask(openai_desk) == "4"


async def test_what_the_operator_says_of_a_model_shapes_the_first_request(openai_desk: Desk) -> None:
    """Nothing has to be refused first, and nothing is spent on finding out."""
    said = {"answers_by_schema": False, "calls_tools": True, "max_output_tokens": 512, "leave_out": ["temperature"]}

    await ask(openai_desk, endpoint=openai_desk.endpoint(overrides=said), sampling={"temperature": 0.5, "top_p": 0.9})

    assert len(openai_desk.requests) == 1
    assert body(openai_desk)["tools"][0]["function"]["name"] == "WorkedSolution"
    assert body(openai_desk)["max_tokens"] == 512
    assert "temperature" not in body(openai_desk)
    assert body(openai_desk)["top_p"] == 0.9
