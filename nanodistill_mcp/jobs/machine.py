"""What the machine does to a job that runs for hours: it is kept awake, sleeps, runs on battery, or slows down in the heat."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio

SLEPT_FROM_S = 20.0
"""A gap from which the machine is taken to have slept; shorter ones are a busy machine or a clock that was set right."""

_SPEED = re.compile(r"CPU_Speed_Limit\s*=\s*(\d+)")
_PMSET_TIMEOUT_S = 5.0
_NAP_S = 0.5
_WATCH_S = 60.0


@dataclass(frozen=True)
class Condition:
    """What slows the machine down, or will end its work."""

    battery_percent: int | None = None
    """Charge while it runs on its battery; None on mains, or where there is no battery."""
    speed_percent: int = 100
    """What the system lets the processor do in the heat, of what it can."""

    @property
    def words(self) -> str:
        """For people; empty when all is well."""
        parts: list[str] = []
        if self.battery_percent is not None:
            parts.append(f"on battery, {self.battery_percent} % left: plug it in")
        if self.speed_percent < 100:  # noqa: PLR2004 - in full
            parts.append(f"slowed to {self.speed_percent} % because it is hot")
        return "the machine is " + " and ".join(parts) if parts else ""


def condition() -> Condition:
    """The machine's present condition, as far as the system tells."""
    return Condition(_battery_percent(), _speed_percent())


def speed_limit(pmset_output: str) -> int:
    """The processor's speed limit in the words of ``pmset -g therm``, in percent; 100 when it names none."""
    found = _SPEED.search(pmset_output)
    return min(100, int(found[1])) if found else 100


class Naps:
    """Notices that the machine slept, from two clocks of which only one goes on meanwhile."""

    def __init__(self) -> None:
        self._wall_s, self._awake_s = time.time(), time.monotonic()

    def last_s(self) -> float:
        """Seconds slept since the last look; 0 when it did not, or when only the clock was set."""
        return self.between(time.time(), time.monotonic())

    def between(self, wall_s: float, awake_s: float) -> float:
        """The same with the readings given."""
        slept_s = (wall_s - self._wall_s) - (awake_s - self._awake_s)
        self._wall_s, self._awake_s = wall_s, awake_s
        return slept_s if slept_s >= SLEPT_FROM_S else 0.0


async def watch(slept: Callable[[float], None], changed: Callable[[str], None]) -> None:
    """Look until cancelled: an hour's sleep is not a hang, and a battery ends a job sooner.

    Args:
        slept: Told of each sleep, in seconds.
        changed: Told what the machine's condition has become, in words; none when all is well again.
    """
    naps, before = Naps(), Condition()
    next_look_s = 0.0
    while True:
        if slept_s := naps.last_s():
            slept(slept_s)
        if time.monotonic() >= next_look_s:
            next_look_s = time.monotonic() + _WATCH_S
            found = await anyio.to_thread.run_sync(condition, abandon_on_cancel=True)
            if found.words != before.words:
                changed(found.words)
            before = found
        await anyio.sleep(_NAP_S)


def keep_awake() -> None:
    """On a Mac, keep the machine from idle sleep for as long as this process lives."""
    if sys.platform == "darwin":
        subprocess.Popen(["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL)


def _battery_percent() -> int | None:
    import psutil  # noqa: PLC0415 - the server imports this module, and a client waits for its start

    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None or battery.power_plugged is not False else round(battery.percent)


def _speed_percent() -> int:
    if sys.platform != "darwin":
        return 100
    try:
        told = subprocess.run(
            ["/usr/bin/pmset", "-g", "therm"], capture_output=True, text=True, timeout=_PMSET_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # not knowing is no reason to stop a training
        return 100
    return speed_limit(told.stdout)
