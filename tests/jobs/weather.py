"""A machine that is only numbers: what its memory and processors do while a training runs under the guard's rule."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nanodistill_mcp.jobs import guard
from nanodistill_mcp.jobs.guard import Limits, Pressure, Sample

TICK_S = 1.0
TWO_HOURS_S = 7200.0
LOADING_S, STEP_S = 20.0, 2.0
RESTARTS = 2

Course = Callable[[float], float]
"""A number that changes with the seconds."""


def steady(value: float) -> Course:
    """The same all the time."""
    return lambda _: value


def now_and_then(usual: float, peak: float, every_s: float, lasting_s: float) -> Course:
    """A peak at the beginning of every so many seconds."""
    return lambda at_s: peak if at_s % every_s < lasting_s else usual


@dataclass
class Machine:
    """A machine with a training of a given size, and what others do on it."""

    total_gb: float
    trainer_gb: float
    others_gb: Course
    others_percent: Course
    pressure: Callable[[float, float], Pressure] = lambda _at_s, _free_gb: "unknown"
    """Of the time and the memory that is free."""
    trainer_grows_gb: float = 0.0
    """By the hour, from each start."""


@dataclass
class Outcome:
    """What became of a training."""

    of_s: float
    outcome: str = "ran"
    trained_s: float = 0.0
    steps: int = 0
    pauses: int = 0
    unloads: int = 0
    kills: int = 0
    longest_rest_s: float = 0.0

    @property
    def share(self) -> float:
        """Share of the time in which training made steps."""
        return self.trained_s / self.of_s


class _Trainer:
    """A trainer that takes time to load, obeys between steps, and leaves after one."""

    def __init__(self, machine: Machine, at_s: float) -> None:
        self._machine, self._started_s, self._step_s = machine, at_s, 0.0

    def is_loaded(self, at_s: float) -> bool:
        return at_s - self._started_s >= LOADING_S

    def held_gb(self, at_s: float) -> float:
        up_s = at_s - self._started_s
        return self._machine.trainer_gb * min(1.0, up_s / LOADING_S) + self._machine.trainer_grows_gb * up_s / 3600

    def ends_a_step(self) -> bool:
        self._step_s += TICK_S
        if self._step_s < STEP_S:
            return False
        self._step_s = 0.0
        return True


def simulate(machine: Machine, limits: Limits, *, for_s: float = TWO_HOURS_S) -> Outcome:
    """Let a training run beside others under the guard's rule."""
    state, trainer, at_s, rest_s = guard.begun(0.0), _Trainer(machine, 0.0), 0.0, 0.0
    found = Outcome(of_s=for_s)
    while at_s < for_s:
        at_s += TICK_S
        held = trainer.held_gb(at_s) if trainer else None
        free = max(0.0, machine.total_gb - machine.others_gb(at_s) - (held or 0.0))
        sample = Sample(at_s, free, held, machine.others_percent(at_s), machine.pressure(at_s, free), found.steps)
        state, decision = guard.step(limits, state, sample)
        found.pauses, found.unloads, found.kills = state.pauses, state.unloads, state.kills
        match decision.action if decision else "":
            case "kill" if state.kills > RESTARTS:
                found.outcome = "stopped: killed three times"
                return found
            case "kill":
                trainer = None
            case "reload":
                trainer = _Trainer(machine, at_s)
            case _:
                pass
        if trainer and trainer.is_loaded(at_s) and state.mode != "paused":
            found.trained_s, rest_s = found.trained_s + TICK_S, 0.0
            if trainer.ends_a_step():
                found.steps += 1
                trainer = trainer if state.mode == "running" else None
        else:
            rest_s += TICK_S
            trainer = None if state.mode == "leaving" else trainer
        found.longest_rest_s = max(found.longest_rest_s, rest_s)
    return found


def limits_of(total_gb: float, cap_gb: float = 12.0, cpu_capacity_percent: float = 80.0) -> Limits:
    """The budget of the seed systems: nine tenths of the memory and 12 GB at most; for others a fifth."""
    share = Limits(total_gb, 0.9 * total_gb, 0.95 * total_gb, cpu_capacity_percent)
    return replace(share, max_memory_gb=min(0.9 * total_gb, cap_gb), memory_hard_limit_gb=min(0.95 * total_gb, cap_gb))


def by_the_whole_machine(machine: Machine, hard_gb: float, capacity: float = 0.8) -> float:
    """Share of two hours trained under the seed systems' rule, which counts the trainer among what it gives way to."""
    own_percent, paused, trained_s, at_s = 5.0, False, 0.0, 0.0
    while at_s < TWO_HOURS_S:
        at_s += TICK_S
        used_gb = machine.others_gb(at_s) + machine.trainer_gb
        if used_gb > hard_gb:
            return trained_s / TWO_HOURS_S
        busy = machine.others_percent(at_s) + (0.0 if paused else own_percent)
        paused = max(used_gb / machine.total_gb, busy / 100) > capacity
        trained_s += 0.0 if paused else TICK_S
    return trained_s / TWO_HOURS_S
