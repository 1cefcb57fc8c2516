"""When training gives way to the rest of the machine: a pure rule from samples of it to actions. No clock, no files, no processes.

What is judged is what the training's own processes hold and what the others need, never the machine's total: a pause cannot
lower a number that the paused process holds itself. Every pause ends, every unloading asks for no more memory than there was
before it, and what did not help is not repeated: so training makes progress wherever there is memory for it.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

Pressure = Literal["unknown", "normal", "warn", "critical"]
"""What the kernel itself says of memory. Linux never says normal: that nobody waits for memory does not mean there is some."""
Action = Literal["pause", "resume", "clear_cache", "unload", "reload", "stop_memory_budget", "kill"]
Reason = Literal[
    "processors", "memory of others", "memory pressure", "system memory", "memory budget", "hard limit", "death"
]
Mode = Literal["running", "paused", "leaving", "away", "stopping"]

SAMPLES_OVER = 3
"""Samples above the budget before the trainer's cache is emptied, and again before it is stopped."""
CLEARING_S = 60.0
"""A trainer that makes no step for so long will not empty its cache any more."""
LOW_S, LOW_BEFORE_A_STEP_S = 2.0, 5.0
LONGEST_LOW_S = 60.0
PAUSE_AFTER_S, RESUME_AFTER_S = 10.0, 10.0
RESUME_BELOW = 15.0
"""Points below the capacity at which a pause ends."""
LONGEST_PAUSE_S, SHORTEST_RUN_S = 300.0, 120.0
RELOAD_AFTER_S, CONTENT_AFTER_S = 60.0, 300.0
SLEPT_S = 30.0
"""A gap between samples in which nobody measured anything."""
FULL = 100.0


def reserve_gb(total_gb: float) -> float:
    """What is kept free for the system on a machine with so much memory."""
    return max(1.0, 0.06 * total_gb)


@dataclass(frozen=True)
class Limits:
    """What training may take, by the names of its options, and what is kept for the system."""

    total_gb: float
    max_memory_gb: float
    memory_hard_limit_gb: float
    cpu_capacity_percent: float = FULL
    """Others' share of processors or memory above which training pauses; at 100 it never does."""

    @property
    def reserve_gb(self) -> float:
        """Memory that other programs find free, whatever training wants."""
        return reserve_gb(self.total_gb)


@dataclass(frozen=True)
class Sample:
    """One look at the machine."""

    at_s: float
    """Of a clock that stands still while the machine sleeps."""
    available_gb: float
    own_gb: float | None
    """What the training's processes hold; None while there are none."""
    others_percent: float = 0.0
    """Of all processors together."""
    pressure: Pressure = "unknown"
    steps: int = 0
    """Steps that training was heard to make so far."""


class Sampler(Protocol):
    """Looks at the machine, with a clock of its own."""

    every_s: float
    """Seconds of the real clock between two looks."""

    def sample(self, trainer: int | None) -> Sample:
        """One look, at the trainer with this pid too when there is one."""
        ...


@dataclass(frozen=True)
class Decision:
    """What to do now, the number it was decided by, and the words for the user."""

    action: Action
    reason: Reason
    value: float | str
    threshold: float | str
    told: str


@dataclass(frozen=True)
class State:
    """All that the rule remembers. Durations of conditions are of their present, unbroken stretch."""

    at_s: float
    mode: Mode = "running"
    since_s: float = 0.0
    """When the mode began."""
    reason: Reason = "processors"
    """Of a pause or an absence."""
    over: int = 0
    cleared: tuple[int, float] | None = None
    """Steps made, and the time, when the cache was to be emptied."""
    low_s: float = 0.0
    busy_s: float = 0.0
    crowded_s: float = 0.0
    pressed_s: float = 0.0
    calm_s: float = 0.0
    free_s: float = 0.0
    """Gains while there is memory to come back, loses half as fast while there is not."""
    needs_gb: float = 0.0
    """What training held before it was unloaded, which it will hold again."""
    own_gb: float = 0.0
    """What it held last."""
    steps_before: int = 0
    """Steps made when its process was started."""
    loaded_s: float = 0.0
    """When that was."""
    in_vain: int = 0
    """Unloadings in a row that came soon after a start."""
    useless: frozenset[Reason] = frozenset()
    """Reasons for which a pause changed nothing, while they last."""
    paused_s: float = 0.0
    away_s: float = 0.0
    run_s: float = 0.0
    pauses: int = 0
    unloads: int = 0
    kills: int = 0


def begun(at_s: float) -> State:
    """The state as a trainer is about to be started."""
    return State(at_s=at_s, since_s=at_s, loaded_s=at_s)


def died(state: State) -> State:
    """The trainer ended although nobody asked it to. It comes back as soon as there is memory for it."""
    return replace(_in(state, "away", "death"), free_s=RELOAD_AFTER_S, needs_gb=state.own_gb)


def step(limits: Limits, state: State, sample: Sample) -> tuple[State, Decision | None]:
    """Take a sample into account, and decide.

    Returns:
        The state for the next sample, and what is to be done now; None when all stays as it is.
    """
    state = _taken(limits, state, sample)
    match state.mode:
        case "running" | "paused" if sample.own_gb is not None:
            by_memory, decided = _by_memory(limits, state, sample, sample.own_gb)
            if decided is not None:
                return by_memory, decided
            return (_run if state.mode == "running" else _wait)(limits, by_memory, sample)
        case "leaving" | "stopping" if sample.own_gb is not None and state.reason != "hard limit":
            is_over = sample.own_gb > limits.memory_hard_limit_gb
            return _killed(limits, state, sample.own_gb) if is_over else (state, None)
        case "away":
            return _come_back(limits, state, sample)
        case _:
            return state, None


def _taken(limits: Limits, state: State, sample: Sample) -> State:
    passed_s = max(0.0, sample.at_s - state.at_s)
    if passed_s > SLEPT_S:
        passed_s = 0.0
    there = sample.own_gb is not None
    mode: Mode = "away" if state.mode == "leaving" and not there else state.mode
    free_s = state.free_s
    if mode == "away":
        free_s += passed_s if _is_free(limits, state, sample) else -min(passed_s / 2, free_s)
    cap = limits.cpu_capacity_percent

    def lasting(before_s: float, *, is_so: bool) -> float:
        return before_s + passed_s if is_so else 0.0

    busy, crowded = cap < FULL and sample.others_percent > cap, cap < FULL and _others_memory(limits, sample) > cap
    pressed = sample.pressure in ("warn", "critical")
    over: set[Reason] = {"memory of others"} if not crowded else set()
    over |= {"memory pressure"} if not pressed else set()
    return replace(
        state,
        at_s=sample.at_s,
        mode=mode,
        since_s=sample.at_s if mode != state.mode else state.since_s,
        low_s=lasting(state.low_s, is_so=there and _is_low(limits, sample)),
        busy_s=lasting(state.busy_s, is_so=busy),
        crowded_s=lasting(state.crowded_s, is_so=crowded),
        pressed_s=lasting(state.pressed_s, is_so=pressed),
        free_s=free_s,
        calm_s=lasting(state.calm_s, is_so=_is_calm(limits, state.reason, sample)),
        own_gb=sample.own_gb if sample.own_gb is not None else state.own_gb,
        useless=state.useless - over,
        paused_s=state.paused_s + (passed_s if mode == "paused" else 0.0),
        away_s=state.away_s + (passed_s if mode in ("leaving", "away") else 0.0),
        run_s=state.run_s + (passed_s if mode == "running" else 0.0),
    )


def _by_memory(limits: Limits, state: State, sample: Sample, own_gb: float) -> tuple[State, Decision | None]:
    """What cannot wait: the hard limit, the budget, the system's reserve."""
    if own_gb > limits.memory_hard_limit_gb:
        return _killed(limits, state, own_gb)
    if own_gb <= limits.max_memory_gb:
        state = replace(state, over=0, cleared=None)
    else:
        state = replace(state, over=state.over + 1)
        if state.over >= SAMPLES_OVER and state.cleared is None:
            told = (
                f"Training holds {own_gb:.3g} GB, above max_memory_gb={limits.max_memory_gb:.3g}: its cache is emptied"
            )
            decision = Decision("clear_cache", "memory budget", own_gb, limits.max_memory_gb, told)
            return replace(state, over=0, cleared=(sample.steps, sample.at_s)), decision
        if state.over >= SAMPLES_OVER and state.cleared and _has_cleared(state.cleared, sample):
            told = (
                f"Training holds {own_gb:.3g} GB, above max_memory_gb={limits.max_memory_gb:.3g}, also with its cache emptied: "
                "it is stopped with a checkpoint"
            )
            decision = Decision("stop_memory_budget", "memory budget", own_gb, limits.max_memory_gb, told)
            return _in(state, "stopping", "memory budget"), decision
    has_stepped = sample.steps > state.steps_before
    # Unloaded again and again after a moment, training would hardly move: so it stays a little longer each time.
    least_s, most_s = (LOW_S, LONGEST_LOW_S) if has_stepped else (LOW_BEFORE_A_STEP_S, LONGEST_PAUSE_S)
    patience_s = min(most_s, least_s * 2**state.in_vain)
    if state.low_s < patience_s:
        return state, None
    unloaded = replace(
        _in(state, "leaving", "system memory"),
        free_s=0.0,
        needs_gb=own_gb if has_stepped else max(own_gb, state.needs_gb),
        unloads=state.unloads + 1,
        in_vain=0 if sample.at_s - state.loaded_s >= SHORTEST_RUN_S else state.in_vain + 1,
    )
    told = (
        f"Unloaded: {_left(sample)}, and {limits.reserve_gb:.3g} GB are kept for other programs; "
        f"goes on from its checkpoint once {_needed(limits, unloaded, waited_s=0.0):.3g} GB are free"
    )
    value = sample.pressure if sample.pressure == "critical" else sample.available_gb
    return unloaded, Decision("unload", "system memory", value, limits.reserve_gb, told)


def _killed(limits: Limits, state: State, own_gb: float) -> tuple[State, Decision]:
    told = (
        f"Training held {own_gb:.3g} GB, above memory_hard_limit_gb={limits.memory_hard_limit_gb:.3g}, and was ended at once; "
        "it goes on from its last checkpoint"
    )
    needs_gb = min(own_gb, limits.max_memory_gb)
    killed = replace(
        _in(state, "leaving", "hard limit"), free_s=RELOAD_AFTER_S, needs_gb=needs_gb, kills=state.kills + 1
    )
    return killed, Decision("kill", "hard limit", own_gb, limits.memory_hard_limit_gb, told)


def _run(limits: Limits, state: State, sample: Sample) -> tuple[State, Decision | None]:
    """Pause for others, when they have needed it for a while and training has had its turn."""
    if sample.at_s - state.since_s < SHORTEST_RUN_S:
        return state, None
    cap, until = limits.cpu_capacity_percent, f"goes on within {LONGEST_PAUSE_S:.0f} s"
    share = _others_memory(limits, sample)
    wishes: tuple[tuple[Reason, float, float | str, float | str, str], ...] = (
        (
            *("processors", state.busy_s, sample.others_percent, cap),
            f"other programs use {sample.others_percent:.0f} % of the processors",
        ),
        ("memory of others", state.crowded_s, share, cap, f"other programs use {share:.0f} % of the memory"),
        ("memory pressure", state.pressed_s, sample.pressure, "warn", "the system is short of memory"),
    )
    for reason, lasted_s, value, threshold, what in wishes:
        if lasted_s >= PAUSE_AFTER_S and reason not in state.useless:
            decision = Decision("pause", reason, value, threshold, f"Paused: {what}; {until}")
            return replace(_in(state, "paused", reason), pauses=state.pauses + 1), decision
    return state, None


def _wait(limits: Limits, state: State, sample: Sample) -> tuple[State, Decision | None]:
    """End a pause: when its reason has gone, or when it has lasted long enough."""
    waited_s = sample.at_s - state.since_s
    if state.calm_s >= RESUME_AFTER_S:
        value = _value(limits, state.reason, sample)
        threshold = "normal" if state.reason == "memory pressure" else limits.cpu_capacity_percent - RESUME_BELOW
        return _in(state, "running", state.reason), Decision("resume", state.reason, value, threshold, "")
    if waited_s < LONGEST_PAUSE_S:
        return state, None
    # A pause gives others processor time, but no memory: repeated, it would only cost time.
    useless = state.useless if state.reason == "processors" else state.useless | {state.reason}
    decision = Decision("resume", state.reason, waited_s, LONGEST_PAUSE_S, "")
    return replace(_in(state, "running", state.reason), useless=useless), decision


def _come_back(limits: Limits, state: State, sample: Sample) -> tuple[State, Decision | None]:
    """Start the trainer again once there was memory for it for a while."""
    if state.free_s < RELOAD_AFTER_S or not _is_free(limits, state, sample):
        return state, None
    needed_gb = _needed(limits, state, sample.at_s - state.since_s)
    decision = Decision("reload", state.reason, sample.available_gb, needed_gb, "")
    return replace(
        _in(state, "running", state.reason), steps_before=sample.steps, loaded_s=sample.at_s, low_s=0.0
    ), decision


def _in(state: State, mode: Mode, reason: Reason) -> State:
    return replace(state, mode=mode, reason=reason, since_s=state.at_s, calm_s=0.0)


def _is_low(limits: Limits, sample: Sample) -> bool:
    """Do others lack memory? A Mac whose kernel says all is well hands out what it holds for nobody in particular."""
    return sample.pressure == "critical" or (sample.available_gb < limits.reserve_gb and sample.pressure != "normal")


def _is_free(limits: Limits, state: State, sample: Sample) -> bool:
    """Is there memory for training to come back?"""
    waited_s = sample.at_s - state.since_s
    if sample.pressure in ("warn", "critical"):
        return False
    if sample.pressure == "normal" and waited_s >= CONTENT_AFTER_S:
        return sample.available_gb >= state.needs_gb
    return sample.available_gb >= _needed(limits, state, waited_s)


def _needed(limits: Limits, state: State, waited_s: float) -> float:
    """Memory to come back with: twice the reserve at first, so as not to leave again at once; later, what must be."""
    return state.needs_gb + (2 - min(1.0, waited_s / CONTENT_AFTER_S)) * limits.reserve_gb


def _is_calm(limits: Limits, reason: Reason, sample: Sample) -> bool:
    """Has the reason of a pause gone?"""
    below = limits.cpu_capacity_percent - RESUME_BELOW
    match reason:
        case "processors":
            return sample.others_percent < below
        case "memory of others":
            return _others_memory(limits, sample) < below
        case _:
            return sample.pressure not in ("warn", "critical")


def _value(limits: Limits, reason: Reason, sample: Sample) -> float | str:
    match reason:
        case "processors":
            return sample.others_percent
        case "memory of others":
            return _others_memory(limits, sample)
        case _:
            return sample.pressure


def _others_memory(limits: Limits, sample: Sample) -> float:
    """Others' share of the memory, in percent."""
    others_gb = limits.total_gb - sample.available_gb - (sample.own_gb or 0.0)
    return FULL * max(0.0, others_gb) / limits.total_gb


def _has_cleared(cleared: tuple[int, float], sample: Sample) -> bool:
    """Has the trainer had the occasion to empty its cache, which it does between steps?"""
    steps, at_s = cleared
    return sample.steps > steps or sample.at_s - at_s >= CLEARING_S


def _left(sample: Sample) -> str:
    if sample.pressure == "critical":
        return "the system says its memory is critically short"
    return f"only {sample.available_gb:.2g} GB of memory are free"
