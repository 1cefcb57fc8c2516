"""A bound on what somebody else's pattern, schema or template may compute: each of them can be written so that it never ends."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class OutOfPatienceError(Exception):
    """It was still computing when its time was over."""


@contextmanager
def computing_at_most(seconds: float) -> Generator[None]:
    """End what runs inside once this process computed for so many seconds, whatever else the machine does meanwhile.

    Only in a process's main thread, where ours do such work; elsewhere nothing is bounded.

    Raises:
        OutOfPatienceError: It was ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Stays in place: a signal that is late by a moment would otherwise end the process.
    signal.signal(signal.SIGPROF, _end)
    _armed.set()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _Ended:
        raise OutOfPatienceError from None
    finally:
        _armed.clear()
        signal.setitimer(signal.ITIMER_PROF, 0)


class _Ended(BaseException):
    """Not an Exception, which what runs inside could take for one of its own."""


_armed = threading.Event()


def _end(_: int, __: FrameType | None) -> None:
    if _armed.is_set():
        _armed.clear()
        raise _Ended
