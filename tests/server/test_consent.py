"""What cannot be had back needs the user's own word: from the client where it can ask, else through the agent."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult

from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.records import Range, StageEstimate
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.settings import load_settings
from tests.conftest import said
from tests.runs.made import SEEDS, make_run, manifest

ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


class User:
    """Somebody at a client that can ask: what was asked, and the one answer given."""

    def __init__(self, answer: ElicitResult) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, _: Any, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params.message)
        return self.answer


def yes() -> User:
    """Somebody who agrees."""
    return User(ElicitResult(action="accept", content={"go_on": True}))


@asynccontextmanager
async def _client(home: Path, user: User | None, mode: str = "auto", **settings: Any) -> AsyncGenerator[Client]:
    (home / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    server = build_server(load_settings(home, env={}))
    async with Client(server, elicitation_callback=user, mode=mode) as client:  # pyright: ignore[reportArgumentType]
        yield client


def _priced(home: Path, high: float = 5.0) -> Run:
    """A run whose synthesize_cot is estimated at up to so many dollars, and whose student there is none of."""
    several = Range(low=1, high=2)
    estimate = StageEstimate(
        calls=several, input_tokens=several, output_tokens=several, cost_usd=Range(low=high / 2, high=high)
    )
    made = manifest()
    plan = made.plan.model_copy(update={"by_stage": {"synthesize_cot": estimate, "amplify": estimate}})
    run, _ = RunStore(home).create(made.model_copy(update={"plan": plan}), SEEDS)
    return run


def _told(reply: CallToolResult) -> str:
    return said(reply).split(": ", 1)[1]


@ERAS
async def test_a_run_is_deleted_when_the_user_says_yes_to_the_client(tmp_path: Path, mode: str) -> None:
    """The question names the run and says what becomes of it."""
    make_run(tmp_path)
    user = yes()
    async with _client(tmp_path, user, mode) as client:
        reply = await client.call_tool("delete_run", {"run_id": "tickets"})
    assert not reply.is_error
    assert user.asked == ["Move the run tickets to the trash? Nothing is erased."]
    assert RunStore(tmp_path).names() == []


@ERAS
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ElicitResult(action="decline"), "The user said no, and nothing was done."),
        (ElicitResult(action="accept", content={"go_on": False}), "The user said no, and nothing was done."),
        (ElicitResult(action="cancel"), "The user was asked and gave no answer."),
    ],
)
async def test_without_the_users_yes_the_run_stays(tmp_path: Path, mode: str, answer: ElicitResult, told: str) -> None:
    """A client without a person at it cancels by itself; then the agent asks in the chat, and passes the word on."""
    make_run(tmp_path)
    async with _client(tmp_path, User(answer), mode) as client:
        reply = await client.call_tool("delete_run", {"run_id": "tickets"})
    assert reply.is_error
    assert told in said(reply)
    assert said(reply).endswith("then call delete_run(run_id='tickets', confirm_name='tickets').")
    assert RunStore(tmp_path).names() == ["tickets"]


@pytest.mark.parametrize("user", [None, User(ElicitResult(action="accept", content={"go_on": True}))])
async def test_the_agents_own_confirmation_is_taken_or_refused_without_a_question(
    tmp_path: Path, user: User | None
) -> None:
    """The path of every client that cannot ask, and a wrong name is no yes for one that can."""
    make_run(tmp_path)
    async with _client(tmp_path, user) as client:
        wrong = await client.call_tool("delete_run", {"run_id": "tickets", "confirm_name": "yes"})
        unknown = await client.call_tool("delete_run", {"run_id": "nope"})
        right = await client.call_tool("delete_run", {"run_id": "tickets", "confirm_name": "tickets"})
    assert _told(wrong).startswith("confirm_name is not the run's id. Ask the user, then call delete_run(")
    assert _told(unknown).startswith("There is no run 'nope'.")
    assert not right.is_error
    assert user is None or user.asked == []


async def test_a_client_that_cannot_ask_is_told_which_argument_confirms(tmp_path: Path) -> None:
    """It asks in the chat."""
    make_run(tmp_path)
    async with _client(tmp_path, None) as client:
        reply = await client.call_tool("delete_run", {"run_id": "tickets"})
    assert _told(reply) == (
        "A run is deleted on the user's word alone. Ask the user, then call "
        "delete_run(run_id='tickets', confirm_name='tickets')."
    )


@ERAS
async def test_a_stage_above_the_limit_asks_with_its_price_and_a_no_spends_nothing(tmp_path: Path, mode: str) -> None:
    """The user sees what it may cost, and the most it ever pays."""
    run = _priced(tmp_path)
    user = User(ElicitResult(action="decline"))
    async with _client(tmp_path, user, mode, budget={"ask_above_usd": 2}) as client:
        reply = await client.call_tool("synthesize_cot", {"run_id": "tickets"})
    price = "synthesize_cot of the run tickets is estimated at $2.50 to $5.00, and never pays more than the run's $5 in all."
    assert user.asked == [f"{price} Go on?"]
    assert _told(reply) == (
        f"{price} The user said no, and nothing was done. Ask the user, then call synthesize_cot(run_id='tickets', "
        "budget_usd=5) with the same arguments as before, which says that they agree to the budget."
    )
    assert run.paths.job_list() == []


@pytest.mark.parametrize(
    ("high", "settings", "arguments"),
    [
        pytest.param(5.0, {}, {}, id="no limit is set"),
        pytest.param(1.5, {"budget": {"ask_above_usd": 2}}, {}, id="it is below the limit"),
        pytest.param(5.0, {"budget": {"ask_above_usd": 2}}, {"budget_usd": 5}, id="the agent passed the word on"),
        pytest.param(5.0, {"budget": {"ask_above_usd": 2}}, None, id="the user says yes"),
    ],
)
async def test_a_stage_goes_on_without_a_limit_below_it_or_with_the_users_word(
    tmp_path: Path, high: float, settings: dict[str, Any], arguments: dict[str, Any] | None
) -> None:
    """What is refused next is the student that is not there: the stage was about to start."""
    _priced(tmp_path, high)
    user = yes()
    async with _client(tmp_path, user, **settings) as client:
        reply = await client.call_tool("synthesize_cot", {"run_id": "tickets", **(arguments or {})})
    assert len(user.asked) == (1 if arguments is None else 0)
    assert _told(reply).startswith("That student's folder is outside")


async def test_a_client_that_cannot_ask_about_a_price_is_told_the_argument_too(tmp_path: Path) -> None:
    """Claude Desktop's chat cannot ask: the agent does, in words."""
    _priced(tmp_path)
    async with _client(tmp_path, None, budget={"ask_above_usd": 2}) as client:
        reply = await client.call_tool("synthesize_cot", {"run_id": "tickets"})
    assert "Ask the user, then call synthesize_cot(run_id='tickets', budget_usd=5)" in _told(reply)
    assert "said no" not in _told(reply)


async def test_a_stage_that_is_done_asks_nothing_and_one_that_is_to_make_more_does(tmp_path: Path) -> None:
    """Looking at a result costs nothing."""
    run = _priced(tmp_path)
    write_json(run.paths.policy, {})
    run.paths.traces_cot.write_bytes(b"")
    run.paths.traces_amplified.write_bytes(b"")
    user = User(ElicitResult(action="decline"))
    async with _client(tmp_path, user, budget={"ask_above_usd": 2}) as client:
        await client.call_tool("synthesize_cot", {"run_id": "tickets"})
        assert user.asked == []
        more = await client.call_tool("amplify", {"run_id": "tickets", "target_size": 500})
    assert len(user.asked) == 1
    assert more.is_error


TEN = [{"input": f"message {number}\u202e", "output": "even" if number % 2 == 0 else "odd"} for number in range(1, 11)]


async def _create(client: Client, **given: Any) -> str:
    """What create_run says of these examples and a student there is none of: refused, once the examples are agreed on."""
    arguments = {"name": "new", "instruction": "Sort.", "seed": TEN, "student": "/nowhere", **given}
    return _told(await client.call_tool("create_run", arguments))


@ERAS
async def test_examples_drawn_for_the_proof_are_shown_and_a_no_makes_no_run(tmp_path: Path, mode: str) -> None:
    """Two wrong outputs among them, and the number at the end says nothing."""
    user = User(ElicitResult(action="decline"))
    async with _client(tmp_path, user, mode) as client:
        told = await _create(client)
    lines = user.asked[0].splitlines()
    assert lines[0].startswith("2 of the examples are kept aside")
    shown = {line.replace("\N{REPLACEMENT CHARACTER}", "\u202e") for line in lines[1:-1]}
    assert shown < {f"{row['input']} \N{RIGHTWARDS ARROW} {row['output']}" for row in TEN}
    assert len(shown) == 2
    assert lines[-1].endswith("?")
    assert told.startswith("The user does not want these examples held out, and no run was made. Ask which")
    assert "options.held_out=[" in told
    assert RunStore(tmp_path).names() == []


@pytest.mark.parametrize(
    ("user", "options", "asked"),
    [
        pytest.param(yes(), {}, 1, id="the user says yes"),
        pytest.param(User(ElicitResult(action="cancel")), {}, 1, id="nobody is at the client"),
        pytest.param(None, {}, 0, id="the client cannot ask"),
        pytest.param(yes(), {"held_out": [1, 2]}, 0, id="they were named"),
        pytest.param(yes(), {"held_out_split": 0}, 0, id="none is held out"),
    ],
)
async def test_what_was_agreed_on_named_or_could_not_be_asked_goes_on(
    tmp_path: Path, user: User | None, options: dict[str, Any], asked: int
) -> None:
    """Nothing is spent yet: a client without a person at it is not stopped here."""
    async with _client(tmp_path, user) as client:
        told = await _create(client, options=options)
    assert told.startswith("That student's folder is outside")
    assert user is None or len(user.asked) == asked


async def test_a_run_that_is_there_asks_nothing_about_its_examples(tmp_path: Path) -> None:
    """A client that repeats a call gets the run, not the question again."""
    make_run(tmp_path)
    user = yes()
    async with _client(tmp_path, user) as client:
        await _create(client, name="tickets")
    assert user.asked == []


def test_the_question_is_no_argument_of_the_tool(tmp_path: Path) -> None:
    """An agent must not be able to answer for the user in its place."""
    server = build_server(load_settings(tmp_path, env={}))
    for tool in server._tool_manager.list_tools():  # pyright: ignore[reportPrivateUsage]
        assert not {"word", "held_out"} & set(tool.parameters["properties"])
