"""A bound on what a student's chat template may take: the sandbox it runs in keeps it from the machine, and lets it run for ever."""

import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.patience import OutOfPatienceError, computing_at_most

SECONDS = 2.0
"""A template takes a hundredth of it."""
BYTES = 2 << 30


@contextmanager
def template_bounds(seconds: float = SECONDS, more_bytes: int = BYTES) -> Generator[None]:
    """End what runs inside once it took so many seconds of computing, or so much more memory (on Linux: macOS keeps no such limit).

    Raises:
        UserInputError: It took more.
    """
    before = _limit_memory(more_bytes)
    try:
        with computing_at_most(seconds):
            yield
    except MemoryError:
        raise _too_costly(f"more than {more_bytes >> 30} GB of memory") from None
    except OutOfPatienceError:
        raise _too_costly(f"more than {seconds:g} seconds") from None
    finally:
        if before is not None:
            resource.setrlimit(resource.RLIMIT_AS, before)


def _limit_memory(more_bytes: int) -> tuple[int, int] | None:
    """Let this process's memory grow by so much and no more; what the limit was before, None where it cannot be set."""
    if sys.platform != "linux":
        return None
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    wanted = pages * resource.getpagesize() + more_bytes
    limits = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *limits]), before[1]))
    return before


def _too_costly(what: str) -> UserInputError:
    return UserInputError(
        f"This student's chat template takes {what} for one conversation, so it is not used.",
        next_step="Choose another instruction-tuned student with create_run(student=...).",
    )
