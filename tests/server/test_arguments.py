"""Bad input gets an error that says what is accepted, in one turn, and nothing is lost or spent."""

import json
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.shapes import UNDERSTOOD
from tests.conftest import Bench

SHAPE = (
    "Give 3 or more rows with the columns input and output, the output left out where the teacher is to answer: "
    "a JSON array of objects, JSONL (one object a line) or CSV with a header line."
)
CANARY = "CANARY-8d1f"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        pytest.param("seed.json", "{not json " + CANARY, f"The seed file is not JSON (line 1). {SHAPE}", id="not JSON"),
        pytest.param(
            "seed.jsonl",
            json.dumps({"question": CANARY, "answer": "b"}) + "\n",
            "Example 1 has 2 columns that are not exactly input and output. Rename the columns to input and output and "
            f"remove the others. {SHAPE} {UNDERSTOOD}",
            id="wrong columns",
        ),
        pytest.param("seed.csv", "", f"The seed file is empty. {SHAPE}", id="empty"),
        pytest.param(
            "seed.json",
            json.dumps([{"input": CANARY, "output": "b"}]),
            f"There is one distinct example; at least 3 are needed, ten or more are better. {SHAPE}",
            id="one row",
        ),
        pytest.param(
            "seed.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", f"The seed file is binary, not text. {SHAPE}", id="binary"
        ),
        pytest.param(
            "seed.json",
            b"\xff\xfe\xfa",
            f"The seed file is not UTF-8 text (byte 0). Save it as UTF-8. {SHAPE}",
            id="not UTF-8",
        ),
    ],
)
async def test_a_bad_seed_file_is_refused_with_what_is_accepted_and_none_of_its_content(
    bench: Bench, tmp_path: Path, name: str, content: str | bytes, text: str
) -> None:
    """The agent must be able to put it right in one turn; the file may hold something it was never meant to show."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    async with bench.connect() as agent:
        told = await agent.refused("create_run", name="bad", instruction="Sort.", seed_path=str(path), teacher="local")
        assert told == text
        assert CANARY not in told
        assert (await agent.call("get_status"))["runs"] == []
    assert bench.teacher.asked == []


async def test_a_byte_order_mark_and_ten_thousand_rows_are_accepted(bench: Bench, tmp_path: Path) -> None:
    """Spreadsheets write the mark, and a user with many examples need not cut them down."""
    path = tmp_path / "many.csv"
    rows = "".join(f"message number {number},{'even' if number % 2 == 0 else 'odd'}\n" for number in range(10_000))
    path.write_text("input,output\n" + rows, encoding="utf-8-sig")
    async with bench.connect() as agent:
        reply = await agent.create("many", seed=[], seed_path=str(path), augment_factor=1)
    assert (reply["plan"]["train_seeds"], reply["plan"]["held_out"]) == (8000, 2000)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(
            {"teacher": "no-such-model-9"},
            "No provider goes with the teacher id 'no-such-model-9'",
            id="unknown teacher",
        ),
        pytest.param(
            {"student": "/nowhere/at/all"},
            "That student's folder is outside the directories this server may read",
            id="student outside",
        ),
        pytest.param(
            {"preset": "turbo"}, "That is not a preset. Presets: recommended, nanodistill, minimal", id="preset"
        ),
        pytest.param(
            {"options": {"epoch_count": 3}},
            "The options are not accepted: epoch_count: Extra inputs are not permitted",
            id="option",
        ),
        pytest.param(
            {"budget_usd": 1000},
            "The budget of $1000 is above this server's ceiling of $20 per run. Ask for less, or raise budget.usd_per_run",
            id="budget",
        ),
        pytest.param({"name": "../up"}, "That is not a usable run name. Give 1 to 64 characters", id="name"),
        pytest.param({"instruction": " "}, "The instruction is empty. Say in a sentence or two", id="instruction"),
        pytest.param(
            {"seed": []},
            "Give the examples once. Pass either seed (a list of {input, output}) or seed_path",
            id="no seeds",
        ),
    ],
)
async def test_an_argument_that_is_not_accepted_is_named(bench: Bench, arguments: dict[str, Any], text: str) -> None:
    """A wrong argument costs one call and nothing else."""
    async with bench.connect() as agent:
        seeds = [{"input": f"message {number}", "output": "a"} for number in range(6)]
        valid = {"name": "r", "instruction": "Sort.", "seed": seeds, "teacher": "local", "augment_factor": 2}
        told = await agent.refused("create_run", **{**valid, **arguments})
        assert text in told
        assert (await agent.call("get_status"))["runs"] == []
    assert bench.teacher.asked == []


async def test_a_missing_student_is_refused_before_the_run_exists(bench: Bench, tmp_path: Path) -> None:
    """A run that can never be trained must not cost a teacher call first."""
    (tmp_path / "empty-student").mkdir()
    async with bench.connect() as agent:
        seeds = [{"input": f"message {number}", "output": "a"} for number in range(6)]
        told = await agent.refused(
            "create_run",
            name="r",
            instruction="Sort.",
            seed=seeds,
            teacher="local",
            student=str(tmp_path / "empty-student"),
        )
        assert "config.json" in told
        assert (await agent.call("get_status"))["runs"] == []


async def test_a_missing_key_is_named_with_the_place_where_it_goes(bench: Bench) -> None:
    """Clients do not pass the shell's environment: "set ANTHROPIC_API_KEY" alone sends people to the wrong file."""
    seeds = [{"input": f"message {number}", "output": "a"} for number in range(6)]
    async with bench.connect() as agent:
        told = await agent.refused(
            "create_run",
            name="r",
            instruction="Sort.",
            seed=seeds,
            teacher="claude-sonnet-4-5",
            student=str(student_path()),
        )
    assert told == (
        "The teacher 'claude-sonnet-4-5' needs a key and ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN is not set for this server. Add ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN "
        "under env of this server's entry in the client's configuration (clients do not pass the shell's environment), "
        "restart the client, then call create_run again; or, without any key, be the teacher yourself: teacher='host'. Nothing was spent."
    )


async def test_an_unknown_argument_is_refused_with_the_nearest_name(bench: Bench) -> None:
    """The SDK drops unknown arguments silently; a misspelt one must not do nothing."""
    async with bench.connect() as agent:
        told = await agent.refused("amplify", run_id="r", target_sise=5)
    assert told == (
        "The arguments of amplify are not accepted: target_sise: not an argument of this tool; did you mean target_size?. "
        "Accepted: run_id, target_size, mode, budget_usd, caps, wait_s, restart. Correct them and call amplify again."
    )


async def test_an_unknown_run_is_answered_with_the_runs_that_exist(bench: Bench) -> None:
    """The agent mistyped an id; the answer must be enough to correct it in one turn."""
    async with bench.connect() as agent:
        assert (
            await agent.refused("get_status", run_id="nope")
            == "There is no run 'nope'. There are no runs yet: call create_run first."
        )
        await agent.create("tickets-1")
        assert await agent.refused("train", run_id="nope") == "There is no run 'nope'. Known runs: tickets-1."


async def test_the_same_name_with_the_same_spec_is_the_same_run_and_with_another_an_error(bench: Bench) -> None:
    """A client that retries must not make a second run; one that means another must not overwrite the first."""
    async with bench.connect() as agent:
        first = await agent.create()
        again = await agent.create()
        assert (first["created"], again["created"]) == (True, False)
        assert again["plan"] == first["plan"]
        seeds = [{"input": f"message {number}", "output": "a"} for number in range(6)]
        told = await agent.refused(
            "create_run",
            name="TICKETS",
            instruction="Other.",
            seed=seeds,
            teacher="local",
            student=first["student"],
            augment_factor=4,
        )
    assert told.startswith(
        "There is already a run 'tickets' with another specification (instruction: 'Sort the message"
    )
    assert told.endswith("Choose another name, or repeat the call with the specification that is there to continue it.")


async def test_a_stage_called_too_early_names_the_stage_to_call_first(bench: Bench) -> None:
    """The order is not the agent's to remember."""
    async with bench.connect() as agent:
        await agent.create()
        told = await agent.refused("train", run_id="tickets")
    assert told == "train builds on amplify, which is new. Call amplify(run_id='tickets') first."
