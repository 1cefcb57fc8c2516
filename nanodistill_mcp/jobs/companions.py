"""A process that lives beside this one and is spoken to line by line; it cannot outlive it, because its input ends then."""

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from nanodistill_mcp.jobs import processes

_MOST_LINE_BYTES = 1 << 24
_GRACE_S = 2.0


@dataclass(frozen=True)
class Companion:
    """One such process."""

    pid: int
    _said: BufferedByteReceiveStream
    _told: anyio.abc.ByteSendStream

    async def say(self, line: str) -> None:
        """Send a line. One that does not arrive because the process ended is lost: its silence tells."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._told.send(line.encode() + b"\n")

    async def heard(self) -> AsyncGenerator[bytes]:
        """Its lines, until it ends."""
        while True:
            try:
                yield await self._said.receive_until(b"\n", _MOST_LINE_BYTES)
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError, anyio.DelimiterNotFound):
                return


@asynccontextmanager
async def companion(module: str, log: Path) -> AsyncGenerator[Companion]:
    """Run ``main()`` of one of this package's modules beside this process while the block runs.

    It stays in this process's session, because Linux gives each session its share of the processors: in one of its own a model waits
    longer on a busy machine (docs/benchmarks.md). It is to call :func:`os.setpgid` at once: a Ctrl-C in the terminal is for this process,
    which ends the other in its turn.

    Args:
        module: Its name within the package.
        log: Receives its standard error.
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        process = await anyio.open_process(
            processes.command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            env=processes.environment(processes.STUDENT_ENVIRONMENT),
        )
    finally:
        os.close(log_fd)
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stdin is not None  # noqa: S101
    try:
        yield Companion(process.pid, BufferedByteReceiveStream(process.stdout), process.stdin)
    finally:
        with anyio.CancelScope(shield=True):
            await process.stdin.aclose()
            with anyio.move_on_after(_GRACE_S):
                await process.wait()
            processes.signal_group(process.pid, signal.SIGKILL)  # stragglers of its group
            with suppress(ProcessLookupError):
                process.kill()  # ended before it led a group
            await process.aclose()
