"""The moments at which a run may die or meet a disk that fails, by name. Only the crash tests make anything happen there.

Every write, flush, rename, spawn and hand-over of a lock is preceded by ``fault("name")``, and the last step of several is
followed by one that ends in ``.done``, where nothing can fail any more. ``NANODISTILL_FAULT`` is read once, when this module is imported; without it a call does nothing.
Workers and student processes are given the variable like the data directory.
"""

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "NANODISTILL_FAULT"
"""``NAME:NTH:kill`` kills this process when it comes to the point for the nth time; an error's name in place of ``kill``
(``ENOSPC``, ``EIO``) raises that error there. ``*`` stands for any point, and ``NTH+`` for the nth time and all later ones.
``record:PATH`` adds the name of each point to a file as it is passed."""

Strike = Callable[[str], None]

_armed: list[Strike] = []


def fault(name: str) -> None:
    """A moment with a name. Nothing happens, unless a test asked for it."""
    for strike in _armed:
        strike(name)


def arm(plan: str) -> None:
    """Follow a plan in this process from now on, in place of any other; an empty one disarms.

    Raises:
        ValueError: It is not a plan.
    """
    _armed[:] = [_strike(plan)] if plan else []


def _strike(plan: str) -> Strike:
    if plan.startswith("record:"):
        return _recorder(plan.removeprefix("record:"))
    wanted, nth, what = plan.split(":")
    first, lasting = int(nth.removesuffix("+")), nth.endswith("+")
    number = 0 if what == "kill" else getattr(errno, what)
    passed: Counter[str] = Counter()

    def strike(name: str) -> None:
        if wanted not in ("*", name) or (number and name.endswith(".done")):
            return
        passed[wanted] += 1
        if passed[wanted] == first or (lasting and passed[wanted] > first):
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(number, os.strerror(number))

    return strike


def _recorder(path: str) -> Strike:
    def record(name: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, f"{name}\n".encode())
        os.close(fd)

    return record


arm(os.environ.get(VARIABLE, ""))
