"""The state of a stage is derived from what lies there and who holds the locks; here, every combination of both."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.pipeline.status import pipeline_status, product_of, spend, stage_result, stage_status
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import PIPELINE, State
from nanodistill_mcp.runs.store import Run, now
from tests.runs.made import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run in which nothing was done yet."""
    return make_run(tmp_path)


@pytest.fixture
def held(run: Run) -> Iterator[None]:
    """As a worker holds its run."""
    fd = open_lock(run.paths.worker_lock)
    assert try_lock(fd)
    yield
    os.close(fd)


def _job(run: Run, name: str, **exit_record: Any) -> JobPaths:
    job = JobPaths(run.paths.jobs / name)
    job.root.mkdir()
    write_json(job.worker, {"nonce": "x", "started_at": now(), "worker": {"pid": 1, "start_ticks": 0, "boot_id": ""}})
    if exit_record:
        write_json(job.exit, {"ended_at": now(), "elapsed_s": 1, **exit_record})
    return job


def _product(run: Run) -> None:
    write_json(run.paths.training, {"iterations": 5})


def test_a_stage_nobody_asked_for_is_new(run: Run) -> None:
    """A run that was just made."""
    assert {status.state for status in pipeline_status(run)} == {State.NEW}
    assert [status.stage for status in pipeline_status(run)] == list(PIPELINE)


@pytest.mark.parametrize("phase", ["queued", "running", "paused"])
@pytest.mark.usefixtures("held")
def test_a_stage_whose_worker_lives_is_in_the_phase_it_says(run: Run, phase: str) -> None:
    """With its numbers, for get_status."""
    job = _job(run, "001-train")
    beat = {"at": now(), "phase": phase, "done": 3, "total": 9, "message": "training", "live": {"train_loss": 0.5}}
    write_json(job.heartbeat, beat)
    status = stage_status(run, "train")
    assert (status.state, status.done, status.total, status.message) == (State(phase), 3, 9, "training")
    assert (status.live, status.heartbeat_at, status.job) == ({"train_loss": 0.5}, beat["at"], job)
    assert stage_status(run, "evaluate").state is State.NEW


@pytest.mark.usefixtures("held")
def test_a_worker_that_has_not_said_anything_is_starting(run: Run) -> None:
    """The first half second."""
    _job(run, "001-train")
    assert (stage_status(run, "train").state, stage_status(run, "train").message) == (State.RUNNING, "starting")


@pytest.mark.usefixtures("held")
def test_a_cancel_that_was_asked_for_is_said_while_the_worker_ends(run: Run) -> None:
    """It takes up to some seconds."""
    job = _job(run, "001-train")
    write_json(job.control, {"want": "cancel"})
    assert stage_status(run, "train").message == "cancelling"


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(
    ("exit_record", "without_product"),
    [
        ({}, State.INTERRUPTED),
        ({"outcome": "done"}, State.NEW),
        ({"outcome": "failed", "what": "It broke.", "next_step": "Mend it."}, State.FAILED),
        ({"outcome": "cancelled"}, State.CANCELLED),
    ],
)
def test_a_stage_without_a_worker_is_done_exactly_when_its_product_is_there(
    run: Run, product: bool, exit_record: dict[str, Any], without_product: State
) -> None:
    """A worker killed after it wrote its product has done its work; one that says done and left nothing has not."""
    _job(run, "001-train", **exit_record)
    if product:
        _product(run)
    status = stage_status(run, "train")
    assert status.state is (State.DONE if product else without_product)
    if status.state is State.FAILED:
        assert status.message == "It broke. Mend it."


def test_a_product_without_any_job_is_done(run: Run) -> None:
    """A run that was copied from elsewhere, or a policy that the user gave."""
    _product(run)
    assert stage_status(run, "train").state is State.DONE
    assert stage_result(run, "train") == {"iterations": 5}


@pytest.mark.usefixtures("held")
def test_only_the_newest_job_can_be_the_one_that_lives(run: Run) -> None:
    """The lock belongs to the run: an earlier job that was killed must not seem to run again."""
    _job(run, "001-train")
    _job(run, "002-evaluate")
    assert stage_status(run, "train").state is State.INTERRUPTED
    assert stage_status(run, "evaluate").state is State.RUNNING


def test_the_last_job_of_a_stage_decides(run: Run) -> None:
    """A failure that was mended is history."""
    _job(run, "001-train", outcome="failed", what="It broke.", next_step="Mend it.")
    _job(run, "002-evaluate", outcome="failed", what="No.", next_step="Train.")
    _job(run, "003-train", outcome="cancelled")
    assert stage_status(run, "train").state is State.CANCELLED
    assert stage_status(run, "evaluate").state is State.FAILED


def test_how_far_an_interrupted_stage_came_is_kept(run: Run) -> None:
    """The last heartbeat is true until the next one."""
    job = _job(run, "001-train")
    write_json(job.heartbeat, {"at": "t", "done": 7, "total": 9})
    status = stage_status(run, "train")
    assert (status.state, status.done, status.total) == (State.INTERRUPTED, 7, 9)


def test_calls_in_flight_are_in_doubt_only_when_no_worker_lives(run: Run) -> None:
    """While it lives, it waits for their answers."""
    with Journal.open(run.paths.calls) as journal:
        journal.append({"kind": "intent", "call_id": "a", "attempt": 0, "max_usd": 0.5})
    job = _job(run, "001-synthesize_cot")
    fd = open_lock(run.paths.worker_lock)
    assert try_lock(fd)
    assert (spend(run).in_doubt_calls, spend(run).in_doubt_usd) == (0, 0.0)
    os.close(fd)
    assert (spend(run).in_doubt_calls, spend(run).in_doubt_usd) == (1, 0.5)
    assert stage_status(run, "synthesize_cot").job == job


def test_a_stage_that_is_redone_and_those_after_it_are_new_and_nothing_is_lost(run: Run) -> None:
    """Paid answers stay; everything else goes to the archive."""
    run.paths.calls.write_text("")
    for stage in PIPELINE:
        write_json(product_of(run.paths, stage), {"stage": stage})
    run.paths.dataset.mkdir()
    moved = archive_from(run, "train")
    assert {"training.json", "dataset", "evaluation.json", "export.json"} <= set(moved)
    states = {status.stage: status.state for status in pipeline_status(run)}
    assert [stage for stage, state in states.items() if state is State.DONE] == list(PIPELINE[:3])
    assert run.paths.calls.exists()
    [archive] = run.paths.archive.iterdir()
    assert sorted(entry.name for entry in archive.iterdir()) == sorted(moved)
    assert archive_from(run, "train") == []
