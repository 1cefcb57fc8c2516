"""A run with one thing changed: the examples, the answers and the user's decisions go along, and nothing is paid twice."""

import hashlib
import json
from typing import Any

import pytest

from nanodistill_mcp.pipeline.clone import borrowed, check_clone
from nanodistill_mcp.runs.journal import Journal, read_journal, spend_of
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import load_settings
from tests.conftest import SHORT, Bench
from tests.server.made import amplified_run


@pytest.mark.slow
async def test_a_clone_is_answered_from_what_was_paid_for_and_keeps_what_the_user_decided(bench: Bench) -> None:
    """Another student for the same examples must cost training time and not a cent."""
    async with bench.connect() as agent:
        await agent.create(options=SHORT)
        await agent.finish("tickets", "synthesize_cot")
        await agent.finish("tickets", "extract_policy")
        await agent.finish("tickets", "extract_policy", policy={"key_constraints": ["One queue."]})
        await agent.finish("tickets", "amplify")
        rows = bench.rows("tickets", "traces_amplified.jsonl")
        dropped, edited = rows[-1]["id"], rows[-2]["id"]
        await agent.call(
            "revise_examples", run_id="tickets", drop=[dropped], edit=[{"id": edited, "thinking": "By hand."}]
        )
        asked = [request.user for request in bench.teacher.asked]
        changes: dict[str, Any] = {"options": {"num_train_epochs": 2}, "budget_usd": 1}
        clone = await agent.call("clone_run", run_id="tickets", name="tickets-2", changes=changes)
        assert (clone["created"], clone["cloned_from"], clone["spend"]["calls"]) == (True, "tickets", 0)
        assert clone["answers_at_hand"] == len(asked)
        assert (clone["policy_carried"], clone["revisions_carried"]) == (True, 1)
        assert clone["next_step"]["tool"] == "synthesize_cot"
        await agent.finish("tickets-2", "synthesize_cot")
        reply = await agent.finish("tickets-2", "extract_policy")
        assert len(bench.teacher.asked) == len(asked)
        assert (reply["spend"]["cost_usd"], reply["spend"]["calls"], reply["spend"]["budget_usd"]) == (0, 0, 1)
        reply = await agent.finish("tickets-2", "amplify")
        made_up = [request.user for request in bench.teacher.asked[len(asked) :]]
        assert not set(made_up) & set(asked)
        assert reply["spend"]["calls"] == len(made_up)
        assert reply["result"]["revised"]["examples"] == len(rows)
        page = await agent.call("read_artifact", run_id="tickets-2", artifact="examples.jsonl", limit=500)
        found = json.loads(
            (await agent.call("read_artifact", run_id="tickets-2", artifact=f"lineage/{edited}", limit=40_000))["text"]
        )
    assert bench.rows("tickets-2", "seeds.jsonl") == bench.rows("tickets", "seeds.jsonl")
    trained = {row["id"]: row for row in map(json.loads, page["text"].splitlines())}
    assert dropped not in trained
    assert trained[edited]["thinking"] == "By hand."
    own = {"cost_usd": 0.0, "policy_version": 1}
    kept = [{**row, **own} if row["origin"] == "synthetic" else row for row in rows]
    assert bench.rows("tickets-2", "traces_amplified.jsonl")[: len(rows)] == kept
    policy = json.loads((bench.run_folder("tickets-2") / "policy.json").read_text(encoding="utf-8"))
    assert (policy["version"], policy["key_constraints"], policy["source"]) == (1, ["One queue."], "user")
    assert {call["borrowed_from"] for call in found["calls"]} == {"tickets"}
    options = json.loads((bench.run_folder("tickets-2") / "run.json").read_text(encoding="utf-8"))["spec"]["options"]
    assert options == {**SHORT, "num_train_epochs": 2}


@pytest.mark.slow
async def test_a_clone_says_when_no_answer_fits_and_is_made_once(bench: Bench) -> None:
    """A changed instruction is part of every question; a client that retries must not make a second clone."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        other = await agent.call("clone_run", run_id=run_id, name="other", changes={"instruction": "Sort the mail."})
        assert (other["answers_at_hand"], other["policy_carried"]) == (0, False)
        assert other["message"].startswith("No answer fits: the teacher, the instruction")
        assert not (bench.run_folder("other") / "calls.jsonl").exists()
        same = await agent.call("clone_run", run_id=run_id, name="same")
        again = await agent.call("clone_run", run_id=run_id, name="same")
    assert (same["created"], again["created"]) == (True, False)
    assert same["answers_at_hand"] == again["answers_at_hand"] == 16


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"name": "MADE"}, "A clone needs a name of its own. For example name='made-2'.", id="name"),
        pytest.param(
            {"changes": {"studnt": "a/b"}}, "Did you mean student? A clone can change: instruction,", id="unknown"
        ),
        pytest.param({"changes": {"augment_factor": 0}}, "augment_factor must lie between 1 and 1000", id="range"),
        pytest.param(
            {"changes": {"augment_factor": "many"}}, "The changes are not accepted: augment_factor:", id="type"
        ),
        pytest.param(
            {"changes": {"options": {"held_out_split": 0.5}}},
            "held_out_split: a clone keeps the other run's examples and its held-out ones.",
            id="split",
        ),
        pytest.param({"changes": {"options": {"ranks": 1}}}, "The options are not accepted: ranks", id="option"),
        pytest.param({"changes": {"budget_usd": 1000}}, "above this server's ceiling", id="budget"),
        pytest.param(
            {"changes": {"response_schema": {"type": "integer"}}}, "does not keep response_schema", id="schema"
        ),
    ],
)
async def test_a_change_that_is_not_accepted_is_named_and_makes_nothing(
    bench: Bench, arguments: dict[str, Any], told: str
) -> None:
    """A wrong argument costs one call and leaves no folder behind."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        assert told in await agent.refused("clone_run", **{"run_id": run_id, "name": "new", **arguments})
    assert [entry.name for entry in (bench.home / "runs").iterdir()] == [run_id]


def test_a_clone_keeps_the_prompts_its_answers_were_asked_with(bench: Bench) -> None:
    """The configuration may name others by now; every question would then be new, and paid for."""
    source = Run(RunPaths(bench.run_folder(amplified_run(bench))))
    text = "Solve it."
    source.paths.prompts.mkdir()
    (source.paths.prompts / "solve.md").write_text(text, encoding="utf-8")
    source.manifest.prompts = {"solve": hashlib.sha256(text.encode()).hexdigest()}
    request = check_clone(load_settings(bench.home, env={}), source, "other", {})
    assert request.wordings == {"solve": text}


def test_what_is_borrowed_is_answered_free_and_names_who_paid_first(bench: Bench) -> None:
    """A clone of a clone must neither count the money again nor lose track of it; a call in flight is left where it is."""
    source = Run(RunPaths(bench.run_folder(amplified_run(bench))))
    with Journal.open(source.paths.calls) as journal:
        journal.append({"kind": "intent", "call_id": "open", "attempt": 1, "max_usd": 1.0})
        journal.append({"kind": "intent", "call_id": "failed", "attempt": 1, "max_usd": 1.0})
        journal.append({"kind": "error", "call_id": "failed", "attempt": 1, "error": "timeout", "cost_usd": 1.0})
    paid = read_journal(source.paths.calls).records
    records = borrowed(source)
    assert {record["call_id"] for record in records} == {record["call_id"] for record in paid} - {"open", "failed"}
    assert {record["borrowed_from"] for record in records} == {"made"}
    assert spend_of(records) == spend_of([])
    lent = sum(record.get("lender_usd", 0) for record in records)
    assert lent == pytest.approx(spend_of(paid).usd - 1.0)
