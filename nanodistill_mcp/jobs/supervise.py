"""The inside of a worker: it says it lives, listens to its control file, and owns the student process it starts.

Two locks tell the whole truth from outside. The worker's is held by this process alone. The trainer's is held by every
student process and its children, also after this process was killed: an orphan is seen, never missed.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
from pydantic import BaseModel

from nanodistill_mcp.errors import NanodistillError, StudentDiedError, machine_error
from nanodistill_mcp.jobs import machine, processes
from nanodistill_mcp.jobs.guard import Sampler
from nanodistill_mcp.jobs.locks import is_held, is_same_file, open_lock, tell_who_holds, try_lock
from nanodistill_mcp.jobs.student_process import (
    CHILD_POLL_S,
    GRACE_S,
    Tail,
    death,
    how_it_ended,
    start_student,
    stop_student,
)
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import append_line, read_json, write_json
from nanodistill_mcp.runs.journal import paid_by_now
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Exit, Heartbeat, JobRequest, WorkerRecord
from nanodistill_mcp.runs.store import Run, now, read_record

_R = TypeVar("_R", bound=BaseModel)

_BEAT_S = 0.5
_CONTROL_S = 0.1
_LONGEST_ID = 100

Stage = Callable[["Job"], Awaitable[dict[str, Any]]]


class Cancelled(Exception):  # noqa: N818 - not an error: what was asked for
    """A student process saw the cancel before this one did."""


class Job:
    """What a stage sees of the process it runs in."""

    student_command: Sequence[str] = processes.command("student.child")
    """The command line of a student process, before the path of its request."""
    sampler: Sampler | None = None
    """What the guard of a training looks through; None is this machine."""

    def __init__(self, run: Run, paths: JobPaths, request: JobRequest, lock: int) -> None:
        self.run = run
        self.paths = paths
        self.request = request
        self._lock = lock
        self._queued = False
        self._held = ""
        self.student_pid: int | None = None
        """The student process that runs, which leads a group of its own; None while there is none."""
        self.files: dict[str, str] = {}
        """The SHA-256 of what the stage wrote, by name."""
        self._heartbeat = Heartbeat(at=now())
        self._resumed = anyio.Event()
        self._resumed.set()
        self._locks: list[int] = []
        self._worker = WorkerRecord(nonce=request.nonce, started_at=now(), worker=processes.identity(os.getpid()))
        write_json(paths.worker, self._worker.model_dump())

    @property
    def arguments(self) -> dict[str, Any]:
        """What the caller asked the stage to do."""
        return self.request.arguments

    @property
    def heartbeat(self) -> Heartbeat:
        """How far the stage said it is."""
        return self._heartbeat

    def progress(self, done: int, total: int, message: str = "", **live: object) -> None:
        """Say how far the stage is. Shown by get_status within a second."""
        beat = self._heartbeat
        self._heartbeat = beat.model_copy(
            update={"done": done, "total": total, "message": message or beat.message, "live": {**beat.live, **live}}
        )

    def note(self, message: str, **live: object) -> None:
        """Say what the stage is waiting for, while its numbers stay as they are."""
        beat = self._heartbeat
        self._heartbeat = beat.model_copy(update={"message": message or beat.message, "live": {**beat.live, **live}})

    def hold(self, told: str) -> None:
        """Say that the job rests because others need the machine, in words for the user; no words end it."""
        self._held = told

    @property
    def is_paused(self) -> bool:
        """Has the user paused it?"""
        return not self._resumed.is_set()

    def event(self, name: str, **fields: object) -> None:
        """Record a decision or a milestone, one line, for people."""
        append_line(self.paths.events, {"at": now(), "event": name, **fields})

    async def checkpoint(self) -> None:
        """Wait here while the job is paused. Called between units of work, such as before a paid call."""
        await self._resumed.wait()

    @asynccontextmanager
    async def one_at_a_time(self, lock_path: Path) -> AsyncGenerator[None, None]:
        """Hold a machine-wide lock, waiting in state ``queued`` while another process of this user holds it."""
        fd = open_lock(lock_path)
        self._locks.append(fd)
        try:
            if not try_lock(fd):
                self.event("queued")
                self._queued = True
                while not try_lock(fd):
                    self.note(f"waiting for the training of run {_holder(fd)}")
                    await anyio.sleep(_CONTROL_S)
                self._queued = False
            os.ftruncate(fd, 0)
            os.pwrite(fd, self.run.run_id.encode(), 0)
            yield
        finally:
            self._queued = False
            self._locks.remove(fd)
            os.close(fd)

    async def run_student(
        self,
        request: BaseModel,
        answer: type[_R],
        on_metric: Callable[[dict[str, Any]], None] | None = None,
        *,
        silent_s: float | None = None,
        died: Callable[[str], NanodistillError] | None = None,
        command: Sequence[str] = (),
    ) -> _R:
        """Run one request in a student process and return its result.

        Args:
            request: A student request with ``kind``, ``result_path`` and, where it reports, ``metrics_path``.
            answer: The result's type.
            on_metric: Called with each event line the process appends.
            silent_s: A process that appends no event line for so long counts as hung and is ended; None waits for ever.
            died: Makes the error for a process that ended without a result, from the words for how; a
                StudentDiedError if it is left out.
            command: Starts the process in place of ``student_command``; the request's path comes behind it.

        Raises:
            NanodistillError: The process reported a failure it knows.
            StudentDiedError: It died; says how, unless ``died`` makes another error of it.
        """
        fields = request.model_dump(mode="json")
        kind, result_path = fields["kind"], Path(fields["result_path"])
        request_path = result_path.with_suffix(".request.json")
        write_json(request_path, fields)
        result_path.unlink(missing_ok=True)
        tail = Tail(Path(fields["metrics_path"]), on_metric) if "metrics_path" in fields else None
        child = await start_student(
            [*(command or self.student_command), str(request_path)],
            trainer_lock=self.run.paths.trainer_lock,
            log=self.paths.log,
            folder=self.run.paths.root,
            kept_fds=self._locks,
        )
        self.student_pid = child.pid
        try:
            student = processes.identity(child.pid)
            fault("student.told")
            tell_who_holds(self.run.paths.trainer_lock, student)
            self._worker = self._worker.model_copy(update={"trainer": student})
            write_json(self.paths.worker, self._worker.model_dump())
            heard_at = time.monotonic()
            while (code := child.poll()) is None:
                await anyio.sleep(CHILD_POLL_S)
                if tail is not None and tail.pass_on():
                    heard_at = time.monotonic()
                elif silent_s is not None and time.monotonic() - heard_at > silent_s:
                    raise (died or partial(death, kind))(f"gave no sign of life for {silent_s:g} s and was ended.")
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await stop_student(child)
            raise
        finally:
            self.student_pid = None
            processes.signal_group(child.pid, signal.SIGKILL)  # stragglers of its group
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_S):
                while is_held(self.run.paths.trainer_lock):  # whoever reads our exit record may trust that it is over
                    await anyio.sleep(CHILD_POLL_S)
        fault("student.ended.done")
        if tail is not None:
            tail.pass_on()
        result = read_json(result_path)
        if result is None:
            error = (died or partial(death, kind))(how_it_ended(code))
            if isinstance(error, StudentDiedError):
                error.exit_code = code
            raise error
        if result.get("failed"):
            raise rebuild_error(result)
        return answer.model_validate(result)

    @property
    def _phase(self) -> Literal["queued", "running", "paused"]:
        if self.is_paused or self._held:
            return "paused"
        return "queued" if self._queued else "running"

    async def beat(self) -> None:
        """Write the heartbeat until cancelled. Not flushed: it proves nothing and may be lost."""
        while True:
            try:
                self.write_heartbeat()
            except OSError as error:  # a full disk: the work may still go on, and says so itself when it cannot
                print(f"No heartbeat: {error.strerror}", file=sys.stderr)
            await anyio.sleep(_BEAT_S)

    async def watch_machine(self) -> None:
        """Record what the machine does to the job, and show it, until cancelled."""

        def slept(slept_s: float) -> None:
            self.event("slept", seconds=round(slept_s))

        def changed(words: str) -> None:
            self.event("machine", told=words or "the machine is on mains power and cool again")
            self.note("", machine=words)

        await machine.watch(slept, changed)

    def write_heartbeat(self) -> None:
        """Write how far the job is, now."""
        self._heartbeat = self._heartbeat.model_copy(update={"at": now(), "phase": self._phase, "held": self._held})
        write_json(self.paths.heartbeat, self._heartbeat.model_dump(), durable=False)

    async def listen(self, scope: anyio.CancelScope) -> None:
        """Follow the control file until a cancel is wanted."""
        while True:
            control = read_record(self.paths.control, Control)
            match control.want if control else "run":
                case "cancel":
                    scope.cancel()
                    return
                case "pause" if self._resumed.is_set():
                    self._resumed = anyio.Event()
                    self.event("paused")
                case "run" | "stop" if not self._resumed.is_set():
                    self._resumed.set()
                    self.event("resumed")
                case _:
                    pass
            await anyio.sleep(_CONTROL_S)

    def let_go(self) -> None:
        """Release the run. Called when the exit record is written: closing down can take longer, and changes nothing."""
        os.close(self._lock)


def claim(run: Run, job: JobPaths, nonce: str, lock: int) -> Job | None:
    """Take over the lock that was handed to this process; None when it was not, or the request is not for us."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir(run.paths.root)
    fault("claim.inherited.done")
    os.set_inheritable(lock, False)  # noqa: FBT003 - the standard library's own signature
    if not is_same_file(lock, run.paths.worker_lock) or not try_lock(lock):
        print("No lock was handed over.", file=sys.stderr)
        return None
    request = read_record(job.request, JobRequest)
    if request is None or request.nonce != nonce:
        print("The job's request is not the one this process was started for.", file=sys.stderr)
        return None
    fault("claim.locked.done")
    return Job(run, job, request, lock)


async def carry_out(job: Job, stage: Stage) -> Exit | None:
    """Run a stage to its end and write its exit record, last.

    Returns:
        The record; None when this process was asked to end (SIGTERM), so that the job counts as interrupted.
    """
    began = time.monotonic()
    job.event("started", stage=job.request.stage)
    summary: dict[str, Any] | None = None
    failure: NanodistillError | None = None
    terminated = False
    with anyio.CancelScope() as scope:

        async def end_on_signal() -> None:
            nonlocal terminated
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    terminated = True
                    scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(job.beat)
                tasks.start_soon(job.watch_machine)
                tasks.start_soon(job.listen, scope)
                tasks.start_soon(end_on_signal)
                summary = await stage(job)
                tasks.cancel_scope.cancel()
        except* Cancelled:
            summary = None
        except* NanodistillError as group:
            failure = _first(group)
        except* Exception as group:  # noqa: BLE001 - a defect of ours: the job failed, its log says where
            traceback.print_exception(group)
            failure = _defect(group)
    if terminated:
        job.event("terminated")
        job.let_go()
        return None
    ended_at, elapsed_s = now(), round(time.monotonic() - began, 3)
    record = Exit(outcome="done" if summary is not None else "cancelled", ended_at=ended_at, elapsed_s=elapsed_s)
    if failure is not None:
        told = {"outcome": "failed", "error_kind": failure.kind, "what": failure.what, "next_step": failure.next_step}
        record = record.model_copy(update=told)
    elif summary is not None:
        record = record.model_copy(update={"summary": summary, "files": job.files})
    record = record.model_copy(update={"paid": paid_by_now(job.run.paths.calls)})
    job.write_heartbeat()
    job.event("ended", outcome=record.outcome)
    write_json(job.paths.exit, record.model_dump())
    fault("job.exit.done")
    job.let_go()
    fault("job.free.done")
    return record


def _holder(lock: int) -> str:
    """The run whose job holds a machine-wide lock, as far as it said so."""
    return os.pread(lock, _LONGEST_ID, 0).decode(errors="replace") or "another one"


def rebuild_error(failed: dict[str, Any]) -> NanodistillError:
    """The error a child process reported, as the class it was."""
    classes = {cls.kind: cls for cls in NanodistillError.__subclasses__()}
    cls = classes.get(failed["kind"], NanodistillError)
    return cls(failed["what"], next_step=failed["next_step"])


def _first(group: BaseExceptionGroup[NanodistillError]) -> NanodistillError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _defect(group: BaseExceptionGroup[Exception]) -> NanodistillError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and (known := machine_error(error)):
        return known
    return NanodistillError(
        f"The job ended on an unexpected {type(error).__name__}; what it had done is kept.",
        next_step="Read the log with read_artifact(artifact='log.txt'), then call the stage again to continue.",
    )
