"""A process beside a job, of which nothing depends: the job starts it and does not wait for it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nanodistill_mcp.jobs import processes


def start_beside(module: str, *arguments: str, log: Path, also: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Run ``main()`` of a module of this package in a session of its own, at a low priority, its output in a log.

    Args:
        module: Its name within the package.
        arguments: What it is given.
        log: Receives what it writes.
        also: Variables it gets besides those that every process of ours gets.
    """
    with log.open("ab") as stream:
        started = subprocess.Popen(
            processes.command(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=processes.environment(also),
            start_new_session=True,
        )
    processes.renice_group(started.pid, os.getpriority(os.PRIO_PROCESS, 0) + 5)
    return started
