"""The user looks at the examples before they are trained on, and what was decided holds through every later stage."""

import anyio
import pytest

from tests.conftest import SHORT, Agent, Bench
from tests.server.conftest import Paid
from tests.server.made import amplified_run


async def test_a_drop_is_made_up_for_by_amplify_and_nothing_is_paid_again(bench: Bench, paid: Paid) -> None:
    """Every answer is in the journal: only the questions for the missing rows are new, and the dropped one stays out."""
    asked = paid.adopted_by(bench)
    async with bench.connect() as agent:
        rows = bench.rows("tickets", "traces_amplified.jsonl")
        synthetic = [row for row in rows if row["origin"] == "synthetic"]
        reply = await agent.call("revise_examples", run_id="tickets", drop=[synthetic[0]["id"]])
        assert (reply["dropped"], reply["examples"]) == (1, len(rows) - 1)
        assert reply["rows"][0]["id"] == synthetic[0]["id"]
        assert reply["next_step"]["tool"] == "amplify"
        again = await agent.finish(stage="amplify", **reply["next_step"]["arguments"])
    assert (again["state"], again["result"]["revised"]["examples"]) == ("done", len(rows))
    assert again["result"]["accepted"] == len(rows)
    assert "With the user's revisions (1 dropped, 0 edited, 0 approved)" in again["message"]
    new = [request.user for request in bench.teacher.asked]
    assert new
    assert not set(new) & set(asked)
    written = bench.rows("tickets", "traces_amplified.jsonl")
    assert written[: len(rows)] == rows
    assert len(written) == len(rows) + 1


async def test_doing_amplify_again_undoes_no_revision_and_pays_nothing(bench: Bench, paid: Paid) -> None:
    """A restart is the bluntest way to lose what the user did by hand."""
    paid.adopted_by(bench)
    async with bench.connect() as agent:
        rows = bench.rows("tickets", "traces_amplified.jsonl")
        kept = next(row for row in rows if row["origin"] == "synthetic")
        await agent.call(
            "revise_examples",
            run_id="tickets",
            edit=[{"id": kept["id"], "input": "Where on earth is my parcel number 17?", "thinking": "Clues: parcel."}],
            approve=[kept["id"]],
        )
        await agent.call("amplify", run_id="tickets", wait_s=0, restart=True)
        await agent.finish("tickets", "amplify")
        page = await agent.call("read_artifact", run_id="tickets", artifact="examples.jsonl", limit=500)
    assert bench.teacher.asked == []
    assert bench.rows("tickets", "traces_amplified.jsonl") == rows
    assert page["total"] == len(rows)
    assert '"input": "Where on earth is my parcel number 17?", "thinking": "Clues: parcel."' in page["text"]
    assert '"edited": true, "approved": true, "revisions": [1]' in page["text"]
    assert page["text"].count('"edited": true') == 1


@pytest.mark.slow
async def test_a_revision_after_training_makes_the_training_outdated_and_a_new_one_learns_it(bench: Bench) -> None:
    """A model that was trained on a wrong row must not pass for one that was not."""
    run_id = amplified_run(bench)
    async with bench.connect() as agent:
        await agent.finish(run_id, "train", options=SHORT)
        reply = await agent.call("revise_examples", run_id=run_id, approve=["g0000-0"])
        assert (reply["approved"], reply["examples"]) == (1, 12)
        status = await agent.call("get_status", run_id=run_id)
        assert status["next_step"]["tool"] == "evaluate"
        reply = await agent.call(
            "revise_examples", run_id=run_id, drop=["g0000-1"], edit=[{"id": "g0000-0", "thinking": "By hand."}]
        )
        assert {artifact["name"] for artifact in reply["artifacts"]} >= {"revisions.jsonl", "traces_amplified.jsonl"}
        assert (reply["next_step"]["tool"], reply["next_step"]["arguments"]["restart"]) == ("train", True)
        status = await agent.call("get_status", run_id=run_id)
        assert status["next_step"] == {
            "tool": "train",
            "arguments": {"run_id": run_id, "restart": True},
            "why": "Examples were revised since: the student was trained on what they were before.",
        }
        planned = await agent.plan_training(run_id)
        assert planned["result"]["rows"]["train"] == 11
        await agent.call("train", run_id=run_id, wait_s=0, restart=True, options=SHORT)
        await agent.finish(run_id, "train")
        status = await agent.call("get_status", run_id=run_id)
        assert status["next_step"]["tool"] == "evaluate"
    rows = {row["id"]: row["messages"][-1]["content"] for row in bench.rows(run_id, "dataset/train.jsonl")}
    assert len(rows) == 11
    assert "g0000-1" not in rows
    assert "By hand." in rows["g0000-0"]


async def test_two_servers_revise_at_once_and_both_are_kept(bench: Bench) -> None:
    """Two clients mean two servers; neither may write over the other."""
    run_id = amplified_run(bench)
    ids = [row["id"] for row in bench.rows(run_id, "traces_amplified.jsonl")[-8:]]
    async with bench.connect() as one, bench.connect() as other, anyio.create_task_group() as tasks:
        for number, row_id in enumerate(ids):

            async def drop(agent: Agent, row_id: str) -> None:
                await agent.call("revise_examples", run_id=run_id, drop=[row_id])

            tasks.start_soon(drop, (one, other)[number % 2], row_id)
    revisions = bench.rows(run_id, "revisions.jsonl")
    assert [revision["number"] for revision in revisions] == list(range(1, 9))
    assert sorted(change["row"]["id"] for revision in revisions for change in revision["changes"]) == sorted(ids)


async def test_a_refused_revision_says_where_the_rows_are_listed(bench: Bench) -> None:
    """An agent that guessed an id must find the right one with the next call."""
    run_id = amplified_run(bench)
    first = bench.rows(run_id, "traces_amplified.jsonl")[-1]["id"]
    async with bench.connect() as agent:
        told = await agent.refused("revise_examples", run_id=run_id, drop=[first, "g9999-9"])
        assert told == (
            f"There is no row 'g9999-9' in this run; nothing was changed. Rows are listed by "
            f"read_artifact(run_id='{run_id}', artifact='examples.jsonl'), rejected ones by artifact='rejected.jsonl'."
        )
        told = await agent.refused("revise_examples", run_id=run_id, edit=[{"id": first, "output": "nowhere"}])
        assert told.startswith(f"The output of row '{first}' is not one of the policy's choices; nothing was changed.")
        told = await agent.refused("revise_examples", run_id="tickets", drop=["s0001"])
        assert told.startswith("There is no run 'tickets'.")
        await agent.create()
        told = await agent.refused("revise_examples", run_id="tickets", drop=["s0001"])
    assert told == "Run 'tickets' has no examples to revise yet. Call amplify(run_id='tickets') first."
    assert not (bench.run_folder(run_id) / "revisions.jsonl").exists()
