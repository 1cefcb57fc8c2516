"""The guard's rule on simulated and recorded machines: it gives way, and it never lives locked."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanodistill_mcp.jobs import guard
from nanodistill_mcp.jobs.guard import Decision, Limits, Pressure, Sample, State
from tests.jobs.weather import Machine, Outcome, by_the_whole_machine, limits_of, now_and_then, simulate, steady

LIMITS = Limits(total_gb=16, max_memory_gb=8, memory_hard_limit_gb=10, cpu_capacity_percent=80)
WELL = Sample(at_s=0, available_gb=9, own_gb=4)


@dataclass(frozen=True)
class Row:
    """A machine for two hours, and what has to come of a training on it."""

    told: str
    machine: Machine
    least_share: float
    most_share: float = 1.0
    unloads: int = 0
    kills: int = 0
    outcome: str = "ran"


def _warns(_at_s: float, _free_gb: float) -> Pressure:
    return "warn"


def _mac(_at_s: float, free_gb: float) -> Pressure:
    return "critical" if free_gb < 0.3 else "warn" if free_gb < 1 else "normal"


TABLE = [
    Row("CPU training on an idle box, 16 GB", Machine(16, 1.5, steady(3), steady(5)), 0.99),
    Row("8 GB Mac, trainer 3.5 GB, apps 3 GB", Machine(8, 3.5, steady(3), steady(10)), 0.99),
    Row("8 GB Mac, trainer 4.2 GB, apps 2.5 GB", Machine(8, 4.2, steady(2.5), steady(10)), 0.99),
    Row("16 GB Mac, trainer 6.5 GB, apps 6 GB", Machine(16, 6.5, steady(6), steady(10)), 0.99),
    Row("36 GB Mac, trainer 6.5 GB, apps 14 GB", Machine(36, 6.5, steady(14), steady(10)), 0.99),
    Row("128 GB Mac, trainer 6.5 GB, apps 30 GB", Machine(128, 6.5, steady(30), steady(10)), 0.99),
    Row(
        "others at 95 % CPU, 2 of every 10 minutes",
        Machine(16, 5, steady(4), now_and_then(10, 95, 600, 120)),
        *(0.79, 0.85),
    ),
    Row("others at 95 % CPU for ever", Machine(16, 5, steady(4), steady(95)), 0.28, 0.32),
    Row(
        "apps from 5 to 10.5 GB, 5 of every 30 minutes",
        Machine(16, 5, now_and_then(5, 10.5, 1800, 300), steady(10)),
        *(0.75, 0.85, 4),
    ),
    Row(
        "8 GB Mac, apps from 2.5 to 3.2 GB, 5 s of every 15 minutes",
        Machine(8, 4.2, now_and_then(2.5, 3.2, 900, 5), steady(10)),
        *(0.7, 0.9, 7),
    ),
    Row("8 GB Mac that warns all the time", Machine(8, 4, steady(2.5), steady(10), _warns), 0.95),
    Row(
        "8 GB Mac, critical 5 of every 30 minutes",
        Machine(8, 4, now_and_then(2.5, 4.5, 1800, 300), steady(10), _mac),
        *(0.7, 0.9, 4),
    ),
    Row("others hold 88 % of the memory for ever", Machine(16, 0.5, steady(14), steady(10)), 0.95),
    Row("trainer leaks past its hard limit every 90 minutes", Machine(16, 5, steady(2), steady(10), trainer_grows_gb=5), 0.9, kills=1),
    Row(
        "trainer of 13 GB, hard limit 12",
        Machine(16, 13, steady(2), steady(10)),
        *(0.0, 0.0),
        kills=3,
        outcome="stopped: killed three times",
    ),
]  # fmt: skip


def test_training_makes_progress_on_every_machine_and_gives_way_on_each(
    record_property: Callable[[str, object], None],
) -> None:
    """Two hours on machines of 8 to 128 GB, one look a second; prints the table of docs/reliability.md."""
    lines = ["| two hours on | counting the whole machine | the guard | pauses | unloads | kills | longest rest |"]
    lines.append("|---|---|---|---|---|---|---|")
    wrong: list[str] = []
    for row in TABLE:
        limits = limits_of(row.machine.total_gb)
        found = simulate(row.machine, limits)
        before = by_the_whole_machine(row.machine, limits.memory_hard_limit_gb)
        share = f"{found.share:.2f}" if found.outcome == "ran" else found.outcome
        lines.append(
            f"| {row.told} | {before:.2f} | {share} | {found.pauses} | {found.unloads} | {found.kills} | "
            f"{found.longest_rest_s:.0f} s |"
        )
        if not _is_as_it_should(row, found):
            wrong.append(lines[-1])
    record_property("measured", "two hours on machines of 8 to 128 GB\n" + "\n".join(lines))
    assert not wrong


def _is_as_it_should(row: Row, found: Outcome) -> bool:
    within = row.least_share <= found.share <= row.most_share or row.least_share == found.share == 0.0
    return within and (found.unloads, found.kills, found.outcome) == (row.unloads, row.kills, row.outcome)


_Segment = tuple[float, float, float, Pressure]
_PRESSURES: list[Pressure] = ["unknown", "critical", "warn"]
_SEGMENT = st.tuples(
    st.sampled_from([2.0, 5.0, 7.0, 30.0, 59.0, 61.0, 90.0, 300.0, 600.0]),
    st.floats(0, 100),
    st.floats(0, 1.5),
    st.sampled_from(_PRESSURES),
)
"""Seconds, others' processors in percent, memory that is short of what is needed in GB, and what the system says."""


_SERIES = st.lists(_SEGMENT, min_size=1, max_size=4)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(_SERIES)
def test_there_is_progress_in_every_series_in_which_memory_is_there_half_of_the_time(drawn: list[_Segment]) -> None:
    """Whatever the machine does, in whatever rhythm, a training that could run does not wait for ever."""
    _makes_progress(drawn)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_series_have_progress(record_property: Callable[[str, object], None]) -> None:
    """The same, many times, each of them another one."""
    shares: list[float] = []

    @settings(max_examples=1000, deadline=None)
    @given(_SERIES)
    def each(drawn: list[_Segment]) -> None:
        shares.append(_makes_progress(drawn))

    each()
    shares.sort()
    record_property(
        "measured",
        f"{len(shares)} series with memory there half of the time: progress in each, at least {shares[0]:.2f} of the time, "
        f"half of them above {shares[len(shares) // 2]:.2f}",
    )


def _makes_progress(drawn: list[_Segment]) -> float:
    """Share of the time in which training made steps; the series repeats itself for an hour at least."""
    series: list[_Segment] = []
    for seconds, percent, short_gb, pressure in drawn:
        series.append((seconds, percent, short_gb, pressure))
        series.append((seconds, percent, -0.1, "unknown"))
    period_s = sum(segment[0] for segment in series)

    def now(at_s: float) -> _Segment:
        at_s %= period_s
        for segment in series:
            if at_s < segment[0]:
                return segment
            at_s -= segment[0]
        return series[-1]

    limits = limits_of(16)
    enough_gb = 16 - 5 - 2 * limits.reserve_gb

    def others_gb(at_s: float) -> float:
        return enough_gb + now(at_s)[2]

    def others_percent(at_s: float) -> float:
        return now(at_s)[1]

    def says(at_s: float, _free_gb: float) -> Pressure:
        return now(at_s)[3]

    found = simulate(Machine(16, 5, others_gb, others_percent, says), limits, for_s=max(3600.0, 2 * period_s))

    assert found.outcome == "ran"
    assert found.share > 0.05, found
    assert found.steps > 0
    return found.share


def _after(
    seconds: float, sample: Sample, limits: Limits = LIMITS, state: State | None = None
) -> tuple[State, list[Decision]]:
    """The state after so many seconds of the same, and what was decided in them."""
    state = state or guard.begun(sample.at_s)
    decisions: list[Decision] = []
    begun_s = state.at_s
    while state.at_s < begun_s + seconds:
        state, decision = guard.step(limits, state, replace(sample, at_s=state.at_s + 1))
        decisions += [decision] if decision else []
    return state, decisions


def test_a_pause_says_who_needs_the_processors_and_when_it_ends_at_the_latest() -> None:
    """The user reads these words in get_status."""
    _, (pause,) = _after(130, replace(WELL, others_percent=97.2))

    assert (pause.action, pause.value, pause.threshold) == ("pause", 97.2, 80)
    assert pause.told == "Paused: other programs use 97 % of the processors; goes on within 300 s"


def test_others_may_use_every_processor_when_the_capacity_is_100() -> None:
    """Training has a low priority as it is."""
    assert _after(1000, replace(WELL, others_percent=100), replace(LIMITS, cpu_capacity_percent=100))[1] == []


def test_a_pause_ends_when_the_others_have_been_calm_for_a_while() -> None:
    """Fifteen points below the capacity, so as not to flap."""
    paused, _ = _after(130, replace(WELL, others_percent=97))

    assert _after(60, replace(WELL, others_percent=70), state=paused)[1] == []
    _, (resume,) = _after(60, replace(WELL, others_percent=60), state=paused)
    assert (resume.action, resume.value, resume.threshold) == ("resume", 60, 65)


def test_over_its_budget_the_trainer_empties_its_cache_and_only_then_is_stopped() -> None:
    """A cache is not worth a training; memory that is really needed above the budget is what the user ruled out."""
    over = replace(WELL, own_gb=9, steps=5)
    state, (clear,) = _after(20, over)
    assert (clear.action, clear.value, clear.threshold) == ("clear_cache", 9, 8)

    calmed, none = _after(20, replace(over, own_gb=7, steps=6), state=state)
    assert (none, calmed.over, calmed.cleared) == ([], 0, None)
    _, (stop,) = _after(20, replace(over, steps=6), state=state)
    assert (stop.action, stop.reason, stop.threshold) == ("stop_memory_budget", "memory budget", 8)


def test_a_trainer_over_its_hard_limit_is_killed_at_the_first_sample_in_every_mode() -> None:
    """A machine without memory may not be able to carry out anything gentler a second later."""
    for before in (130, 0):
        state, _ = _after(before, replace(WELL, others_percent=97))
        state, decision = guard.step(LIMITS, state, replace(WELL, at_s=state.at_s + 1, own_gb=10.1))
        assert decision is not None
        assert (decision.action, decision.value, decision.threshold) == ("kill", 10.1, 10)
        assert "goes on from its last checkpoint" in decision.told


def test_a_short_dip_of_memory_unloads_nothing() -> None:
    """Programs start, and end; two seconds are the measure."""
    assert _after(1, replace(WELL, available_gb=0.5, steps=1))[1] == []
    _, (unload, *_) = _after(3, replace(WELL, available_gb=0.5, steps=1))
    assert (unload.action, unload.value, unload.threshold) == ("unload", 0.5, 1)
    assert unload.told == (
        "Unloaded: only 0.5 GB of memory are free, and 1 GB are kept for other programs; "
        "goes on from its checkpoint once 6 GB are free"
    )


def test_a_mac_that_says_all_is_well_is_believed_about_its_free_memory() -> None:
    """It fills memory with what somebody might want again, and hands it out when somebody else does."""
    assert _after(100, replace(WELL, available_gb=0.2, steps=1, pressure="normal"))[1] == []


def test_time_in_which_the_machine_slept_counts_for_nothing() -> None:
    """An hour with the lid closed is not an hour of full processors."""
    state, _ = _after(125, WELL)
    state, first = guard.step(LIMITS, state, replace(WELL, at_s=state.at_s + 3600, others_percent=97, available_gb=0.5))
    assert first is None
    assert state.busy_s == state.low_s == 0.0


def test_a_trainer_that_died_comes_back_at_once_where_there_is_memory_and_waits_where_there_is_none() -> None:
    """What the kernel ended for want of memory must not be started into the same want."""
    state = guard.died(_after(10, WELL)[0])
    gone = replace(WELL, own_gb=None)

    _, (reload,) = _after(1, replace(gone, available_gb=9), state=state)
    assert (reload.action, reload.reason) == ("reload", "death")
    waiting, none = _after(100, replace(gone, available_gb=2), state=state)
    assert none == []
    _, back = _after(200, replace(gone, available_gb=9), state=waiting)
    assert [decision.action for decision in back] == ["reload"]


RECORDED = Path(__file__).parents[1] / "data" / "guard" / "training.jsonl"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(25.3, 22.7, 24.0), [], id="this machine's own"),
        pytest.param(Limits(25.3, 0.05, 24.0), ["clear_cache", "stop_memory_budget"], id="a budget of 50 MB"),
        pytest.param(Limits(25.3, 0.05, 0.1), ["kill"], id="a hard limit of 100 MB"),
    ],
)
def test_a_recorded_training_is_left_alone_within_its_limits_and_not_beyond(
    limits: Limits, expected: list[str]
) -> None:
    """Numbers psutil and the kernel really gave, once a second beside a training and others' work on this machine."""
    state, decisions = guard.begun(0.0), list[str]()
    for line in RECORDED.read_text().splitlines():
        state, decision = guard.step(limits, state, Sample(**json.loads(line)))
        decisions += [decision.action] if decision else []
    assert decisions[: len(expected) or 1] == expected
