"""What is on disk is what a dictionary says: runs that are created, started, paused, killed, ended and deleted in any order."""

import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.jobs import launch
from nanodistill_mcp.jobs.locks import is_held
from nanodistill_mcp.pipeline.status import stage_status
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Exit, Heartbeat, State, WorkerRecord
from nanodistill_mcp.runs.store import Run, RunStore, now, read_record
from nanodistill_mcp.server.app import App
from nanodistill_mcp.server.listing import runs_reply
from nanodistill_mcp.settings import load_settings
from tests.runs.made import SEEDS, manifest

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(sys.platform != "linux", reason="the worker is a shell script that looks into /proc"),
]

# A worker that only lives: it says who it is and holds the lock that it was handed. What it writes, the test writes.
_LIVES = """
ticks=$(cut -d ' ' -f 22 /proc/$$/stat); boot=$(cat /proc/sys/kernel/random/boot_id)
cd "$1/jobs/$2"
printf '{"nonce":"%s","started_at":"x","worker":{"pid":%d,"start_ticks":%d,"boot_id":"%s"}}' "$3" $$ "$ticks" "$boot" > .draft
mv .draft worker.json
exec sleep 600
"""
WORKER = ("/bin/sh", "-c", _LIVES, "sh")
STAGE = "synthesize_cot"
NAMES = ("alpha", "Alpha", "beta", "g.1")


@dataclass
class Known:
    """What the model knows of a run."""

    name: str
    budget: float
    state: State = State.NEW
    jobs: int = 0
    want: str = "run"
    done: int = 0
    others: list[str] = field(default_factory=list[str])


class Runs(RuleBasedStateMachine):
    """The rules are what clients, workers and the system do; the model is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="model-"))
        self.app = App(load_settings(self.home, env={}), RunStore(self.home))
        self.model: dict[str, Known] = {}
        self.trashed = 0

    def teardown(self) -> None:
        for name in list(self.model):
            if self.model[name].state.active:
                self._end(self.model[name])
        shutil.rmtree(self.home)

    def _run(self, known: Known) -> Run:
        return self.app.store.open(known.name)

    def _job(self, known: Known) -> JobPaths:
        return self._run(known).paths.job_list()[-1]

    def _end(self, known: Known) -> None:
        """The death of a worker, whatever it had written before."""
        record = read_record(self._job(known).worker, WorkerRecord)
        assert record is not None
        os.kill(record.worker.pid, signal.SIGKILL)
        anyio.run(_until_free, self._run(known))

    def _some(self, data: st.DataObject, *states: State) -> Known:
        return data.draw(st.sampled_from([known for known in self.model.values() if known.state in states]))

    def _has(self, *states: State) -> bool:
        return any(known.state in states for known in self.model.values())

    @rule(name=st.sampled_from(NAMES), budget=st.sampled_from((5.0, 7.0)))
    def create(self, name: str, budget: float) -> None:
        """A new name makes a run, the same call again attaches, another spec or the name in other case is refused."""
        there = self.model.get(name.casefold())
        asked = manifest(name, budget_usd=budget)
        if there is None:
            run, created = self.app.store.create(asked, SEEDS)
            assert (run.run_id, created) == (name, True)
            self.model[name.casefold()] = Known(name, budget)
        elif there.budget == budget:
            run, created = self.app.store.create(asked, SEEDS)
            assert (run.run_id, created) == (there.name, False)
        else:
            with pytest.raises(UserInputError):
                self.app.store.create(asked, SEEDS)

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """A second start attaches; a stage that ended, was killed or was cancelled gets its next job."""
        known = self._some(data, *State)
        job, started = anyio.run(_start, self._run(known))
        assert started == (not known.state.active)
        if started:
            known.state, known.jobs, known.want, known.done = State.RUNNING, known.jobs + 1, "run", 0
        assert job.number == known.jobs

    @precondition(lambda self: self._has(State.RUNNING, State.PAUSED))
    @rule(data=st.data(), want=st.sampled_from(("run", "pause", "cancel")))
    def steer(self, data: st.DataObject, want: Any) -> None:
        """A cancel that was asked for stays asked for."""
        known = self._some(data, State.RUNNING, State.PAUSED)
        launch.steer(self._job(known), Control(want=want))
        known.want = known.want if known.want == "cancel" else want

    @precondition(lambda self: self._has(State.RUNNING, State.PAUSED))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """The worker goes on for a moment: it obeys what is wanted of it and says how far it is."""
        known = self._some(data, State.RUNNING, State.PAUSED)
        job = self._job(known)
        control = read_record(job.control, Control)
        want = control.want if control else "run"
        assert want == known.want
        if want == "cancel":
            self._exit(known, "cancelled", State.CANCELLED)
            return
        known.state = State.PAUSED if want == "pause" else State.RUNNING
        known.done += known.state is State.RUNNING
        phase: Any = "paused" if want == "pause" else "running"
        write_json(
            job.heartbeat, Heartbeat(at=now(), phase=phase, done=known.done, total=9).model_dump(), durable=False
        )

    @precondition(lambda self: self._has(State.RUNNING, State.PAUSED))
    @rule(data=st.data(), outcome=st.sampled_from((State.DONE, State.FAILED)))
    def finish(self, data: st.DataObject, outcome: Any) -> None:
        """Its product first, its exit record last."""
        known = self._some(data, State.RUNNING, State.PAUSED)
        if outcome is State.DONE:
            self._run(known).paths.traces_cot.write_text("")
        self._exit(known, "done" if outcome is State.DONE else "failed", outcome)

    def _exit(self, known: Known, outcome: Any, state: State) -> None:
        ended = Exit(outcome=outcome, ended_at=now(), elapsed_s=1.0, what="It failed.", next_step="Again.")
        write_json(self._job(known).exit, ended.model_dump())
        self._end(known)
        known.state = State.DONE if self._run(known).paths.traces_cot.exists() else state

    @precondition(lambda self: self._has(State.RUNNING, State.PAUSED))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """A worker that is killed leaves its stage interrupted, or done where its product was there already."""
        known = self._some(data, State.RUNNING, State.PAUSED)
        self._end(known)
        known.state = State.DONE if self._run(known).paths.traces_cot.exists() else State.INTERRUPTED

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Refused while a job runs; else the run is in the trash, and its name is free."""
        known = self._some(data, *State)
        if known.state.active:
            with pytest.raises(RunStateError):
                anyio.run(launch.trash, self.app.store, self._run(known))
            return
        anyio.run(launch.trash, self.app.store, self._run(known))
        self.trashed += 1
        del self.model[known.name.casefold()]

    @rule()
    def another_server(self) -> None:
        """A server owns nothing: the next one sees the same."""
        self.app = App(load_settings(self.home, env={}), RunStore(self.home))

    @invariant()
    def disk_is_the_model(self) -> None:
        """Every look, after every step."""
        listed = runs_reply(self.app)
        assert {line.run_id for line in listed.runs} == {known.name for known in self.model.values()}
        assert not any(line.damaged for line in listed.runs)
        for known in self.model.values():
            run = self._run(known)
            found = stage_status(run, STAGE)
            assert found.state is known.state, (known, found)
            assert is_held(run.paths.worker_lock) == known.state.active
            assert len(run.paths.job_list()) == known.jobs
            if known.state.active:
                assert found.done == known.done
                assert (found.message == "cancelling") == (known.want == "cancel")
        trash = self.home / "trash"
        assert (len(list(trash.iterdir())) if trash.exists() else 0) == self.trashed


async def _start(run: Run) -> tuple[JobPaths, bool]:
    return await launch.start(run, STAGE, {}, {}, worker=WORKER)


async def _until_free(run: Run) -> None:
    with anyio.fail_after(10):
        while is_held(run.paths.worker_lock):
            await anyio.sleep(0.001)


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        pytest.param(5, 15, id="sample"),
        pytest.param(
            int(os.environ.get("CRASH_EXAMPLES", "5000")),
            100,
            id="full",
            marks=[pytest.mark.slow, pytest.mark.timeout(36000)],
        ),
    ],
)
def test_disk_and_model_agree_after_any_course_of_events(examples: int, steps: int) -> None:
    """Hypothesis draws the course, and shrinks one that fails to the shortest that does; its blob repeats it."""
    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
