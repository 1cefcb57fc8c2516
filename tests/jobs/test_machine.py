"""A machine that sleeps, runs on battery or slows down is told, and taken for nothing worse."""

from typing import Any, NamedTuple

import psutil
import pytest

from nanodistill_mcp.jobs.machine import Condition, Naps, condition, speed_limit

# What pmset -g therm says, from Apple's own pages and from machines that were hot.
_COOL = "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n"
_HOT = "2026-07-02 14:03:11 +0200 CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Available_CPUs \t= 8\n\tCPU_Speed_Limit \t= 62\n"


class _Battery(NamedTuple):
    """As psutil tells of one."""

    percent: float
    secsleft: int
    power_plugged: bool | None


@pytest.mark.parametrize(
    ("awake_s", "wall_s", "slept_s"),
    [
        pytest.param(60.0, 60.2, 0.0, id="awake"),
        pytest.param(0.5, 3600.5, 3600.0, id="an hour with the lid closed"),
        pytest.param(60.0, 62.0, 0.0, id="a clock put right"),
        pytest.param(60.0, -3540.0, 0.0, id="a clock put back"),
    ],
)
def test_sleep_is_what_one_clock_saw_and_the_other_did_not(awake_s: float, wall_s: float, slept_s: float) -> None:
    """Time that a closed lid took is told, so that nobody takes it for a slow or a hung training."""
    naps = Naps()
    naps.between(1000.0, 50.0)

    assert naps.between(1000.0 + wall_s, 50.0 + awake_s) == pytest.approx(slept_s)


@pytest.mark.parametrize(("told", "percent"), [(_COOL, 100), (_HOT, 62), ("", 100)])
def test_a_hot_mac_says_how_much_slower_it_is(told: str, percent: int) -> None:
    """The system names the limit; without it a training only seems to have become slow."""
    assert speed_limit(told) == percent


@pytest.mark.parametrize(
    ("battery", "words"),
    [
        pytest.param(None, "", id="a desktop"),
        pytest.param(_Battery(80.4, 9000, power_plugged=True), "", id="on mains"),
        pytest.param(_Battery(42.6, 5000, power_plugged=None), "", id="unknown"),
        pytest.param(
            _Battery(42.6, 5000, power_plugged=False),
            "the machine is on battery, 43 % left: plug it in",
            id="on battery",
        ),
    ],
)
def test_a_battery_is_told_while_the_machine_runs_on_it(
    monkeypatch: pytest.MonkeyPatch, battery: Any, words: str
) -> None:
    """Hours of training outlast a battery."""
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)

    assert condition().words == words


def test_two_troubles_are_told_in_one_line() -> None:
    """What get_status shows has to fit a line."""
    assert Condition(9, 50).words == (
        "the machine is on battery, 9 % left: plug it in and slowed to 50 % because it is hot"
    )
