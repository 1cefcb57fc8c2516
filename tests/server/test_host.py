"""The calling agent as the teacher: a run without a key, over the real server, by an agent that reads only the replies."""

import asyncio
import json
import os
import re
import signal
import time
from typing import Any

import anyio

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.runs.questions import LEASE_S
from tests.conftest import SHORT, WAIT_S, Agent, Bench
from tests.server.made import amplified_run

TASK = "next_teacher_tasks"
ANSWER = "submit_teacher_answers"


def answered(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """What the demo's teacher makes of the tasks in a reply: of their text and nothing else."""
    kinds = {kind["kind"]: kind for kind in reply["kinds"]}
    return [
        {
            "task_id": each["task_id"],
            "answer": teacher.answer(
                kinds[each["kind"]]["system"], each["user"], kinds[each["kind"]]["answer_schema"]["title"]
            ),
        }
        for each in reply["tasks"]
    ]


async def teach(
    agent: Agent, run_id: str, stage: str, seen: list[dict[str, Any]] | None = None, **arguments: Any
) -> Any:
    """Call a stage and answer what it asks, following each reply's next step, until it is done."""
    reply = await agent.call(stage, run_id=run_id, wait_s=20, **arguments)
    with anyio.fail_after(WAIT_S):
        while reply["state"] in ("queued", "running"):
            assert reply["next_step"]["tool"] in (TASK, ANSWER), reply
            if reply["next_step"]["tool"] == TASK:
                reply = await agent.call(TASK, **reply["next_step"]["arguments"], n=20, wait_s=5)
                if seen is not None:
                    seen += reply["tasks"]
            else:
                reply = await agent.call(ANSWER, run_id=run_id, answers=answered(reply))
                assert reply["rejected"] == []
    return await agent.call(stage, run_id=run_id, wait_s=20, **arguments)


async def begin(agent: Agent, **further: Any) -> dict[str, Any]:
    """A run whose teacher is the host, with its first stage asking."""
    await agent.create(teacher="host", **further)
    reply = await agent.call("synthesize_cot", run_id="tickets", wait_s=20)
    assert reply["state"] == "running", reply
    return reply


async def test_a_run_without_a_key_is_taught_by_the_agent_that_calls(bench: Bench) -> None:
    """Who has only a chat can make a model too; every stage says what it waits for, and nothing is paid or sent."""
    bench.env = {name: value for name, value in bench.env.items() if not name.endswith("_KEY")}
    seen: list[dict[str, Any]] = []
    async with bench.connect() as agent:
        created = await agent.create(teacher="host", options=SHORT)
        assert created["teacher"] == "host (you: the agent that calls these tools)"
        assert created["plan"]["cost_usd"] == {"low": 0, "high": 0}
        assert "are for you to answer" in created["plan"]["warnings"][-1]
        solved = await teach(agent, "tickets", "synthesize_cot", seen)
        assert (solved["result"]["train_agree"], solved["result"]["held_out_agree"]) == (8, 2)
        assert (await teach(agent, "tickets", "extract_policy", seen))["result"]["checker"] == "choice"
        amplified = await teach(agent, "tickets", "amplify", seen, target_size=14)
        assert (amplified["state"], amplified["result"]["accepted"]) == ("done", 14)
        assert (amplified["spend"]["cost_usd"], amplified["spend"]["in_doubt_calls"]) == (0, 0)
        assert amplified["spend"]["calls"] == len(seen)
        assert amplified["next_step"]["tool"] == "train"
    assert bench.teacher.asked == []
    assert list((bench.run_folder("tickets") / "host").iterdir()) == []
    held_out = [seed["input"] for seed in bench.rows("tickets", "seeds.jsonl") if seed["split"] == "held_out"]
    for each in seen:
        blocks = dict(re.findall(r"<([a-z-]+)-[0-9a-f]{6}>\n(.*?)\n</", each["user"], re.DOTALL))
        if each["kind"] == "solve":
            assert set(blocks) <= {"task", "policy", "input", "examples"}
        shown = {name: text for name, text in blocks.items() if name != "input"}
        assert not [text for text in held_out if any(text in part for part in shown.values())]


async def test_a_stage_answers_as_soon_as_it_waits_for_the_caller(bench: Bench) -> None:
    """An agent that is kept waiting for itself learns nothing and times out."""
    async with bench.connect() as agent:
        await agent.create(teacher="host")
        began = time.monotonic()
        reply = await agent.call("synthesize_cot", run_id="tickets", wait_s=45)
        assert time.monotonic() - began < 40
        assert "waiting for 10 answers from you" in reply["message"]
        assert reply["next_step"]["tool"] == TASK
        status = await agent.call("get_status", run_id="tickets", wait_s=45)
        assert time.monotonic() - began < 40
        assert status["next_step"]["tool"] == TASK
        message = next(line for line in status["stages"] if line["stage"] == "synthesize_cot")["message"]
        assert message.endswith(": waiting for 10 answers from you, the teacher")


async def test_two_agents_at_once_never_get_the_same_task(bench: Bench) -> None:
    """Work done twice is work lost, and several agents are how a run gets done in an evening."""
    async with bench.connect() as one, bench.connect() as other:
        await begin(one)
        replies = await asyncio.gather(
            *(agent.call(TASK, run_id="tickets", n=2, wait_s=0) for agent in (one, other, one, other, one))
        )
        given = [each["task_id"] for reply in replies for each in reply["tasks"]]
        assert len(given) == len(set(given)) == 10
        none = await other.call(TASK, run_id="tickets", wait_s=0)
        assert (none["tasks"], none["pending"], none["leased"]) == ([], 0, 10)
        assert none["lease_expires_at"]


async def test_a_lease_ends_with_its_time_and_with_the_server_that_gave_it(bench: Bench) -> None:
    """A chat that was closed in the middle must not hold up the run, and its late answer still counts."""
    folder = bench.run_folder("tickets") / "host"
    async with bench.connect() as agent:
        await begin(agent)
        first = await agent.call(TASK, run_id="tickets", n=10, wait_s=0)
        late = time.time() - LEASE_S - 1
        for lease in list(folder.glob("*.lease.json"))[:4]:
            os.utime(lease, (late, late))
        again = await agent.call(TASK, run_id="tickets", n=10, wait_s=0)
        assert len(again["tasks"]) == 4
        assert {each["task_id"] for each in again["tasks"]} < {each["task_id"] for each in first["tasks"]}
    async with bench.connect() as agent:
        after = await agent.call(TASK, run_id="tickets", n=10, wait_s=0)
        assert len(after["tasks"]) == 10
        reply = await agent.call(ANSWER, run_id="tickets", answers=answered(first))
        assert len(reply["accepted"]) == 10


async def test_a_wrong_answer_is_refused_with_its_field_and_none_of_its_text(bench: Bench) -> None:
    """The agent must be able to put it right in one turn; the good answers beside it are kept."""
    async with bench.connect() as agent:
        await begin(agent)
        tasks = await agent.call(TASK, run_id="tickets", n=6, wait_s=0)
        good = answered(tasks)
        ids = [item["task_id"] for item in good]
        bad: list[dict[str, Any]] = [
            {"task_id": ids[0], "answer": {"solution": "CANARY"}},
            {"task_id": ids[1], "answer": {"solution": ["CANARY"], "answer": "x"}},
            {"task_id": ids[2], "solution": "CANARY", "answer": "x"},
            {"task_id": "CANARY" * 20, "answer": {"solution": "a", "answer": "x"}},
            {"task_id": "../../run", "decline": "no"},
            {"task_id": ids[3], "answer": {"solution": "C" * 300_000, "answer": "x"}},
        ]
        reply = await agent.call(ANSWER, run_id="tickets", answers=[*bad, *good[4:]])
        assert reply["accepted"] == ids[4:]
        assert [item["why"] for item in reply["rejected"]] == [
            "answer: field required",
            "solution: input should be a valid string",
            "not of the form {task_id, answer: {...}} or {task_id, decline: reason}; the fields of the answer go inside answer",
            "no such task is open in this run; next_teacher_tasks names those that are",
            "no such task is open in this run; next_teacher_tasks names those that are",
            "longer than 200000 bytes",
        ]
        assert "CANARY" not in json.dumps([item["why"] for item in reply["rejected"]])
        assert reply["next_step"]["tool"] == ANSWER
        assert reply["next_step"]["arguments"]["answers"][0]["task_id"] == ids[0]
        as_text = [{**item, "answer": json.dumps(item["answer"])} for item in good[:4]]
        corrected = await agent.call(ANSWER, run_id="tickets", answers=as_text)
        assert corrected["accepted"] == ids[:4], "some clients send an object as its text"


async def test_the_first_answer_to_a_task_stands(bench: Bench) -> None:
    """A client that retries, or an agent whose lease ended, must change nothing: before the worker saw it and after."""
    async with bench.connect() as agent:
        await begin(agent)
        given = answered(await agent.call(TASK, run_id="tickets", n=1, wait_s=0))
        other = [{"task_id": given[0]["task_id"], "answer": {"solution": "Another.", "answer": "other"}}]
        assert (await agent.call(ANSWER, run_id="tickets", answers=given + other))["duplicates"] == [
            given[0]["task_id"]
        ]
        await agent.until("tickets", "synthesize_cot", lambda line: line["done"] == 1)
        late = await agent.call(ANSWER, run_id="tickets", answers=other)
        assert (late["accepted"], late["duplicates"]) == ([], [given[0]["task_id"]])
        await teach(agent, "tickets", "synthesize_cot")
    records = [record for record in bench.rows("tickets", "calls.jsonl") if record["call_id"] == given[0]["task_id"]]
    assert [record["kind"] for record in records] == ["intent", "answer", "verdict"]
    assert json.loads(records[1]["text"]) == given[0]["answer"]


async def test_a_declined_task_is_a_row_left_out(bench: Bench) -> None:
    """An agent may refuse an input as any teacher may; the others go on."""
    refused = task.seeds()[0]["input"]
    async with bench.connect() as agent:
        await begin(agent, options={"held_out_split": 0})
        with anyio.fail_after(WAIT_S):
            while (reply := await agent.call(TASK, run_id="tickets", n=20, wait_s=5))["state"] == "running":
                good = answered(reply)
                for item, each in zip(good, reply["tasks"], strict=True):
                    if refused in each["user"]:
                        item.pop("answer")
                        item["decline"] = "I would rather not."
                if good:
                    await agent.call(ANSWER, run_id="tickets", answers=good)
        done = await agent.call("synthesize_cot", run_id="tickets")
    assert (done["result"]["train_agree"], done["result"]["train_solved"]) == (9, 10)


async def test_a_worker_killed_before_it_took_an_answer_loses_none(bench: Bench) -> None:
    """An agent's work is as dear as a paid answer: it lies on disk, and the next worker takes it up first."""
    async with bench.connect() as agent:
        await begin(agent)
        tasks = await agent.call(TASK, run_id="tickets", n=10, wait_s=0)
        worker = json.loads(next(bench.run_folder("tickets").glob("jobs/*/worker.json")).read_text())["worker"]["pid"]
        os.kill(worker, signal.SIGSTOP)
        first = await agent.call(ANSWER, run_id="tickets", answers=answered(tasks)[:4])
        os.kill(worker, signal.SIGKILL)
        await agent.until("tickets", "synthesize_cot", lambda line: line["state"] == "interrupted")
        orphaned = await agent.call(TASK, run_id="tickets", wait_s=0)
        assert (orphaned["tasks"], orphaned["next_step"]["tool"]) == ([], "synthesize_cot")
        second = await agent.call(ANSWER, run_id="tickets", answers=answered(tasks)[4:])
        assert len(first["accepted"]) == 4
        assert len(second["accepted"]) == 6
        done = await agent.finish("tickets", "synthesize_cot")
    assert (done["state"], done["result"]["train_agree"], done["spend"]["calls"]) == ("done", 8, 10)
    assert done["spend"]["in_doubt_calls"] == 0


async def test_a_paused_or_cancelled_stage_hands_out_nothing(bench: Bench) -> None:
    """The user stopped it; an agent that goes on answering would not know."""
    async with bench.connect() as agent:
        await begin(agent)
        await agent.call("control_job", run_id="tickets", action="pause")
        reply = await agent.call(TASK, run_id="tickets", wait_s=0)
        assert (reply["tasks"], reply["state"]) == ([], "paused")
        assert reply["next_step"]["arguments"] == {"run_id": "tickets", "action": "resume"}
        await agent.call("control_job", run_id="tickets", action="resume")
        tasks = await agent.call(TASK, run_id="tickets", n=10, wait_s=0)
        await agent.call("control_job", run_id="tickets", action="cancel")
        reply = await agent.call(TASK, run_id="tickets", wait_s=20)
        assert (reply["tasks"], reply["next_step"]["tool"]) == ([], "synthesize_cot")
        await agent.call(ANSWER, run_id="tickets", answers=answered(tasks))
        assert (await agent.finish("tickets", "synthesize_cot"))["state"] == "done"


async def test_a_run_with_another_teacher_has_no_tasks(bench: Bench) -> None:
    """An agent that mixed up two runs must not wait for questions that never come."""
    async with bench.connect() as agent:
        await agent.create()
        for told in (
            await agent.refused(TASK, run_id="tickets"),
            await agent.refused(ANSWER, run_id="tickets", answers=[{"task_id": "a", "decline": "no"}]),
        ):
            assert told.startswith("The teacher of run 'tickets' is a model, so there is nothing for you to answer.")


async def test_models_are_compared_with_the_host_as_the_teacher(bench: Bench) -> None:
    """The comparison asks through the same door."""
    run_id = amplified_run(bench)
    folder = bench.run_folder(run_id)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["teacher_model"] = manifest["spec"]["teacher"] = "host"
    manifest["usd_per_mtok"] = [0, 0]  # as create_run stores it for the host
    (folder / "run.json").write_text(json.dumps(manifest))
    (folder / "training.json").write_text(
        json.dumps({"student_path": str(student_path())})
    )  # the teacher alone is asked
    async with bench.connect() as agent:
        done = await teach(agent, run_id, "compare_models", prompts=["where is my parcel"], models=["teacher"])
    assert done["result"]["rows"][0]["teacher"]["answer"] == "delivery"
