"""The guard at work beside a training: looks once a second, and carries out what the rule decides.

The trainer is told through a file of the guard's own, beside the user's: who of the two wants the stronger thing is obeyed,
so that neither can undo the other's wish. Every decision is a line of the job's ``events.jsonl`` with its numbers.
"""

import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

import anyio
import psutil

from nanodistill_mcp.jobs import guard, processes
from nanodistill_mcp.jobs.guard import FULL, LONGEST_PAUSE_S, Decision, Limits, Sample, State
from nanodistill_mcp.jobs.measuring import MachineSampler
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.records import Control
from nanodistill_mcp.runs.store import read_record

_POLL_S = 0.1
_NICER = 10
"""After a pause that others did not end, training takes what they leave."""


class Guarding:
    """Watches over one training, through all the processes it takes."""

    def __init__(self, job: Job, limits: Limits) -> None:
        self._job, self._limits = job, limits
        self._state: State | None = None
        self._clears = 0
        self._back: anyio.Event | None = None
        """Set when there is memory again; there only while somebody waits for it."""
        self.steps = 0
        """Steps the training was heard to make; the caller counts."""
        self.last: Decision | None = None
        """What was decided last."""

    @property
    def given_way(self) -> dict[str, Any]:
        """How often and how long training gave way; empty when it never did."""
        state = self._state
        if state is None or not (state.pauses or state.unloads or state.kills):
            return {}
        told = {"pauses": state.pauses, "unloads": state.unloads, "kills": state.kills}
        return {**told, "paused_s": round(state.paused_s), "unloaded_s": round(state.away_s)}

    def died(self) -> None:
        """The trainer ended without being asked to; what the guard ended is on its way already."""
        if self._state is not None and self._state.mode not in ("leaving", "away"):
            self._state = guard.died(self._state)
            self._job.note(
                "its process ended; it is started again from its last checkpoint, once there is memory for it"
            )

    async def memory(self) -> None:
        """Wait until there is memory for the trainer to be started again, and the user wants it to run.

        A user who wants a training stopped and kept gets it at once: it takes a process to write the adapter.
        """
        self._back = anyio.Event()
        while self._state is not None and not self._back.is_set():
            control = read_record(self._job.paths.control, Control)
            if control is not None and control.want == "stop":
                self._state = guard.begun(self._state.at_s)
                self._tell("run")
                break
            await anyio.sleep(_POLL_S)
        self._back = None
        self._job.hold("")
        await self._job.checkpoint()

    async def watch(self) -> None:
        """Look, decide and act until cancelled."""
        sampler = self._job.sampler or MachineSampler()
        while True:
            try:
                sample = await anyio.to_thread.run_sync(sampler.sample, self._job.student_pid, abandon_on_cancel=True)
                self._judge(replace(sample, steps=self.steps))
            # A system that does not tell, or a full disk: no reason to end a training that may go on well.
            except (psutil.Error, OSError) as error:
                print(f"The guard sees nothing: {type(error).__name__}", file=sys.stderr)
            await anyio.sleep(sampler.every_s)

    def _judge(self, sample: Sample) -> None:
        is_gone = sample.own_gb is None and self._state is not None and self._state.mode in ("leaving", "away")
        if is_gone and self._back is None:
            return  # its process is still being cleared away: nobody could start another
        # Whoever was paused by the user has no processors to give back.
        limits = replace(self._limits, cpu_capacity_percent=FULL) if self._job.is_paused else self._limits
        state, decision = guard.step(limits, self._state or guard.begun(sample.at_s), sample)
        if decision is not None:
            self._carry_out(decision)
        self._state = state  # last: what could not be carried out is decided again

    def _carry_out(self, decision: Decision) -> None:
        self.last = decision
        match decision.action:
            case "pause":
                self._job.hold(decision.told)
                self._tell("pause")
            case "resume":
                if decision.reason == "processors" and decision.threshold == LONGEST_PAUSE_S:
                    self._to_the_trainer(lambda pid: processes.renice_group(pid, _NICER))
                self._job.hold("")
                self._tell("run")
            case "clear_cache":
                self._clears += 1
                self._tell("run")
            case "unload" | "stop_memory_budget":
                self._job.hold(decision.told)
                self._tell("unload")
            case "kill":
                self._job.hold(decision.told)
                self._to_the_trainer(lambda pid: processes.signal_group(pid, signal.SIGKILL))
            case "reload":
                self._tell("run")
                if self._back is not None:
                    self._back.set()
        told = {
            name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(decision).items()
        }
        self._job.event("guard", **told)

    def _to_the_trainer(self, do: Callable[[int], None]) -> None:
        if self._job.student_pid is not None:
            do(self._job.student_pid)

    def _tell(self, want: str) -> None:
        write_json(self._job.paths.guard, {"want": want, "clears": self._clears}, durable=False)


@asynccontextmanager
async def guarding(job: Job, limits: Limits) -> AsyncGenerator[Guarding]:
    """Guard what is done in the block."""
    made = Guarding(job, limits)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.watch)
        try:
            yield made
        except Exception as error:  # noqa: BLE001 - raised again below, outside the task group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    job.hold("")
    if failure is not None:
        raise failure
