"""A bound on what somebody else's template may take: the sandbox it runs in keeps it from the machine, and lets it run for ever."""

import resource
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nanodistill_mcp.errors import UserInputError

SECONDS = 2.0
"""Of computing, whatever else the machine does meanwhile. A template takes a hundredth of it."""
BYTES = 2 << 30


@contextmanager
def template_bounds(seconds: float = SECONDS, more_bytes: int = BYTES) -> Generator[None]:
    """End what runs inside once it took so many seconds of computing, or so much more memory.

    Time is bounded in a process's main thread, where the student's processes do all of it; memory on Linux, because macOS
    keeps no such limit.

    Raises:
        UserInputError: It took more.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = _limit_memory(more_bytes)
    if is_main:
        # Stays in place: a signal that is late by a moment would otherwise end the process.
        signal.signal(signal.SIGPROF, _end)
        _armed.set()
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except MemoryError:
        raise _too_costly(f"more than {more_bytes >> 30} GB of memory") from None
    except _OutOfTimeError:
        raise _too_costly(f"more than {seconds:g} seconds") from None
    finally:
        if is_main:
            _armed.clear()
            signal.setitimer(signal.ITIMER_PROF, 0)
        if before is not None:
            resource.setrlimit(resource.RLIMIT_AS, before)


class _OutOfTimeError(BaseException):
    """Not an Exception, which what runs inside could take for one of its own."""


_armed = threading.Event()


def _end(_: int, __: FrameType | None) -> None:
    if _armed.is_set():
        _armed.clear()
        raise _OutOfTimeError


def _limit_memory(more_bytes: int) -> tuple[int, int] | None:
    """Let this process's memory grow by so much and no more; what the limit was before, None where it cannot be set."""
    if sys.platform != "linux":
        return None
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    wanted = pages * resource.getpagesize() + more_bytes
    if resource.RLIM_INFINITY not in before:
        wanted = min(wanted, *before)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    return before


def _too_costly(what: str) -> UserInputError:
    return UserInputError(
        f"This student's chat template takes {what} for one conversation, so it is not used.",
        next_step="Choose another instruction-tuned student with create_run(student=...).",
    )
