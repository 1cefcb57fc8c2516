"""A trained run served as a person serves it, and a student that never stops served in this process."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from nanodistill_mcp.serving.app import Served
from nanodistill_mcp.serving.listening import bound
from nanodistill_mcp.serving.model import Model
from nanodistill_mcp.serving.serve import serve
from nanodistill_mcp.student.questions import KeepLoaded
from tests.conftest import Demo
from tests.tiny_student import make_tiny

STARTS_WITHIN_S = 90
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class ServedRun:
    """A run that ``serve-model`` serves."""

    process: subprocess.Popen[str]
    run_folder: Path
    address: str
    told: str

    @property
    def model_pid(self) -> int:
        """The process that holds the model."""
        (child,) = psutil.Process(self.process.pid).children()
        return child.pid

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """One plain request: status, headers and what came, read as JSON where it is."""
        connection = HTTPConnection(self.address.removeprefix("http://"), timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, JSON if headers is None else headers)
        with connection.getresponse() as answer:
            text = answer.read().decode()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, json.loads(text) if "json" in told.get("content-type", "") else text

    def rows(self) -> list[dict[str, Any]]:
        """What its evaluation asked and was answered."""
        return [json.loads(line) for line in (self.run_folder / "answers.jsonl").read_text("utf-8").splitlines()]


@contextmanager
def serve_run(home: Path, *words: str) -> Generator[ServedRun]:
    """``serve-model demo`` on a port the system chose, until it answers its ping."""
    command = [sys.executable, "-m", "nanodistill_mcp", "--home", str(home), "serve-model", "demo", "--port", "0"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with subprocess.Popen([*command, *words], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/v1\.", told)
        assert found, told + process.stderr.read()
        served = ServedRun(process, home / "runs" / "demo", found[1], told)
        try:
            told = process.stderr.readline()
            assert told.startswith("Loaded"), told
            yield served
        finally:
            process.send_signal(signal.SIGKILL)


def home_of(demo: Demo, home: Path) -> Path:
    """A data directory with a copy of the demo's run."""
    shutil.copytree(demo.run_folder, home / "runs" / "demo", symlinks=True)
    return home


@pytest.fixture(scope="module")
def served(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRun]:
    """The demo's run, served for a whole module, ended as a service manager ends it."""
    with serve_run(home_of(demo, tmp_path_factory.mktemp("serving") / "home")) as run:
        yield run
        child = run.model_pid
        run.process.terminate()
        assert run.process.wait(20) == 0
        assert not psutil.pid_exists(child)


@dataclass(frozen=True)
class Endless:
    """A student of random weights, served in this process: it writes until its context is full."""

    model: Model
    http: httpx2.AsyncClient

    async def ready(self) -> None:
        """Wait until it is loaded."""
        with anyio.fail_after(STARTS_WITHIN_S):
            while (await self.http.get("/ping")).status_code != 200:
                await anyio.sleep(0.05)

    async def idle(self) -> None:
        """Wait until it answers nobody."""
        with anyio.fail_after(20):
            while self.model.at_work:
                await anyio.sleep(0.02)


@asynccontextmanager
async def endless(
    student: Path, *, most_waiting: int = 1, when_wanted: Callable[[], None] | None = None
) -> AsyncGenerator[Endless]:
    """Serve a student that never stops by itself, one question at a time."""
    keep = KeepLoaded(student=str(student), context_tokens=2048, parallel=1)
    model = Model(keep, student / "serve.log", most_waiting=most_waiting, when_wanted=when_wanted)
    served = Served("endless", lambda messages: messages, lambda text: ("", text), 2000)
    ended = anyio.Event()
    with bound("127.0.0.1", 0) as listening:
        address = f"http://127.0.0.1:{_port(listening)}"
        async with anyio.create_task_group() as tasks, httpx2.AsyncClient(base_url=address, timeout=60) as http:
            tasks.start_soon(serve, model, served, listening, ended)
            try:
                yield Endless(model, http)
            finally:
                ended.set()


def _port(listening: socket.socket) -> int:
    return listening.getsockname()[1]


@pytest.fixture(scope="session")
def random_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights."""
    return make_tiny(tmp_path_factory.mktemp("students") / "random")


def gone(pid: int, within_s: float = 10) -> bool:
    """Whether a process ends within a while."""
    until = time.monotonic() + within_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
