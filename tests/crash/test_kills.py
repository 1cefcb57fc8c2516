"""Whoever is killed, whenever: no answer is lost, and only what was in flight with a dead worker is asked again."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nanodistill_mcp.demo import teacher
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from tests.conftest import Bench, ScriptedTeacher
from tests.crash.deaths import CONCURRENCY, STAGES, Course, Tally, kills
from tests.pipeline.paid_run import PaidRun

pytestmark = pytest.mark.crash


@pytest.mark.parametrize(
    ("count", "examples_per_seed", "seed"),
    [
        pytest.param(3, 3, 32, id="sample"),
        pytest.param(200, 30, None, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
async def test_no_answer_is_lost_and_none_paid_twice_but_what_was_in_flight_with_a_worker(
    bench: Bench,
    tmp_path: Path,
    count: int,
    examples_per_seed: int,
    seed: int | None,
    record_property: Callable[[str, object], None],
) -> None:
    """Clients kill servers, systems kill workers, people pull the plug; paid answers outlive all of them."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6))) if seed is None else seed
    print(f"repeat with CRASH_SEED={seed}")
    undisturbed = tmp_path / "undisturbed"
    await _undisturbed(undisturbed, bench.teacher, examples_per_seed)
    bench.configure(budget={"usd_per_day": 1000})
    draw = random.Random(seed)
    bench.teacher.script = lambda request: _soon(request, draw)
    waiting, tally = kills(seed, count), Tally()
    while waiting:
        course = Course(bench, f"run-{tally.runs}", examples_per_seed, waiting)
        await course.go()
        course.check(tally, undisturbed / "runs" / "paid")
    record_property("measured", f"{tally.line()} [CRASH_SEED={seed}]")


async def _undisturbed(home: Path, script: ScriptedTeacher, examples_per_seed: int) -> None:
    """The same run, carried out in this process and left alone."""
    options = {"teacher_concurrency": CONCURRENCY}
    paid = PaidRun(home, script, spec={"augment_factor": examples_per_seed, "options": options})
    learnt_from = sum(seed.split == "train" for seed in paid.run.seeds())
    for stage in STAGES:
        await paid.summary(stage, target_size=examples_per_seed * learnt_from)


def _soon(request: WireRequest, draw: random.Random) -> WireReply:
    answer = teacher.answer(request.system, request.user, request.schema_name)
    return Says(answer, delay_s=draw.uniform(0.005, 0.04))
