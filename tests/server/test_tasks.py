"""Long stages as tasks: a client that keeps tasks is told of the end, whatever became of the server in between."""

import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import CallToolResult

from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Exit, Heartbeat, JobRequest
from nanodistill_mcp.runs.store import Run, now, read_record
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.server.tasks import task_id
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench
from tests.runs.made import make_run
from tests.server.task_client import KeepsTasks, TaskClaim, ask, ended, start


@asynccontextmanager
async def _client(home: Path, *, keeps_tasks: bool = True, mode: str = "auto") -> AsyncGenerator[Client]:
    extensions = [KeepsTasks()] if keeps_tasks else []
    server = build_server(load_settings(home, env={}))
    async with Client(server, extensions=extensions, mode=mode) as client:  # pyright: ignore[reportArgumentType]
        yield client


def _job(run: Run, name: str = "001-train") -> JobPaths:
    """A job's folder, as a launcher leaves it."""
    job = JobPaths(run.paths.jobs / name)
    job.root.mkdir(mode=0o700)
    request = JobRequest(stage=name.split("-")[1], nonce=f"nonce of {name}", requested_at=now())  # pyright: ignore[reportArgumentType]
    write_json(job.request, request.model_dump())
    write_json(job.heartbeat, Heartbeat(at=now(), done=3, total=9, message="iteration 3 of 9").model_dump())
    return job


@contextmanager
def _at_work(run: Run) -> Generator[None]:
    """Hold the run's lock, as its worker does."""
    lock = open_lock(run.paths.worker_lock)
    assert try_lock(lock)
    yield
    os.close(lock)


def _end(job: JobPaths, outcome: str, **further: str) -> None:
    write_json(job.exit, Exit(outcome=outcome, ended_at=now(), elapsed_s=1.0, **further).model_dump())  # pyright: ignore[reportArgumentType]


async def test_a_stage_that_outlasts_its_call_is_a_task_and_its_end_is_read_from_another_server(bench: Bench) -> None:
    """The client's next server never saw the call; the run folder did."""
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=bench.env)
    async with bench.connect() as agent:
        await agent.create()
    async with Client(parameters, extensions=[KeepsTasks()]) as client:
        task = await start(client, "synthesize_cot", run_id="tickets", wait_s=0)
    assert task.task_id.startswith("tickets.001-synthesize_cot.")
    assert (task.status, task.ttl_ms) == ("working", None)
    async with _client(bench.home) as client:
        state = await ended(client, task.task_id)
        again = await client.call_tool("synthesize_cot", {"run_id": "tickets"})
    assert state.status == "completed"
    told = CallToolResult.model_validate(state.result)
    assert told.structured_content is not None
    assert (told.structured_content["state"], told.structured_content["stage"]) == ("done", "synthesize_cot")
    assert again.structured_content == told.structured_content  # what is finished is answered at once, and is no task


async def test_a_call_that_attaches_to_a_running_job_is_answered_with_that_jobs_task(tmp_path: Path) -> None:
    """Two chats that follow one training hold the same task, and it is not started twice."""
    run = make_run(tmp_path)
    job = _job(run)
    with _at_work(run):
        async with _client(tmp_path) as client:
            one = await start(client, "train", run_id="tickets", wait_s=0)
            two = await start(client, "train", run_id="tickets", wait_s=0)
    assert one.task_id == two.task_id == task_id(run, job)
    assert one.status_message == "train: iteration 3 of 9"


@pytest.mark.parametrize(("keeps_tasks", "mode"), [(False, "auto"), (True, "legacy")])
async def test_a_client_that_did_not_declare_tasks_is_never_sent_one(
    tmp_path: Path, keeps_tasks: bool, mode: str
) -> None:
    """It would not know what to do with it: it gets the reply it has always got."""
    run = make_run(tmp_path)
    _job(run)
    with _at_work(run):
        async with _client(tmp_path, keeps_tasks=keeps_tasks, mode=mode) as client:
            reply = await client.call_tool("train", {"run_id": "tickets", "wait_s": 0})
            with pytest.raises(MCPError):
                await ask(client, "tasks/get", task_id(run, run.paths.job_list()[0]))
    assert reply.structured_content is not None
    assert reply.structured_content["state"] == "running"


async def test_an_error_is_an_error_and_no_task(tmp_path: Path) -> None:
    """A task is made of work that goes on; a refused call starts none."""
    make_run(tmp_path)
    async with _client(tmp_path) as client:
        reply = await client.session.call_tool("train", {"run_id": "tickets"}, allow_claimed=True)
        plain = await client.session.call_tool("get_status", {"run_id": "tickets"}, allow_claimed=True)
    assert isinstance(reply, CallToolResult)
    assert reply.is_error
    assert not isinstance(plain, TaskClaim)


async def test_cancelling_a_task_asks_its_job_to_end_and_says_so_when_it_did(tmp_path: Path) -> None:
    """It is what control_job does: the worker ends between two steps, and keeps what it has."""
    run = make_run(tmp_path)
    job = _job(run)
    async with _client(tmp_path) as client:
        with _at_work(run):
            await ask(client, "tasks/cancel", task_id(run, job))
            asked = read_record(job.control, Control)
            assert asked is not None
            assert asked.want == "cancel"
            state = await ask(client, "tasks/get", task_id(run, job))
            assert (state.status, state.status_message) == ("working", "train: cancelling")
            _end(job, "cancelled")
        state = await ask(client, "tasks/get", task_id(run, job))
        await ask(client, "tasks/cancel", task_id(run, job))  # an ended task is not asked again
    assert state.status == "cancelled"
    assert "kept" in state.status_message


async def test_a_call_that_is_given_up_leaves_its_job_alone(tmp_path: Path) -> None:
    """A client that stops waiting has not asked for the work to stop."""
    run = make_run(tmp_path)
    job = _job(run)
    with _at_work(run):
        async with _client(tmp_path, keeps_tasks=False) as client:
            with anyio.move_on_after(0.3) as waiting:
                await client.call_tool("train", {"run_id": "tickets", "wait_s": 45})
            assert waiting.cancelled_caught
            assert (await client.call_tool("get_status", {"run_id": "tickets"})).is_error is False
    assert not job.control.exists()


async def test_a_task_whose_worker_failed_or_died_ends_with_what_to_call_next(tmp_path: Path) -> None:
    """The agent is woken with the reply it would have got: what went wrong, and the call that continues."""
    run = make_run(tmp_path)
    died = _job(run, "001-synthesize_cot")
    failed = _job(run, "002-train")
    _end(failed, "failed", what="Out of memory.", next_step="Choose a smaller batch.")
    async with _client(tmp_path) as client:
        lost = await ask(client, "tasks/get", task_id(run, died))
        ended_ = await ask(client, "tasks/get", task_id(run, failed))
    assert (lost.status, ended_.status) == ("completed", "completed")
    assert lost.result is not None
    assert lost.result["structuredContent"]["state"] == "interrupted"
    assert lost.result["structuredContent"]["next_step"]["tool"] == "synthesize_cot"
    assert ended_.status_message == "Out of memory. Choose a smaller batch."


async def test_only_the_id_that_was_given_out_finds_a_task(tmp_path: Path) -> None:
    """Run and job can be guessed; the rest of the id cannot, and a deleted run has no tasks."""
    run = make_run(tmp_path)
    job = _job(run)
    known = task_id(run, job)
    assert len(known.rsplit(".", 1)[1]) == 32
    async with _client(tmp_path) as client:
        for wrong in (
            "",
            "tickets",
            "tickets.001-train",
            "tickets.001-train.",
            known[:-1] + "x",
            "../x.001-train.a",
            "ü.ü.ü",
        ):
            with pytest.raises(MCPError, match="There is no such task") as refused:
                await ask(client, "tasks/get", wrong)
            assert refused.value.code == -32602
        assert (await ask(client, "tasks/update", known)).status == ""
        run.paths.root.rename(tmp_path / "gone")
        with pytest.raises(MCPError, match="There is no such task"):
            await ask(client, "tasks/get", known)


async def test_a_damaged_run_fails_its_task_with_our_words(tmp_path: Path) -> None:
    """A task that never ends would be polled for ever."""
    run = make_run(tmp_path)
    job = _job(run)
    _end(job, "done")
    run.paths.training.write_text("{", encoding="utf-8")
    async with _client(tmp_path) as client:
        state = await ask(client, "tasks/get", task_id(run, job))
    assert state.status == "failed"
    assert state.error is not None
    assert state.error["message"].startswith("training.json of this run is not readable JSON.")
