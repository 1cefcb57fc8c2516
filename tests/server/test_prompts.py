"""What a user picks from a client's menu, and what is offered while an argument is typed."""

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference, TextContent

from nanodistill_mcp.server.build import INSTRUCTIONS, build_server
from nanodistill_mcp.server.tools import all_tools
from nanodistill_mcp.settings import load_settings
from tests.runs.made import make_run

TEMPLATE = ResourceTemplateReference(uri="nanodistill://runs/{run_id}/{+artifact}")
REVIEW = PromptReference(name="review_data")


@pytest.fixture(params=["auto", "legacy"])
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    """A client of each era of the protocol, in the server's own process."""
    (tmp_path / "config.yaml").write_text(
        json.dumps({"teachers": {"desk": {"model": "openai/desk", "api_base": "http://127.0.0.1:9"}}}), encoding="utf-8"
    )
    async with Client(build_server(load_settings(tmp_path, env={})), mode=request.param) as connected:
        yield connected


async def _text(client: Client, name: str, **arguments: str) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert isinstance(message.content, TextContent)
    return message.content.text


async def _offered(
    client: Client, ref: PromptReference | ResourceTemplateReference, name: str, typed: str
) -> list[str]:
    found = await client.complete(ref, {"name": name, "value": typed}, context_arguments={"run_id": "tickets-2"})
    return found.completion.values


async def test_each_prompt_names_only_tools_there_are(client: Client, tmp_path: Path) -> None:
    """A prompt is an agent's plan: a tool in it that does not exist costs a turn in every chat."""
    make_run(tmp_path)
    listed = (await client.list_prompts()).prompts
    assert [prompt.name for prompt in listed] == ["distill", "review_data", "why_is_it_wrong", "ship_it"]
    tools = {tool.name for tool in all_tools()}
    words = {word for tool in tools for word in (tool,) if "_" in word}
    for prompt in listed:
        text = await _text(client, prompt.name)
        called = set(re.findall(r"\b([a-z]+_[a-z_]+)\b(?!\.)", text)) - {
            "failure_groups",
            "next_step",
            "run_id",
            "held_out",
        }
        assert called <= words, prompt.name
        assert called
        assert len(text) < 2_000


async def test_a_prompt_names_the_run_and_pastes_nothing_of_it(client: Client, tmp_path: Path) -> None:
    """A prompt speaks as the user: what a teacher or a file wrote must not stand in it."""
    run = make_run(tmp_path, "tickets-1")
    make_run(tmp_path, "tickets-2")
    for name in ("review_data", "why_is_it_wrong", "ship_it"):
        text = await _text(client, name, run_id="tickets-1")
        assert "'tickets-1'" in text
        assert run.manifest.spec.instruction not in text
        assert "question 1" not in text


async def test_a_run_that_is_left_out_is_the_newest(client: Client, tmp_path: Path) -> None:
    """Most clients let a user send a prompt without filling it in."""
    with pytest.raises(MCPError, match="There are no runs yet"):
        await _text(client, "ship_it")
    make_run(tmp_path, "tickets-1")
    make_run(tmp_path, "tickets-2")
    assert "'tickets-2'" in await _text(client, "ship_it")


async def test_what_a_user_typed_into_distill_is_asked_for_no_more(client: Client) -> None:
    """Whatever was left out is asked for, and what was given is used."""
    empty = await _text(client, "distill")
    assert "ask me." in empty
    assert "ask me for about ten pairs" in empty
    full = await _text(
        client, "distill", task="sort mail", examples="/tmp/mail.csv", teacher="host", student="org/small"
    )
    assert "create_run with teacher='host', student='org/small'" in full
    assert "sort mail" in full
    assert "/tmp/mail.csv" in full
    assert "ask me." not in full


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        pytest.param("ship", {}, "There is no prompt 'ship'. Prompts: distill,", id="prompt"),
        pytest.param(
            "ship_it", {"run": "a"}, "ship_it takes no argument 'run'. Accepted: run_id, quant", id="argument"
        ),
        pytest.param("ship_it", {"run_id": "nope"}, "There is no run 'nope'. Known runs: tickets.", id="run"),
    ],
)
async def test_a_prompt_that_cannot_be_made_says_what_there_is(
    client: Client, tmp_path: Path, name: str, arguments: dict[str, str], told: str
) -> None:
    """The SDK's own error is "internal server error"."""
    make_run(tmp_path)
    with pytest.raises(MCPError, match=re.escape(told)):
        await client.get_prompt(name, arguments)


async def test_what_is_typed_is_completed_from_what_there_is(client: Client, tmp_path: Path) -> None:
    """Ids of runs and names of files are long, and a user who must type them in full picks another tool."""
    make_run(tmp_path, "mail")
    make_run(tmp_path, "tickets-2")
    assert await _offered(client, REVIEW, "run_id", "") == ["tickets-2", "mail"]
    assert await _offered(client, REVIEW, "run_id", "I") == ["tickets-2", "mail"]
    assert await _offered(client, REVIEW, "run_id", "Tick") == ["tickets-2"]
    assert await _offered(client, TEMPLATE, "run_id", "ma") == ["mail"]
    assert (await _offered(client, TEMPLATE, "artifact", "s"))[:2] == ["status", "seeds.jsonl"]
    distill = PromptReference(name="distill")
    assert await _offered(client, distill, "teacher", "") == ["claude-sonnet-5-5", "desk", "host", "local"]
    assert await _offered(client, distill, "student", "/mod") == ["/models/tiny"]
    assert (await _offered(client, PromptReference(name="ship_it"), "quantization", "q4"))[0] == "Q4_K_M"
    assert await _offered(client, distill, "task", "x") == []


async def test_a_completion_survives_a_damaged_run(client: Client, tmp_path: Path) -> None:
    """One broken file must not take the menu away."""
    make_run(tmp_path, "tickets-2").paths.manifest.write_text("{", encoding="utf-8")
    assert await _offered(client, PromptReference(name="distill"), "student", "/") != []
    assert await _offered(client, TEMPLATE, "artifact", "stat") == []
    assert await _offered(client, TEMPLATE, "run_id", "t") == ["tickets-2"]


async def test_a_client_is_sent_a_hundred_values_at_most(client: Client, tmp_path: Path) -> None:
    """The protocol's own limit; the rest is counted."""
    for number in range(102):
        (tmp_path / "runs" / f"r{number}").mkdir(parents=True, exist_ok=True)
    found = (await client.complete(REVIEW, {"name": "run_id", "value": "r"})).completion
    assert (len(found.values), found.total, found.has_more) == (100, 102, True)


def test_the_instructions_are_short_and_begin_with_what_matters() -> None:
    """They stand in every conversation, and some clients cut them at two thousand characters."""
    assert len(INSTRUCTIONS) < 1_000
    order = ["create_run", "synthesize_cot", "extract_policy", "amplify", "train", "evaluate", "export_gguf"]
    found = [INSTRUCTIONS.index(name) for name in order]
    assert found == sorted(found)
    assert max(found) < 250
