"""The loopback teacher keeps to the providers' formats, so that what holds against it holds against them."""

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import pytest

from nanodistill_mcp.demo.wire import Breaks, Fails, Refuses, Says, WireReply, WireRequest, WireServer

SCHEMA = {"title": "Pair", "type": "object", "properties": {"a": {"type": "string"}}}
ANSWER = Says({"a": "b"})
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
OPENAI_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "Pair", "schema": SCHEMA}}}
OPENAI_TOOL = {"tools": [{"type": "function", "function": {"name": "Pair", "parameters": SCHEMA}}]}
CLAUDE_SCHEMA = {"output_format": {"type": "json_schema", "schema": SCHEMA}}
CLAUDE_TOOL = {"tools": [{"name": "Pair", "input_schema": SCHEMA}]}


def post(server: WireServer, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
    """Send a request and read what comes back, an error too."""
    request = urllib.request.Request(server.base_url + path, json.dumps(body).encode(), {"X-Api-Key": "k"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers


@pytest.mark.parametrize("form", [{}, OPENAI_SCHEMA, OPENAI_TOOL], ids=["plain", "schema", "tool"])
def test_openai_s_format_answers_in_the_form_that_was_asked(form: dict[str, Any]) -> None:
    """A client that asked for a tool call does not look at the text."""
    with WireServer(lambda _: ANSWER) as server:
        status, body, _ = post(server, "/v1/chat/completions", {**ASKED, **form})

    message = body["choices"][0]["message"]
    text = message["tool_calls"][0]["function"]["arguments"] if form is OPENAI_TOOL else message["content"]
    assert (status, json.loads(text)) == (200, {"a": "b"})
    assert server.requests[0].schema_name == ("Pair" if form else "")
    assert body["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("form", [{}, CLAUDE_SCHEMA, CLAUDE_TOOL], ids=["plain", "schema", "tool"])
def test_anthropic_s_format_answers_in_the_form_that_was_asked(form: dict[str, Any]) -> None:
    """The same, in content blocks."""
    with WireServer(lambda _: ANSWER) as server:
        status, body, _ = post(server, "/v1/messages", {**ASKED, "system": [{"type": "text", "text": "s"}], **form})

    block = body["content"][0]
    assert status == 200
    assert (block["input"] if form is CLAUDE_TOOL else json.loads(block["text"])) == {"a": "b"}
    assert body["stop_reason"] == ("tool_use" if form is CLAUDE_TOOL else "end_turn")
    assert server.requests[0].system == "s"
    assert server.requests[0].user == "hi"
    assert server.requests[0].schema_name == ("Pair" if form else "")


@pytest.mark.parametrize(
    ("reply", "openai", "anthropic"),
    [
        (Says("cut", ending="truncated"), "length", "max_tokens"),
        (Says("x", ending="filtered"), "content_filter", "refusal"),
        (Refuses(), "stop", "refusal"),
    ],
    ids=["truncated", "filtered", "refused"],
)
def test_an_answer_that_did_not_end_well_is_marked_as_the_provider_marks_it(
    reply: WireReply, openai: str, anthropic: str
) -> None:
    """Clients tell refusals from answers by these marks alone."""
    with WireServer(lambda _: reply) as server:
        choice = post(server, "/v1/chat/completions", ASKED)[1]["choices"][0]
        message = post(server, "/v1/messages", ASKED)[1]

    assert choice["finish_reason"] == openai
    assert bool(choice["message"].get("refusal")) == isinstance(reply, Refuses)
    assert message["stop_reason"] == anthropic


def test_a_failure_has_the_provider_s_status_body_and_headers() -> None:
    """The same trouble has another status on the other wire."""
    limited = Fails("no_credit", headers={"retry-after": "7"})
    with WireServer(lambda _: limited) as server:
        openai = post(server, "/v1/chat/completions", ASKED)
        anthropic = post(server, "/v1/messages", ASKED)

    assert (openai[0], openai[1]["error"]["code"], openai[2]["retry-after"]) == (429, "insufficient_quota", "7")
    assert (anthropic[0], anthropic[1]["type"]) == (400, "error")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({**CLAUDE_TOOL, "tool_choice": {"type": "tool", "name": "Pair"}}, "tool_choice"),
        ({"messages": [*ASKED["messages"], {"role": "assistant", "content": "{"}]}, "prefill"),
    ],
    ids=["sampling", "forced", "prefill"],
)
def test_what_current_claude_models_refuse_is_refused_when_asked_for(change: dict[str, Any], word: str) -> None:
    """Otherwise a client that sends it passes here and fails there."""
    with WireServer(lambda _: ANSWER, strict_claude=True) as server:
        status, body, _ = post(server, "/v1/messages", {**ASKED, **change})
        accepted, _, _ = post(server, "/v1/messages", {**ASKED, "temperature": 1})
    with WireServer(lambda _: ANSWER) as server:
        lenient, _, _ = post(server, "/v1/messages", {**ASKED, **change})

    assert (status, accepted, lenient) == (400, 200, 200)
    assert word in body["error"]["message"]


def test_a_broken_answer_is_broken_on_the_wire() -> None:
    """A page, half a body, a closed connection."""
    with WireServer(lambda request: Breaks(request.body["model"])) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for how, start in (("html", b"<html>"), ("half_json", b'{"id"')):
            connection.request("POST", "/v1/chat/completions", json.dumps({**ASKED, "model": how}))
            assert connection.getresponse().read().startswith(start)
        connection.request("POST", "/v1/chat/completions", json.dumps({**ASKED, "model": "reset"}))
        with pytest.raises(ConnectionError):
            connection.getresponse()
        connection.close()


async def test_a_hundred_questions_are_answered_side_by_side_over_kept_connections() -> None:
    """A client with many workers must meet its own limit, not the server's."""
    with WireServer(lambda _: Says({"a": "b"}, delay_s=0.1)) as server:
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask() -> int:
                async with session.post(f"{server.openai_url}/chat/completions", json=ASKED) as response:
                    await response.read()
                    return response.status

            first = await asyncio.gather(*[ask() for _ in range(100)])
            again = await asyncio.gather(*[ask() for _ in range(100)])

    assert set(first + again) == {200}
    assert 64 <= server.peak_in_flight <= 100
    assert len(server.requests) == 200


def test_the_server_ends_at_once_with_requests_still_waiting() -> None:
    """A stalled answer must not hold up the test that wanted it stalled."""
    with WireServer(lambda _: Says("late", delay_s=600)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps(ASKED))
        while not server.requests:
            pass

    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


def test_a_mistake_in_the_answer_function_is_raised_where_the_server_is_closed() -> None:
    """Swallowed, it would look like a provider's failure."""

    def wrong(_: WireRequest) -> WireReply:
        raise LookupError

    with pytest.raises(LookupError), WireServer(wrong) as server:
        assert post(server, "/v1/messages", ASKED)[0] == 500


def test_it_lists_its_model_and_knows_nothing_else() -> None:
    """Some clients look for models first."""
    with WireServer(lambda _: ANSWER) as server:
        with urllib.request.urlopen(f"{server.openai_url}/models", timeout=10) as response:
            assert json.load(response)["data"][0]["id"] == "demo-teacher"
        assert post(server, "/v1/embeddings", ASKED)[0] == 404
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/v1/messages", "not json")
        assert connection.getresponse().status == 400
        connection.close()
