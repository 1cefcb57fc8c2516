"""A launcher or a worker that dies at a named point: never two workers, never a lock or a process left, and the next call works."""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from nanodistill_mcp.jobs import launch
from nanodistill_mcp.jobs.locks import is_held
from nanodistill_mcp.runs.store import Run
from tests.crash.points import everything_reads
from tests.jobs.scenes import Launcher, attach, until, workers_on
from tests.runs.made import make_run

pytestmark = pytest.mark.crash

_MOST = 6
"""How often a point is struck; the heartbeat passes some of them twice a second."""


async def _points(home: Path) -> list[str]:
    """Every point of a launch, its worker and the student's start, as the beginning of a plan."""
    passed = home / "points"
    run = make_run(home, "undisturbed")
    with Launcher(NANODISTILL_FAULT=f"record:{passed}") as launcher:
        launcher.ready()
        launcher.ask(run, "errand", does=["answer"])
        assert launcher.told()["started"]
        await until(lambda: not is_held(run.paths.worker_lock))
    counted = Counter(passed.read_text().split())
    return [f"{name}:{nth}" for name, count in sorted(counted.items()) for nth in range(1, min(count, _MOST) + 1)]


async def _strike(home: Path, number: int, plan: str) -> bool:
    """Die there, call again as an agent does, and look at the end; whether anything died."""
    run = make_run(home, f"run-{number}")
    with Launcher(NANODISTILL_FAULT=plan) as launcher:
        launcher.ready()
        launcher.ask(run, "errand", does=["answer"])
        told = launcher.told_or_died()
    with anyio.fail_after(60):
        while not await _is_done(run):
            pass
    jobs = run.paths.job_list()
    await until(lambda: not workers_on(run))
    assert not is_held(run.paths.worker_lock), plan
    assert not is_held(run.paths.trainer_lock), plan
    assert len(jobs) <= 3, f"{plan}: {jobs}"
    everything_reads(run.paths, plan)
    return told is None or len(jobs) > 1


async def _is_done(run: Run) -> bool:
    """Start or attach, and wait for how it ends."""
    job, _ = await attach(run, "errand", does=["answer"])
    while isinstance(state := launch.observe(run, job), launch.Alive):
        with anyio.fail_after(2):  # a process that it starts is a second one like it, until its exec
            while len(workers_on(run)) > 1:
                await anyio.sleep(0.02)
        await anyio.sleep(0.02)
    return isinstance(state, launch.Finished) and state.exit.outcome == "done"


@pytest.mark.parametrize(
    "most",
    [pytest.param(1, id="sample"), pytest.param(None, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
async def test_a_launch_that_dies_at_any_named_point_leaves_one_worker_or_none(
    home: Path, most: int | None, record_property: Callable[[str, object], None]
) -> None:
    """Before and after the lock, the job's folder, its request, the spawn, the hand-over, the claim and the exit record."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"repeat with CRASH_SEED={seed}")
    points = await _points(home)
    plans = random.Random(seed).sample(points, most or len(points))
    died = [await _strike(home, number, f"{plan}:kill") for number, plan in enumerate(plans)]
    record_property(
        "measured",
        f"{len(plans)} launches struck at {len({plan.split(':')[0] for plan in plans})} points, {sum(died)} with a death "
        f"of launcher or worker: never two workers, no lock or process left, the next call done [CRASH_SEED={seed}]",
    )
