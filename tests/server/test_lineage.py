"""Any row can be traced to what made it, and a policy has a history that can be read, compared and gone back in."""

import json
from typing import Any

from mcp.types import TextResourceContents

from tests.conftest import Agent, Bench
from tests.server.conftest import Paid
from tests.server.made import amplified_run


async def _lineage(agent: Agent, run_id: str, row_id: str) -> dict[str, Any]:
    page = await agent.call("read_artifact", run_id=run_id, artifact=f"lineage/{row_id}", limit=40_000)
    assert page["next_offset"] == -1
    return json.loads(page["text"])


async def test_an_accepted_row_names_its_prompts_policy_calls_cost_checks_and_neighbours(
    bench: Bench, paid: Paid
) -> None:
    """Who finds a strange answer in the model wants to know which prompt made the row that taught it, and what it cost."""
    paid.adopted_by(bench)
    async with bench.connect() as agent:
        rows = bench.rows("tickets", "traces_amplified.jsonl")
        row = next(row for row in rows if row["origin"] == "synthetic")
        found = await _lineage(agent, "tickets", row["id"])
        resource = await agent.client.read_resource(f"nanodistill://runs/tickets/lineage/{row['id']}")
        assert isinstance(content := resource.contents[0], TextResourceContents)
        assert json.loads(content.text) == found
        parts = [
            await _lineage(agent, "tickets", other["id"]) for other in [*rows, *bench.rows("tickets", "rejected.jsonl")]
        ]
        status = await agent.call("get_status", run_id="tickets")
    assert (found["state"], found["row"]["input"]) == ("accepted", row["input"])
    assert [parent["id"] for parent in found["parents"]] == row["parents"]
    assert all(parent["input"] for parent in found["parents"])
    assert found["policy"]["version"] == 1
    assert [call["call_id"] for call in found["calls"]] == row["call_ids"]
    for call in found["calls"]:
        assert (call["stage"], call["model"], call["verdict"], call["attempts"]) == (
            "amplify",
            "openai/desk",
            "valid",
            1,
        )
        assert call["input_tokens"] > 0 < call["output_tokens"]
    generated = found["calls"][0]
    assert generated["rows"] > 1
    assert generated["share_usd"] < generated["cost_usd"]
    assert found["cost_usd"] == round(sum(call["share_usd"] for call in found["calls"]), 6)
    assert {prompt["template"] for prompt in found["prompts"]} >= {"generate"}
    assert all(len(prompt["prompt_sha"]) == 12 for prompt in found["prompts"])
    similar = [neighbour["similarity"] for neighbour in found["nearest"]]
    assert similar == sorted(similar, reverse=True)
    assert row["id"] not in {neighbour["id"] for neighbour in found["nearest"]}
    assert 0 < sum(part["cost_usd"] for part in parts) <= status["spend"]["cost_usd"] + 1e-4


async def test_seeds_rejected_and_revised_rows_have_a_lineage_too(bench: Bench) -> None:
    """What was left out is looked at more often than what was kept."""
    run_id = amplified_run(bench)
    rejected = bench.rows(run_id, "rejected.jsonl")[0]
    row = bench.rows(run_id, "traces_amplified.jsonl")[-1]
    seeds = bench.rows(run_id, "seeds.jsonl")
    solved = next(seed for seed in seeds if seed["split"] == "train")
    held_out = next(seed for seed in seeds if seed["split"] == "held_out")
    async with bench.connect() as agent:
        found = await _lineage(agent, run_id, rejected["id"])
        assert (found["state"], found["checks"]["rejected_because"]) == ("rejected", rejected["reason"])
        found = await _lineage(agent, run_id, solved["id"])
        assert (found["state"], found["policy"]) == ("accepted", None)
        assert found["solved"]["agrees"] is True
        assert [call["stage"] for call in found["calls"]] == ["synthesize_cot"]
        found = await _lineage(agent, run_id, held_out["id"])
        assert (found["state"], found["row"]) == ("held_out", held_out)
        await agent.call("revise_examples", run_id=run_id, edit=[{"id": row["id"], "thinking": "By hand."}])
        found = await _lineage(agent, run_id, row["id"])
        assert (found["row"]["thinking"], found["as_written"]["thinking"]) == ("By hand.", row["thinking"])
        assert found["checks"]["edited_by_user"] is True
        await agent.call("revise_examples", run_id=run_id, drop=[row["id"]])
        found = await _lineage(agent, run_id, row["id"])
        told = await agent.refused("read_artifact", run_id=run_id, artifact="lineage/../seeds.jsonl")
        assert told.startswith("There is no row of that id in this run.")
    assert found["state"] == "dropped"
    assert [(change["number"], change["action"]) for change in found["revisions"]] == [(1, "edit"), (2, "drop")]


async def test_single_fields_of_a_policy_are_changed_and_the_reply_says_what_differs(bench: Bench) -> None:
    """Eleven fields repeated to change one is eleven chances to change another."""
    run_id = amplified_run(bench)
    first = json.loads((bench.run_folder(run_id) / "policy.json").read_text(encoding="utf-8"))
    async with bench.connect() as agent:
        reply = await agent.finish(run_id, "extract_policy", policy={"key_constraints": ["Answer in lower case."]})
        assert reply["result"]["version"] == 2
        assert reply["result"]["changes"] == {
            "key_constraints": {"added": ["Answer in lower case."], "removed": first["key_constraints"]}
        }
        again = await agent.call("extract_policy", run_id=run_id, policy={"key_constraints": ["Answer in lower case."]})
        assert again["result"]["version"] == 2
        back = await agent.finish(run_id, "extract_policy", policy={"version": 1})
        assert (back["result"]["version"], back["result"]["restored_from"]) == (3, 1)
        names = {artifact["name"] for artifact in back["artifacts"]}
        assert {f"policies/policy.v{number}.json" for number in (1, 2, 3)} <= names
        page = await agent.call("read_artifact", run_id=run_id, artifact="policies/compare/1..3")
        assert json.loads(page["text"])["changes"] == {}
        page = await agent.call("read_artifact", run_id=run_id, artifact="policies/compare/2..1")
        assert json.loads(page["text"])["changes"]["key_constraints"]["removed"] == ["Answer in lower case."]
        page = await agent.call("read_artifact", run_id=run_id, artifact="policies/policy.v2.json")
        assert json.loads(page["text"])["source"] == "user"
    assert bench.teacher.asked == []


async def test_a_restored_policy_asks_what_it_asked_before(bench: Bench, paid: Paid) -> None:
    """Going back must cost nothing: its answers were paid for."""
    paid.adopted_by(bench)
    async with bench.connect() as agent:
        rows = bench.rows("tickets", "traces_amplified.jsonl")
        await agent.finish("tickets", "extract_policy", policy={"task_description": "Another one."})
        await agent.finish("tickets", "extract_policy", policy={"version": 1})
        await agent.call("amplify", run_id="tickets", wait_s=0, restart=True)
        await agent.finish("tickets", "amplify")
    assert bench.teacher.asked == []
    key = ("id", "input", "thinking", "output")
    after = bench.rows("tickets", "traces_amplified.jsonl")
    assert [[row[name] for name in key] for row in after] == [[row[name] for name in key] for row in rows]


async def test_a_policy_that_is_not_one_is_refused_with_what_is(bench: Bench) -> None:
    """A checker that cannot judge the user's own examples would call every answer wrong."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        told = await agent.refused("extract_policy", run_id=run_id, policy={"checker": "numeric"})
        assert told.startswith("The checker numeric cannot judge seed s0001: its output has not the form it compares.")
        told = await agent.refused("extract_policy", run_id=run_id, policy={"choices": ["billing"]})
        assert told.startswith("The checker choice cannot judge seed s0")
        told = await agent.refused("extract_policy", run_id=run_id, policy={"key_constraint": []})
        assert "Did you mean key_constraints? Fields: task_description, input_format," in told
        told = await agent.refused("extract_policy", run_id=run_id, policy={"version": 9})
        assert told == "There is no version 9 of this run's policy. Versions: 1."
        told = await agent.refused("extract_policy", run_id=run_id, policy={"key_constraints": "one"})
        assert told.startswith("The policy is not accepted: key_constraints: ")
        told = await agent.refused("extract_policy", run_id=run_id, policy={"version": 1}, feedback="shorter")
        assert told == "feedback and policy are two ways to a new version. Give one of them."
        await agent.create()
        told = await agent.refused("extract_policy", run_id="tickets", policy={"checker": "choice"})
        assert told.startswith("There is no policy yet that these fields could change.")
        told = await agent.refused("read_artifact", run_id=run_id, artifact="policies/compare/1-2")
        assert told == "Two versions of the policy are named by their numbers. For example: policies/compare/1..2."
