"""Starting scenes as jobs, and waiting for what becomes of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import psutil

from nanodistill_mcp.jobs import launch
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Exit, WorkerRecord
from nanodistill_mcp.runs.store import Run, read_record
from tests.jobs.launcher_program import WORKER

_T = TypeVar("_T")

WAIT_S = 30.0


async def begin(run: Run, scene: str, keys: dict[str, str] | None = None, **arguments: Any) -> JobPaths:
    """Start a scene that must not attach to another."""
    job, started = await attach(run, scene, keys, **arguments)
    assert started
    return job


async def attach(run: Run, scene: str, keys: dict[str, str] | None = None, **arguments: Any) -> tuple[JobPaths, bool]:
    """Start a scene, or attach to what runs."""
    return await launch.start(run, "train", {"scene": scene, **arguments}, keys or {}, worker=WORKER)


async def until(what: Callable[[], _T | None]) -> _T:
    """Wait until something is true, and return it."""
    with anyio.fail_after(WAIT_S):
        while not (found := what()):
            await anyio.sleep(0.005)
        return found


async def ended(run: Run, job: JobPaths) -> Exit:
    """Wait for a job's exit record."""

    def look() -> Exit | None:
        state = launch.observe(run, job)
        assert not isinstance(state, launch.Lost), job.log.read_text()
        return state.exit if isinstance(state, launch.Finished) else None

    return await until(look)


async def lost(run: Run, job: JobPaths) -> launch.Lost:
    """Wait until a job's worker is gone without an exit record."""

    def look() -> launch.Lost | None:
        state = launch.observe(run, job)
        assert not isinstance(state, launch.Finished), state
        return state if isinstance(state, launch.Lost) else None

    return await until(look)


def facts(path: Path) -> dict[str, Any]:
    """What a JSON file says that must be there."""
    return json.loads(path.read_text())


def go(job: JobPaths) -> None:
    """Let a waiting scene end."""
    (job.root / "go").touch()


def cancel(job: JobPaths) -> None:
    """Ask for the end of a job."""
    launch.steer(job, Control(want="cancel"))


def beat(run: Run, job: JobPaths) -> Any:
    """The heartbeat of a job that must be alive."""
    state = launch.observe(run, job)
    assert isinstance(state, launch.Alive), state
    return state.heartbeat


def worker_of(job: JobPaths) -> psutil.Process:
    """The process that does a job."""
    record = read_record(job.worker, WorkerRecord)
    assert record is not None
    return psutil.Process(record.worker.pid)


async def students_of(job: JobPaths) -> list[int]:
    """The pids a student process and its children wrote down."""
    await until((job.root / "pids").exists)
    return json.loads((job.root / "pids").read_text())


def living(pids: list[int]) -> list[int]:
    """Those that run; a zombie does not."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


async def gone(pids: list[int]) -> None:
    """Wait until none of them runs."""
    await until(lambda: not _living_now(pids))


def _living_now(pids: list[int]) -> list[int]:
    try:
        return living(pids)
    except psutil.NoSuchProcess:  # between the two looks
        return pids


def workers_on(run: Run) -> list[int]:
    """Every worker process of a run."""
    return [process.pid for process in psutil.process_iter() if _works_on(run, process)]


def _works_on(run: Run, process: psutil.Process) -> bool:
    try:
        return str(run.paths.root) in process.cmdline()  # a zombie has none
    except psutil.NoSuchProcess:
        return False


class Launcher:
    """A server process of its own, in a session of its own, as a client starts one."""

    def __init__(self, **env: str) -> None:
        program = str(Path(__file__).with_name("launcher_program.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-I", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **env},
        )

    def ready(self) -> None:
        assert self._read() == b"ready\n"

    def ask(self, run: Run, scene: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        line = json.dumps({"run": str(run.paths.root), "arguments": {"scene": scene, **arguments}})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def told(self) -> dict[str, Any]:
        return json.loads(self._read())

    def told_or_died(self) -> dict[str, Any] | None:
        line = self._read()
        return json.loads(line) if line else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=WAIT_S)

    def kill_group(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=WAIT_S)

    def kill_tree(self) -> None:
        """As clients do that walk the process tree by parent (pgrep -P)."""
        server = psutil.Process(self.process.pid)
        for process in [*server.children(recursive=True), server]:
            process.kill()
        self.process.wait(timeout=WAIT_S)

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
