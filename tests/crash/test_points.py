"""Death at each named point of a run, and each call to the disk that fails: what was acknowledged is there, and the run goes on."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from tests.conftest import Bench, ScriptedTeacher
from tests.crash.points import Forks, Struck, strike

ERRORS = ("ENOSPC", "EIO", "EACCES", "EMFILE")
MOST = int(os.environ.get("CRASH_POINTS", "1000000"))
"""How many of the passages of points have their turn."""


@pytest.fixture
def forks(tmp_path: Path, script: ScriptedTeacher) -> Iterator[Forks]:
    """Forks of one process that has everything imported."""
    with Forks(tmp_path, script) as started:
        yield started


def _seed() -> int:
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"repeat with CRASH_SEED={seed}")
    return seed


def _passages(points: Counter[str], *, may_fail: bool) -> list[str]:
    """Each point as often as it is passed, as the beginning of a plan. Nothing fails where all is done already."""
    names = [name for name in sorted(points) if not (may_fail and name.endswith(".done"))]
    return [f"{name}:{nth}" for name in names for nth in range(1, points[name] + 1)]


def _die(forks: Forks, seed: int, most: int = MOST) -> Struck:
    struck = Struck()
    plans = [f"{passage}:kill" for passage in _passages(forks.points(), may_fail=False)]
    for plan in random.Random(seed).sample(plans, min(most, len(plans))):
        strike(forks, plan, struck)
    return struck


def _fail(forks: Forks, seed: int, most: int = MOST) -> Struck:
    struck, draw = Struck(), random.Random(seed)
    passages = _passages(forks.points(), may_fail=True)
    plans = [f"{passage}{lasting}:{draw.choice(ERRORS)}" for passage in passages for lasting in ("", "+")]
    for plan in draw.sample(plans, min(most, len(plans))):
        strike(forks, plan, struck)
    assert not [words for words in struck.said if "unexpected" in words], struck.said
    return struck


@pytest.mark.crash
@pytest.mark.fault
def test_a_run_that_died_or_could_not_write_goes_on_as_if_nothing_had_happened(forks: Forks) -> None:
    """At points that are drawn anew each time; in full, each of them has its turn."""
    seed = _seed()
    _die(forks, seed, 1)
    _fail(forks, seed, 1)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_that_dies_at_any_named_point_goes_on(
    forks: Forks, record_property: Callable[[str, object], None]
) -> None:
    """Before and after every write, flush, rename and hand-over: chance alone would seldom strike between two of them."""
    seed = _seed()
    record_property("measured", f"{_die(forks, seed).line('deaths')} [CRASH_SEED={seed}]")


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_disk_that_fails_once_or_from_then_on_is_named_and_the_run_goes_on_when_it_works_again(
    forks: Forks, record_property: Callable[[str, object], None]
) -> None:
    """The nth call fails, for every n: what was there before stays whole, and the user reads what to do in our words."""
    seed = _seed()
    record_property("measured", f"{_fail(forks, seed).line('failed calls')} [CRASH_SEED={seed}]")


@pytest.mark.fault
async def test_a_server_whose_disk_is_full_says_what_to_do_and_leaves_nothing_half_made(bench: Bench) -> None:
    """The agent reads our words; the same call, once there is space, is the next step they name."""
    async with bench.connect(NANODISTILL_FAULT="create.rename:1:ENOSPC") as agent:
        arguments = {"name": "tickets", "instruction": task.INSTRUCTION, "seed": task.seeds(), "teacher": "local"}
        told = await agent.refused("create_run", **arguments, student=str(student_path()))
        assert told == (
            "The disk is full; what was done before is kept. Free some space, then repeat the call: it goes on where "
            "this stopped."
        )
        assert list((bench.home / "runs").iterdir()) == []
