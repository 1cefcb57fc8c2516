"""Start a job, see how it is, steer it. Any server may do any of it, at any time, beside any other.

The launcher takes the run's lock itself and hands the locked descriptor to the worker: the lock is held without a gap
from before the job's folder exists until the worker wrote its exit record or died, whoever dies first. So there is never a second worker.
"""

import fcntl
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from nanodistill_mcp.errors import RunStateError
from nanodistill_mcp.jobs import processes
from nanodistill_mcp.jobs.locks import holder_told, is_held, open_lock, try_lock
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Exit, Heartbeat, JobRequest, Stage, WorkerRecord
from nanodistill_mcp.runs.store import Run, RunStore, now, read_record

WORKER: Sequence[str] = processes.command("worker")
"""The command line of a worker, before its own arguments."""

_POLL_S = 0.02
_START_S = 20.0
_LOOKED_AT_S = 2.0
_ORPHAN_GRACE_S = 2.0


@dataclass(frozen=True)
class Finished:
    """The worker wrote its exit record."""

    exit: Exit


@dataclass(frozen=True)
class Alive:
    """The worker holds the run's lock."""

    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(at=""))


@dataclass(frozen=True)
class Lost:
    """The worker died without an exit record: killed, crashed, or the machine went down."""

    orphaned_trainer: bool = False


JobState = Finished | Alive | Lost


def observe(run: Run, job: JobPaths) -> JobState:
    """Derive how a job is from its exit record and the run's locks.

    The exit record is read again after the lock was found free, because a worker may have ended between the two looks.
    """
    if exit_record := read_record(job.exit, Exit):
        return Finished(exit_record)
    newest = run.paths.job_list()[-1:] == [job]
    if newest and is_held(run.paths.worker_lock):
        return Alive(read_record(job.heartbeat, Heartbeat) or Heartbeat(at=""))
    if exit_record := read_record(job.exit, Exit):
        return Finished(exit_record)
    return Lost(orphaned_trainer=newest and is_held(run.paths.trainer_lock))


def active_job(run: Run) -> JobPaths | None:
    """The job whose worker lives, if there is one."""
    jobs = run.paths.job_list()
    return jobs[-1] if jobs and isinstance(observe(run, jobs[-1]), Alive) else None


async def start(
    run: Run, stage: Stage, arguments: dict[str, Any], keys: dict[str, str], *, worker: Sequence[str] = WORKER
) -> tuple[JobPaths, bool]:
    """Start a job, or attach to the one that runs.

    Args:
        run: The run the job works on.
        stage: What to do.
        arguments: What the stage needs to know; written to the job's request, so never a secret.
        keys: Environment variables for the worker alone; never written anywhere.
        worker: The program that does the job. It is given the run folder, the job's name, the nonce and the descriptor
            of the locked worker.lock, and calls ``supervise.claim`` with them.

    Returns:
        The job, and whether this call started it. When another job runs, that job.

    Raises:
        RunStateError: The worker did not come up, or an orphaned trainer could not be removed.
    """
    run.check_writable()
    lock = open_lock(run.paths.worker_lock)
    try:
        with anyio.move_on_after(_START_S) as waiting:
            while not try_lock(lock):
                if (job := active_job(run)) and _is_held_by_worker_of(job):
                    return job, False
                await anyio.sleep(_POLL_S)
        if waiting.cancelled_caught:
            raise _did_not_start("The run is locked by a worker that does not report.")
        fault("launch.locked.done")
        await _remove_orphan(run)
        job = _new_job(run, stage)
        fault("launch.folder.done")
        nonce = secrets.token_hex(16)  # a task's id is made of it, and must not be guessed
        request = JobRequest(stage=stage, nonce=nonce, requested_at=now(), arguments=arguments)
        write_json(job.request, request.model_dump())
        fault("launch.spawn")
        processes.start_detached(
            [*worker, str(run.paths.root), job.root.name, nonce, str(lock)],
            log=job.log,
            env=processes.environment(keys),
            keep_fd=lock,
        )
        fault("launch.spawn.done")
    finally:
        os.close(lock)  # never LOCK_UN: closing our copy leaves the worker's hold intact
    fault("launch.handed_over.done")
    await _wait_for_worker(run, job, nonce)
    return job, True


async def trash(store: RunStore, run: Run) -> Path:
    """Move a run to the trash. Its lock is held meanwhile, so that no server starts a job in a folder that goes away.

    Raises:
        RunStateError: A job of it runs.
    """
    lock = open_lock(run.paths.worker_lock)
    try:
        with anyio.move_on_after(_LOOKED_AT_S) as waiting:  # a server that probes the lock holds it for a moment
            while not try_lock(lock) and active_job(run) is None:
                await anyio.sleep(_POLL_S)
        if waiting.cancelled_caught or not try_lock(lock):
            raise RunStateError(
                f"Run {run.run_id!r} has a running job.",
                next_step=f"Call control_job(run_id={run.run_id!r}, action='cancel') first.",
            )
        await _remove_orphan(run)
        return store.trash(run)
    finally:
        os.close(lock)


def steer(job: JobPaths, want: Control) -> None:
    """Say what is wanted of a job. A cancel that was asked for stays asked for."""
    folder = os.open(job.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # between this look and this write, another server may ask to cancel
        before = read_record(job.control, Control)
        if before is None or before.want != "cancel":
            fault("steer.locked.done")
            write_json(job.control, want.model_dump())
    finally:
        os.close(folder)


def _is_held_by_worker_of(job: JobPaths) -> bool:
    """Is it this job's worker that holds the run's lock, and not a launcher that is about to start the next one?"""
    record = read_record(job.worker, WorkerRecord)
    return record is not None and processes.is_same(record.worker)


def _new_job(run: Run, stage: Stage) -> JobPaths:
    jobs = run.paths.job_list()
    number = jobs[-1].number + 1 if jobs else 1
    job = JobPaths(run.paths.jobs / f"{number:03d}-{stage}")
    job.root.mkdir(mode=0o700)
    return job


async def _wait_for_worker(run: Run, job: JobPaths, nonce: str) -> None:
    with anyio.move_on_after(_START_S):
        while True:
            record = read_record(job.worker, WorkerRecord)
            if record is not None and record.nonce == nonce:
                return
            if not is_held(run.paths.worker_lock) and not job.worker.exists():
                break
            await anyio.sleep(_POLL_S)
    raise _did_not_start("The worker ended before it reported in.")


async def _remove_orphan(run: Run) -> None:
    """Stop what a killed worker left behind. The caller holds the run's lock."""
    jobs = run.paths.job_list()
    if not jobs or not is_held(run.paths.trainer_lock):
        return
    record = read_record(jobs[-1].worker, WorkerRecord)
    told = (holder_told(run.paths.trainer_lock), record.trainer if record is not None else None)
    # Looked at once: its group keeps the number from being reused, also when the leader ends first.
    trainer = next((each for each in told if each is not None and processes.is_same(each)), None)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if trainer is not None:
            processes.signal_group(trainer.pid, number)
        with anyio.move_on_after(_ORPHAN_GRACE_S):
            while is_held(run.paths.trainer_lock):
                await anyio.sleep(_POLL_S)
            return
    raise RunStateError(
        "A trainer of an earlier worker is still alive and could not be stopped.",
        next_step="End that process (its folder is the run's), then call the tool again.",
    )


def _did_not_start(what: str) -> RunStateError:
    return RunStateError(
        what, next_step="Read the newest job's log with read_artifact(artifact='log.txt'), then call the tool again."
    )
