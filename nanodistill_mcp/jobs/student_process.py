"""A student process as its worker sees it: started in a group of its own, heard by the lines it appends, and ended."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from nanodistill_mcp.errors import RunStateError, StudentDiedError
from nanodistill_mcp.jobs import processes
from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.runs.faults import fault

CHILD_POLL_S = 0.05
GRACE_S = 2.0
"""What a process gets to save and end, and what its lock gets to be let go."""


async def start_student(
    command_line: Sequence[str], *, trainer_lock: Path, log: Path, folder: Path, kept_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a student process that holds the trainer's lock, and hand it the descriptors it is to keep.

    Raises:
        RunStateError: A student process of an earlier worker still holds the lock.
    """
    held = open_lock(trainer_lock)
    try:
        with anyio.move_on_after(GRACE_S) as waiting:
            # A server that probes it holds it for a moment.
            while not try_lock(held):
                await anyio.sleep(CHILD_POLL_S)
        if waiting.cancelled_caught:
            raise RunStateError(
                "A student process of an earlier worker still runs.",
                next_step="Call the tool again in a few seconds.",
            )
        fault("student.spawn")
        child = _spawn(command_line, log, folder, (held, *kept_fds))
        fault("student.spawn.done")
        return child
    finally:
        os.close(held)  # from here only the student's tree holds it


def _spawn(command_line: Sequence[str], log: Path, folder: Path, kept_fds: Sequence[int]) -> subprocess.Popen[bytes]:
    with log.open("ab") as written:
        return subprocess.Popen(
            command_line,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            cwd=folder,
            env=processes.environment(processes.STUDENT_ENVIRONMENT),
            pass_fds=kept_fds,
            start_new_session=True,
        )


async def stop_student(child: subprocess.Popen[bytes]) -> None:
    """Let the process save and end; then make it end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes.signal_group(child.pid, number)
        with anyio.move_on_after(GRACE_S):
            while child.poll() is None:
                await anyio.sleep(CHILD_POLL_S)
            return


class Tail:
    """Passes on the complete lines that a student process appends to a file, from where the file ends now."""

    def __init__(self, path: Path, on_metric: Callable[[dict[str, Any]], None] | None) -> None:
        self._path = path
        self._on_metric = on_metric
        self._offset = path.stat().st_size if path.exists() else 0

    def pass_on(self) -> bool:
        """Pass new lines on; False when there were none."""
        lines = self._new_lines()
        if self._on_metric is not None:
            for line in lines:
                self._on_metric(line)
        return bool(lines)

    def _new_lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines() if line]


def how_it_ended(code: int) -> str:
    """How a process without a result ended, in words that follow its name."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    memory = " It probably ran out of memory." if code in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV) else ""
    return f"{how} without a result.{memory}"


def death(kind: str, how: str) -> StudentDiedError:
    """The error of a student process that died, from what it was to do and how it ended."""
    return StudentDiedError(
        f"The student process ({kind}) {how}",
        next_step="Read the end of its log with read_artifact(artifact='log.txt'); a smaller student, batch_size or max_seq_length needs less memory.",
    )
