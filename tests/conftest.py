"""What the tests share: a data directory, a teacher on the wire, and the real server as a stdio child."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, ImageContent, TextContent

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest, WireServer
from tests.once import once, shared_by_all

KEY = "TEST_TEACHER_KEY"
SECRET = "sk-test-" + "s3cr3t" * 5
WAIT_S = 150
DEMO_S = 240


@dataclass
class ScriptedTeacher:
    """A teacher that solves the demo's task, unless a test gave it something else to say."""

    script: Callable[[WireRequest], WireReply | None] = lambda _: None
    asked: list[WireRequest] = field(default_factory=list[WireRequest])
    server: WireServer | None = None

    def answer(self, request: WireRequest) -> WireReply:
        self.asked.append(request)
        scripted = self.script(request)
        return (
            scripted
            if scripted is not None
            else Says(teacher.answer(request.system, request.user, request.schema_name))
        )

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.openai_url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those that need the demo first: of several processes one then makes it, and none of the others waits for it."""
    items.sort(key=lambda item: "demo" not in getattr(item, "fixturenames", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the proofs, which docs/reliability.md tells, at the end of what their command prints."""
    for report in terminalreporter.stats.get("passed", []):
        for name, figures in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {figures}")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop LiteLLM needs."""
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory of its own. Whatever a test leaves running in it is ended afterwards.

    What the first test finds out of a teacher's id and a student's files the others need not find out again.
    """
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    checks = shared_by_all(tmp_path_factory) / "checks"
    checks.mkdir(mode=0o700, exist_ok=True)
    (folder / "checks").symlink_to(checks)
    yield folder
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def script() -> Iterator[ScriptedTeacher]:
    """A teacher over real HTTP that a test can make refuse, stall, lie or break."""
    scripted = ScriptedTeacher()
    with WireServer(scripted.answer) as server:
        scripted.server = server
        yield scripted


@dataclass
class Bench:
    """The real server as a stdio child, and what a test needs to use it as an agent does."""

    home: Path
    teacher: ScriptedTeacher
    env: dict[str, str]

    @asynccontextmanager
    async def connect(self, mode: str = "auto", **env: str) -> AsyncGenerator["Agent", None]:
        parameters = StdioServerParameters(
            command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env={**self.env, **env}
        )
        async with Client(parameters, mode=mode) as client:  # pyright: ignore[reportArgumentType]
            yield Agent(client)

    def server_pid(self) -> int:
        """The pid of the one server child of this process."""
        children = psutil.Process(os.getpid()).children()
        return next(child.pid for child in children if "nanodistill_mcp" in child.cmdline())

    def run_folder(self, run_id: str) -> Path:
        return self.home / "runs" / run_id

    def rows(self, run_id: str, name: str) -> list[dict[str, Any]]:
        """The rows of one of a run's JSONL files."""
        text = (self.run_folder(run_id) / name).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def adopt(self, demo: "Demo") -> str:
        """Put a copy of the demo's run into this data directory; its id."""
        shutil.copytree(demo.run_folder, self.run_folder(demo.run_folder.name), symlinks=True)
        return demo.run_folder.name

    def configure(self, **further: Any) -> None:
        """Write the server's configuration: a teacher on each wire, and what the test adds."""
        assert self.teacher.server is not None
        teachers = {
            "local": {
                "model": "openai/desk",
                "api_base": self.teacher.server.openai_url,
                "api_key_env": KEY,
                "usd_per_mtok": [2, 10],
            },
            "claude": {
                "model": "anthropic/claude-sonnet-4-5",
                "api_base": self.teacher.server.base_url,
                "api_key_env": KEY,
                "usd_per_mtok": [3, 15],
            },
        }
        teachers["demo"] = teachers["local"]
        config = {"teachers": teachers, "allowed_paths": [str(self.home.parent), str(student_path())], **further}
        (self.home / "config.yaml").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def bench(home: Path, script: ScriptedTeacher) -> Bench:
    """A configured server's surroundings."""
    environment = {"NANODISTILL_HOME": str(home), "PATH": os.environ["PATH"], "HOME": str(home), KEY: SECRET}
    made = Bench(home, script, environment)
    made.configure()
    return made


@dataclass(frozen=True)
class Demo:
    """A demo that was run to its end: what it printed, and the folder of its run."""

    exit_code: int
    printed: str
    run_folder: Path


def run_demo(home: Path, *arguments: str) -> Demo:
    """``nanodistill-mcp demo`` as a person starts it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "140"}
    command = [sys.executable, "-m", "nanodistill_mcp", "--home", str(home), "demo", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEMO_S, check=False)
    folder = max((home / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    return Demo(ended.returncode, ended.stdout + ended.stderr, folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run once for all test processes. Its run went the whole path: copy it with Bench.adopt, never change it."""

    def make(home: Path) -> dict[str, Any]:
        made = run_demo(home)
        return {"exit_code": made.exit_code, "printed": made.printed, "run": str(made.run_folder)}

    found = once(tmp_path_factory, "demo", make, within_s=DEMO_S + 30)
    ended = Demo(found["exit_code"], found["printed"], Path(found["run"]))
    assert ended.exit_code == 0, ended.printed
    return ended


def said(result: CallToolResult) -> str:
    """The text of a reply's one block of text; pictures may follow it."""
    (block,) = (each for each in result.content if not isinstance(each, ImageContent))
    assert isinstance(block, TextContent)
    return block.text


@dataclass
class Agent:
    """Calls tools and reads replies, as an agent that has nothing but the replies."""

    client: Client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A call that must succeed."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        if tool != "get_status" or "run_id" in arguments:  # the list of runs is a table to read
            assert json.loads(said(result)) == result.structured_content
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """A call that must fail; the exact text the agent reads."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        return said(result).removeprefix(f"Error executing tool {tool}: ")

    async def create(self, name: str = "tickets", **further: Any) -> dict[str, Any]:
        """A run of the demo's task."""
        arguments: dict[str, Any] = {
            "name": name,
            "instruction": task.INSTRUCTION,
            "seed": task.seeds(),
            "teacher": "local",
            "student": str(student_path()),
            "augment_factor": 4,
            **further,
        }
        return await self.call("create_run", **arguments)

    async def finish(self, run_id: str, stage: str, **arguments: Any) -> dict[str, Any]:
        """Call a stage and wait for its end."""
        reply = await self.call(stage, run_id=run_id, wait_s=0, **arguments)
        with anyio.fail_after(WAIT_S):
            while reply["state"] in ("queued", "running", "paused"):
                status = await self.call("get_status", run_id=run_id, wait_s=5)
                if not status["running"]:
                    line = next((entry for entry in status["stages"] if entry["stage"] == stage), {"state": "done"})
                    if line["state"] != "done":
                        return {**status, **line}  # calling the stage again would start it again
                    reply = await self.call(stage, run_id=run_id, wait_s=0, **arguments)
        return reply

    async def plan_training(self, run_id: str, **options: Any) -> dict[str, Any]:
        """train(dry_run=true), asked until the plan is there, as the replies say to."""
        arguments = {"run_id": run_id, "dry_run": True, **({"options": options} if options else {})}
        reply = await self.call("train", wait_s=20, **arguments)
        with anyio.fail_after(WAIT_S):
            while reply["state"] in ("queued", "running"):
                assert (reply["next_step"]["tool"], reply["next_step"]["arguments"]) == ("train", arguments)
                reply = await self.call("train", wait_s=20, **arguments)
        return reply

    async def until(self, run_id: str, stage: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a stage's line in get_status satisfies a condition."""
        with anyio.fail_after(WAIT_S):
            while True:
                status = await self.call("get_status", run_id=run_id)
                line = next(entry for entry in status["stages"] if entry["stage"] == stage)
                if wanted(line):
                    return line
                await anyio.sleep(0.05)


SHORT: dict[str, Any] = {"num_train_epochs": 1, "batch_size": 8, "gradient_accumulation_steps": 1, "max_new_tokens": 24}
"""Options for a training that is real and short."""

STAGES = ("synthesize_cot", "extract_policy", "amplify", "train", "evaluate", "export_gguf")


def plain(text: str) -> str:
    """A text with what differs from machine to machine replaced."""
    return re.sub(r"/[^\s,;)]+", "<path>", text)
