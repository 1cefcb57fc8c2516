"""amplify at half price through the real server: seen while it waits, gone on with after a crash or a cancel, shown as saved."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanodistill_mcp.demo.wire_batches import WireBatches
from tests.conftest import Agent, Bench


async def ready(agent: Agent, teacher: str, **options: Any) -> str:
    """A run whose policy is written."""
    run_id = (await agent.create(teacher=teacher, augment_factor=2, options=options))["run_id"]
    for stage in ("synthesize_cot", "extract_policy"):
        assert (await agent.finish(run_id, stage))["state"] == "done"
    return run_id


def batches(bench: Bench) -> WireBatches:
    """The batches at the teacher's provider."""
    assert bench.teacher.server is not None
    return bench.teacher.server.batches


def worker_pid(folder: Path) -> int:
    """The process of the run's newest job."""
    newest = max((folder / "jobs").iterdir())
    return json.loads((newest / "worker.json").read_text(encoding="utf-8"))["worker"]["pid"]


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["local", "claude"])
async def test_amplify_in_batches_costs_half_and_says_what_was_saved(bench: Bench, teacher: str) -> None:
    """The same examples for half the money is what the user waits for."""
    async with bench.connect() as agent:
        run_id = await ready(agent, teacher)
        asked_live = len(bench.teacher.server.requests) if bench.teacher.server else 0
        before = (await agent.call("get_status", run_id=run_id))["spend"]["cost_usd"]
        reply = await agent.finish(run_id, "amplify", mode="batch")

    assert reply["state"] == "done"
    found = reply["result"]["batch"]
    paid = reply["spend"]["cost_usd"] - before
    assert bench.teacher.server is not None
    assert len(bench.teacher.server.requests) == asked_live, "nothing was asked one by one"
    assert found["answers"] == len(batches(bench).requests)
    assert found["batches"] == len(batches(bench).all)
    assert found["topped_up"] == 0
    assert found["saved_usd"] == pytest.approx(paid, abs=2e-6), "half was paid, half was saved"
    assert f"{found['answers']} answers at half price saved ${found['saved_usd']:.2f}" in reply["message"]


@pytest.mark.slow
async def test_a_batch_outlives_a_killed_worker_and_a_cancel(bench: Bench) -> None:
    """It is the run's and not the worker's: whoever calls amplify next goes on waiting for the very same batch."""
    batches(bench).hold = True
    async with bench.connect() as agent:
        run_id = await ready(agent, "local")
        await agent.call("amplify", run_id=run_id, mode="batch", wait_s=0)
        line = await agent.until(run_id, "amplify", lambda line: "at the provider" in line["message"])
        assert line["live"]["batch"]["questions"] == len(next(iter(batches(bench).all.values())).lines)
        assert (await agent.call("get_status", run_id=run_id))["poll_after_s"] == 60

        psutil.Process(worker_pid(bench.run_folder(run_id))).kill()
        line = await agent.until(run_id, "amplify", lambda line: line["state"] == "interrupted")
        assert "stay in a batch at the provider" in line["message"]

        reply = await agent.call("amplify", run_id=run_id, wait_s=0)
        await agent.until(run_id, "amplify", lambda line: "at the provider" in line["message"])
        await agent.call("control_job", run_id=run_id, action="cancel")
        line = await agent.until(run_id, "amplify", lambda line: line["state"] == "cancelled")
        assert "stay in a batch at the provider" in line["message"]
        assert len(batches(bench).all) == 1

        batches(bench).hold = False
        reply = await agent.finish(run_id, "amplify")

    assert reply["state"] == "done"
    asked = [line["custom_id"].split("-")[0] for batch in batches(bench).all.values() for line in batch.lines]
    assert len(asked) == len(set(asked)), "no question went out twice"
    assert reply["result"]["batch"]["topped_up"] == 0
    assert reply["spend"]["in_doubt_calls"] == 0


async def test_an_agent_that_is_the_teacher_takes_no_batches(bench: Bench) -> None:
    """There is no price to halve."""
    async with bench.connect() as agent:
        run_id = (await agent.create(teacher="host"))["run_id"]

        assert "takes no batches" in await agent.refused("amplify", run_id=run_id, mode="batch")
