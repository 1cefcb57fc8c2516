"""A clock that is put forward or back, a machine that sleeps, a process that is stopped: nothing is taken for what it is not."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from nanodistill_mcp.jobs import launch
from nanodistill_mcp.jobs.processes import identity, is_same
from nanodistill_mcp.pipeline.status import is_outdated, stage_status
from nanodistill_mcp.pipeline.training import is_of_other_rows
from nanodistill_mcp.runs.files import sha256_of, write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.questions import LEASE_S, Question, Questions
from nanodistill_mcp.runs.records import Control, Exit, Heartbeat, Stage, State
from nanodistill_mcp.runs.store import Run
from tests.jobs.scenes import beat, begin, ended, go, until, worker_of
from tests.runs.made import make_run

HOUR_S, YEAR_S = 3600.0, 365 * 86400.0
JUMPS_S = {
    "an hour forward": HOUR_S,
    "an hour back": -HOUR_S,
    "a year forward": YEAR_S,
    "a year back": -YEAR_S,
    "eight hours of sleep": 8 * HOUR_S,
    "put right by a minute": 60.0,
    "put right by a minute, back": -60.0,
    "the epoch, with an empty battery": -(time.time() - 86400),
}


def _done(run: Run, stage: Stage, product: Path, *, at_s: float) -> None:
    """A job that ended well, as a clock that showed this time would have written it."""
    job = JobPaths(run.paths.jobs / f"{len(run.paths.job_list()) + 1:03d}-{stage}")
    job.root.mkdir()
    product.write_text("{}\n")
    os.utime(product, (at_s, at_s))
    ended_at = datetime.fromtimestamp(at_s, UTC).isoformat()
    write_json(job.exit, Exit(outcome="done", ended_at=ended_at, elapsed_s=1.0).model_dump())


@pytest.mark.crash
@pytest.mark.parametrize("jump", JUMPS_S)
def test_the_order_of_what_was_done_is_kept_whatever_the_clock_showed(home: Path, jump: str) -> None:
    """A training that seems older than its examples would be advised to be redone; jobs have numbers."""
    run, now_s = make_run(home), time.time()
    paths = run.paths
    _done(run, "amplify", paths.traces_amplified, at_s=now_s)
    _done(run, "train", paths.training, at_s=now_s + JUMPS_S[jump])
    assert not is_outdated(run, "train")
    _done(run, "amplify", paths.traces_amplified, at_s=now_s + 1)
    assert is_outdated(run, "train")


@pytest.mark.crash
@pytest.mark.parametrize("jump", JUMPS_S)
def test_a_training_goes_on_from_its_checkpoints_whatever_the_clock_showed(home: Path, jump: str) -> None:
    """What its rows were made of is known by content: by the clock it would begin anew after each death."""
    run, now_s = make_run(home), time.time()
    run.paths.traces_amplified.write_text('{"id": "a"}\n')
    run.paths.dataset.mkdir()
    built = run.paths.dataset / "manifest.json"
    write_json(built, {"examples_sha256": sha256_of(run.paths.traces_amplified), "revisions": 0})
    os.utime(built, (now_s + JUMPS_S[jump], now_s + JUMPS_S[jump]))
    assert not is_of_other_rows(run)
    run.paths.traces_amplified.write_text('{"id": "b"}\n')
    assert is_of_other_rows(run)


@pytest.mark.crash
@pytest.mark.parametrize("jump", JUMPS_S)
def test_a_question_that_was_given_out_comes_back_whatever_the_clock_showed(home: Path, jump: str) -> None:
    """A lease of a year would keep a run waiting for a year."""
    questions, me = Questions(home / "host"), identity(os.getpid())
    asked = Question(
        id="q", template="t", answer_shape="s", answer_schema={}, system="", user="", asked_at="2026-01-01T00:00:00"
    )
    questions.ask(asked, "001-amplify")
    assert questions.lease("001-amplify", 1, 1000, me, is_same) == [asked]
    lease = home / "host" / "q.lease.json"
    before_s = time.time() - JUMPS_S[jump]  # it was written before the clock jumped
    os.utime(lease, (before_s, before_s))
    found = questions.open_for("001-amplify", is_same)
    still_leased = 0 <= JUMPS_S[jump] < LEASE_S
    assert (found.free, found.leased) == ((0, 1) if still_leased else (1, 0))
    assert 0 <= found.lease_expires_s <= LEASE_S


@pytest.mark.crash
async def test_a_stopped_worker_is_running_and_its_silence_is_told(home: Path) -> None:
    """Somebody stopped it by hand, or the machine slept: it is never declared dead, and obeys once it goes on."""
    run = make_run(home)
    job = await begin(run, "wait")
    worker = worker_of(job)
    await until(lambda: beat(run, job).done > 0)
    worker.suspend()
    last = beat(run, job)
    silent = datetime.now(UTC) - timedelta(seconds=60)
    write_json(job.heartbeat, last.model_copy(update={"at": silent.isoformat()}).model_dump())
    found = stage_status(run, "train")
    assert found.state is State.RUNNING
    assert found.message.startswith("working; no sign of life for 6")
    launch.steer(job, Control(want="cancel"))
    assert stage_status(run, "train").state is State.RUNNING
    worker.resume()
    assert (await ended(run, job)).outcome == "cancelled"


@pytest.mark.crash
def test_a_heartbeat_from_the_future_is_no_silence(home: Path) -> None:
    """The clock was put back after it: no duration is negative, and nothing is said."""
    run = make_run(home)
    job = JobPaths(run.paths.jobs / "001-train")
    job.root.mkdir()
    soon = datetime.now(UTC) + timedelta(hours=1)
    write_json(job.heartbeat, Heartbeat(at=soon.isoformat(), done=1, total=2, message="training").model_dump())
    with run.paths.worker_lock.open("w") as holder:
        assert launch.try_lock(holder.fileno())
        assert stage_status(run, "train").message == "training"


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_worker_that_is_stopped_for_a_minute_goes_on_where_it_was(home: Path) -> None:
    """The whole minute, in real time."""
    run = make_run(home)
    job = await begin(run, "wait")
    worker = worker_of(job)
    await until(lambda: beat(run, job).done > 0)
    for _ in range(2):
        worker.suspend()
        await anyio.sleep(31)  # it is stopped, so there is nothing to wait for
        assert "no sign of life for 3" in stage_status(run, "train").message
        assert await launch.start(run, "train", {}, {}) == (job, False)
        done = beat(run, job).done
        worker.resume()
        await until(lambda done=done: beat(run, job).done > done)
    go(job)
    assert (await ended(run, job)).outcome == "done"
