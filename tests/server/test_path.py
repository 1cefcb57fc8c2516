"""The whole path through the real stdio client, on a real tiny student and a real teacher over loopback HTTP."""

import json
import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.types import TextResourceContents

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.demo.wire import Fails, Refuses, Says, WireReply, WireRequest, WireServer
from tests.conftest import SECRET, STAGES, Bench, Demo
from tests.server.conftest import Paid


async def test_the_whole_path_makes_a_model_that_llama_cpp_answers_with(bench: Bench, paid: Paid) -> None:
    """Every stage, each called twice: the second call answers at once and pays nothing, after another server's first too."""
    questions = paid.adopted_by(bench)
    async with bench.connect() as agent:
        for stage in STAGES:
            reply = await agent.finish("tickets", stage)
            assert (reply["state"], reply["stage"]) == ("done", stage), reply["message"]
            asked = len(bench.teacher.asked)
            again = await agent.call(stage, run_id="tickets", wait_s=0)
            assert again["result"] == reply["result"]
            assert len(bench.teacher.asked) == asked
        status = await agent.call("get_status", run_id="tickets", detail=True)
        assert [line["state"] for line in status["stages"]] == ["done"] * 6
        assert (status["spend"]["calls"], bench.teacher.asked) == (len(questions), [])
        assert status["next_step"]["tool"] == "compare_models"
        export = status["detail"]["export_gguf"]
        assert export["parity"]["loads"]
        assert export["parity"]["prompt_ids_equal"]
        names = {artifact["name"] for artifact in status["artifacts"]}
        assert {
            "policy.json",
            "traces_cot.jsonl",
            "traces_amplified.jsonl",
            "rejected.jsonl",
            "Modelfile",
            "model.gguf",
        } <= names
        compared = await agent.finish(
            "tickets", "compare_models", prompts=["where is my parcel"], models=["base", "student", "gguf", "teacher"]
        )
        row = compared["result"]["rows"][0]
        assert {"prompt", "base", "student", "gguf", "teacher"} == set(row)
        assert row["teacher"]["answer"] == "delivery"
    folder = bench.run_folder("tickets")
    assert "FROM ./model.gguf" in (folder / "Modelfile").read_text(encoding="utf-8")
    assert not [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


async def test_artifacts_are_resources_and_pages(bench: Bench, paid: Paid) -> None:
    """Some clients' models read resources, others only have tools; both see the same bytes."""
    paid.adopted_by(bench)
    async with bench.connect() as agent:
        listed = {str(resource.uri) for resource in (await agent.client.list_resources()).resources}
        assert {
            "nanodistill://runs",
            "nanodistill://runs/tickets/status",
            "nanodistill://runs/tickets/traces_cot.jsonl",
        } <= listed
        read = await agent.client.read_resource("nanodistill://runs/tickets/traces_cot.jsonl")
        page = await agent.call("read_artifact", run_id="tickets", artifact="traces_cot.jsonl")
        assert isinstance(content := read.contents[0], TextResourceContents)
        assert content.text == page["text"]
        assert (page["unit"], page["next_offset"]) == ("lines", -1)
        second = await agent.call("read_artifact", run_id="tickets", artifact="traces_cot.jsonl", offset=1, limit=1)
        assert (second["count"], second["next_offset"]) == (1, 2)
        told = await agent.refused("read_artifact", run_id="tickets", artifact="../../etc/passwd")
        assert told.startswith(
            "Run 'tickets' has no artifact '../../etc/passwd'. Artifacts: run.json, seeds.jsonl, calls.jsonl"
        )


async def test_traces_are_solved_without_seeing_the_answer_and_held_out_seeds_are_never_shown(
    bench: Bench, paid: Paid
) -> None:
    """Agreement means nothing if the teacher was told, and a held-out example that was shown is no longer held out."""
    questions = paid.adopted_by(bench)
    seeds = bench.rows("tickets", "seeds.jsonl")
    held_out = {seed["input"] for seed in seeds if seed["split"] == "held_out"}
    assert len(held_out) == 2
    assert len(questions) > len(seeds)
    for question in questions:
        blocks = dict(re.findall(r"<([a-z-]+)-[0-9a-f]{6}>\n(.*?)\n</", question, re.DOTALL))
        if blocks.pop("input", "") in {seed["input"] for seed in seeds}:
            assert set(blocks) == {"task"}
        assert not [text for text in held_out if text in "".join(blocks.values())]
    assert not {row["input"] for row in bench.rows("tickets", "traces_amplified.jsonl")} & held_out


async def test_a_call_while_a_stage_runs_attaches_and_another_stage_waits_its_turn(bench: Bench) -> None:
    """A client that retries after a timeout must join the job, not start a second one that pays again."""
    release = _slow(bench)
    async with bench.connect() as agent:
        await agent.create()
        first = await agent.call("synthesize_cot", run_id="tickets", wait_s=0)
        assert (first["state"], first["poll_after_s"]) == ("running", 5)
        assert first["next_step"]["tool"] == "get_status"
        async with bench.connect() as other:
            joined = await other.call("synthesize_cot", run_id="tickets", wait_s=0)
            assert joined["state"] == "running"
        release.append(True)
        done = await agent.finish("tickets", "synthesize_cot")
    assert done["state"] == "done"
    assert len(list((bench.run_folder("tickets") / "jobs").iterdir())) == 1


def _slow(bench: Bench) -> list[bool]:
    """Make the teacher take its time until something is in the list."""
    release: list[bool] = []

    def script(request: WireRequest) -> WireReply | None:
        if release:
            return None
        return Says(teacher.answer(request.system, request.user, request.schema_name), delay_s=1.0)

    bench.teacher.script = script
    return release


@pytest.mark.parametrize("stage", STAGES[:3])
@pytest.mark.slow
async def test_a_server_killed_in_a_paid_stage_is_not_missed_and_a_new_one_sees_it_end(
    bench: Bench, stage: str
) -> None:
    """Hosts kill healthy servers often. The job goes on, is seen by the next server, and no answer is paid twice."""
    async with bench.connect() as agent:
        await agent.create()
        for earlier in STAGES[: STAGES.index(stage)]:
            await agent.finish("tickets", earlier)
        _slow(bench)
        await agent.call(stage, run_id="tickets", wait_s=0)
        os.kill(bench.server_pid(), signal.SIGKILL)
    await _ends_without_its_server(bench, stage, "tickets")
    questions = [request.user for request in bench.teacher.asked]
    assert len(questions) == len(set(questions))


@pytest.mark.parametrize("stage", STAGES[3:])
@pytest.mark.slow
async def test_a_server_killed_while_the_student_works_is_not_missed_either(
    bench: Bench, demo: Demo, stage: str
) -> None:
    """Training can take hours; the client it was started from rarely lives that long."""
    run_id = bench.adopt(demo)
    async with bench.connect() as agent:
        await agent.call(stage, run_id=run_id, wait_s=0, restart=True, **BRIEF.get(stage, {}))
        os.kill(bench.server_pid(), signal.SIGKILL)
    await _ends_without_its_server(bench, stage, run_id)


BRIEF: dict[str, dict[str, Any]] = {"train": {"options": {"num_train_epochs": 1}}}


async def _ends_without_its_server(bench: Bench, stage: str, run_id: str) -> None:
    jobs = set((bench.run_folder(run_id) / "jobs").iterdir())
    async with bench.connect() as agent:
        line = await agent.until(run_id, stage, lambda line: line["state"] != "new")
        assert line["state"] in ("running", "done")
        assert (await agent.finish(run_id, stage))["state"] == "done"
    assert set((bench.run_folder(run_id) / "jobs").iterdir()) == jobs


async def test_a_handshake_era_client_works_through_a_run_too(bench: Bench, demo: Demo) -> None:
    """Most clients still speak the older protocol; a finished stage answers them at once, and pays nothing."""
    run_id = bench.adopt(demo)
    async with bench.connect("legacy") as agent:
        assert agent.client.protocol_version == "2025-11-25"
        for stage in STAGES:
            reply = await agent.call(stage, run_id=run_id, wait_s=0)
            assert (reply["state"], reply["run_id"]) == ("done", run_id)
        uris = {str(resource.uri) for resource in (await agent.client.list_resources()).resources}
        assert f"nanodistill://runs/{run_id}/model.gguf" in uris
        assert "nope" in await agent.refused("get_status", run_id="nope")
    assert bench.teacher.asked == []


async def test_a_wrong_key_stops_the_stage_after_one_try_and_says_where_the_key_belongs(bench: Bench) -> None:
    """Retrying a refused key only locks the account."""
    bench.teacher.script = lambda _: Fails("auth")
    async with bench.connect() as agent:
        await agent.create()
        reply = await agent.finish("tickets", "synthesize_cot")
        assert reply["state"] == "failed"
        assert "TEST_TEACHER_KEY" in reply["message"]
        assert "client's configuration" in reply["message"]
        assert SECRET not in json.dumps(reply)
        assert len(bench.teacher.asked) <= 16
        bench.teacher.script = lambda _: None
        assert (await agent.finish("tickets", "synthesize_cot"))["state"] == "done"


async def test_a_refused_example_is_asked_once_a_sample_and_the_others_go_on(bench: Bench) -> None:
    """One example a teacher will not touch must not cost the run, nor be asked again and again."""
    refused = task.seeds()[0]["input"]
    bench.teacher.script = lambda request: Refuses() if refused in request.user else None
    async with bench.connect() as agent:
        await agent.create(options={"held_out_split": 0})
        reply = await agent.finish("tickets", "synthesize_cot")
    assert reply["state"] == "done"
    assert (reply["result"]["train_agree"], reply["result"]["train_solved"]) == (9, 10)
    assert len([request for request in bench.teacher.asked if refused in request.user]) == 2


@pytest.mark.slow
async def test_the_ceiling_of_the_day_holds_over_all_runs(bench: Bench) -> None:
    """An agent that starts run after run must meet a limit the user set once."""
    bench.configure(budget={"usd_per_day": 0.05})
    async with bench.connect() as agent:
        await agent.create("first")
        assert (await agent.finish("first", "synthesize_cot"))["state"] == "done"
        await agent.create("second", instruction="Sort the message into one of the six queues.")
        reply = await agent.finish("second", "synthesize_cot")
    assert reply["state"] == "failed"
    assert "of the $0.05 that all runs may spend in a day are left" in reply["message"]


async def test_pause_resume_and_cancel_reach_the_job(bench: Bench) -> None:
    """The user can stop spending at any moment, and go on later without paying again."""
    release = _slow(bench)
    async with bench.connect() as agent:
        await agent.create(options={"teacher_concurrency": 1})
        await agent.call("synthesize_cot", run_id="tickets", wait_s=0)
        await agent.until("tickets", "synthesize_cot", lambda line: line["done"] >= 1)
        paused = await agent.call("control_job", run_id="tickets", action="pause")
        assert paused["state"] == "paused"
        resumed = await agent.call("control_job", run_id="tickets", action="resume")
        assert resumed["state"] == "running"
        cancelled = await agent.call("control_job", run_id="tickets", action="cancel")
        assert cancelled["state"] == "cancelled"
        assert cancelled["next_step"]["tool"] == "synthesize_cot"
        release.append(True)
        assert (await agent.finish("tickets", "synthesize_cot"))["state"] == "done"


@pytest.mark.slow
async def test_training_can_be_cancelled_and_continues_from_its_checkpoint(bench: Bench, demo: Demo) -> None:
    """Hours of training must not be lost to a cancel."""
    run_id = bench.adopt(demo)
    options = {"num_train_epochs": 2}
    async with bench.connect() as agent:
        await agent.call("train", run_id=run_id, wait_s=0, restart=True, options=options)
        await agent.until(run_id, "train", lambda line: line["done"] >= 10)
        assert (await agent.call("control_job", run_id=run_id, action="cancel"))["state"] == "cancelled"
        reply = await agent.finish(run_id, "train", options=options)
    assert reply["state"] == "done"
    assert reply["result"]["resumed_from"] >= 1


async def test_a_changed_policy_makes_the_stages_above_it_outdated(bench: Bench, demo: Demo) -> None:
    """A model trained on examples of an earlier policy must not pass for one of the new."""
    run_id = bench.adopt(demo)
    policy = json.loads((demo.run_folder / "policy.json").read_text(encoding="utf-8"))
    async with bench.connect() as agent:
        reply = await agent.finish(
            run_id, "extract_policy", policy={**policy, "key_constraints": ["Answer in lower case."]}
        )
        assert (reply["state"], reply["result"]["version"]) == ("done", 2)
        assert reply["next_step"] == {
            "tool": "amplify",
            "arguments": {"run_id": run_id, "restart": True},
            "why": "extract_policy was done again since: what amplify made is of before.",
        }
    assert bench.teacher.asked == []
    assert (bench.run_folder(run_id) / "policies" / "policy.v1.json").exists()


async def test_a_deleted_run_goes_to_the_trash_after_its_name_was_confirmed(bench: Bench) -> None:
    """An agent that read a poisoned page must not be able to destroy work with one guess."""
    async with bench.connect() as agent:
        await agent.create()
        assert (await agent.refused("delete_run", run_id="tickets", confirm_name="yes")).startswith(
            "confirm_name is not the run's id."
        )
        reply = await agent.call("delete_run", run_id="tickets", confirm_name="tickets")
        assert (await agent.call("get_status"))["runs"] == []
    assert (Path(reply["moved_to"]) / "seeds.jsonl").exists()


@pytest.mark.slow
async def test_the_anthropic_wire_carries_a_stage_too(bench: Bench) -> None:
    """The default teacher speaks that format; most tests use the other."""
    async with bench.connect() as agent:
        await agent.create(teacher="claude")
        reply = await agent.finish("tickets", "synthesize_cot")
    assert reply["state"] == "done"
    assert {request.wire for request in bench.teacher.asked} == {"anthropic"}


@pytest.mark.slow
async def test_a_teacher_that_goes_away_fails_the_stage_and_its_return_pays_only_what_is_missing(bench: Bench) -> None:
    """An outage must not look like examples the teacher could not solve, nor cost anything twice."""
    answers_until_stalled = 4

    def stall(request: WireRequest) -> WireReply | None:
        if len(bench.teacher.asked) <= answers_until_stalled:
            return None
        return Says(teacher.answer(request.system, request.user, request.schema_name), delay_s=60)

    bench.teacher.script = stall
    async with AsyncExitStack() as stack:
        with WireServer(bench.teacher.answer) as first:
            bench.teacher.server = first
            bench.configure()
            agent = await stack.enter_async_context(bench.connect())
            await agent.create()
            await agent.call("synthesize_cot", run_id="tickets", wait_s=0)
            await agent.until("tickets", "synthesize_cot", lambda line: line["done"] == answers_until_stalled)
        reply = await agent.finish("tickets", "synthesize_cot")  # its teacher is gone
        assert reply["state"] == "failed"
        assert "There is no connection to the teacher" in reply["message"]
    bench.teacher.script = lambda _: None
    bench.teacher.asked.clear()
    with WireServer(bench.teacher.answer) as second:  # back, at another address
        bench.teacher.server = second
        bench.configure()
        async with bench.connect() as agent:
            reply = await agent.finish("tickets", "synthesize_cot")
    assert (reply["state"], reply["result"]["train_agree"]) == ("done", 8)
    assert len(bench.teacher.asked) == 10 - answers_until_stalled
