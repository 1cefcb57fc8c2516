"""An agent that was talked into something, at a server of its own, with a teacher that records what reaches it."""

import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult

from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.server import door
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.settings import load_settings
from tests.conftest import KEY, SECRET, ScriptedTeacher, said

SEEDS = [{"input": f"message {number}", "output": "ab"[number % 2]} for number in range(6)]


@dataclass
class Attacker:
    """Calls tools of a server in this process, and keeps every word it is answered."""

    home: Path
    allowed: Path
    teacher: ScriptedTeacher
    client: Client
    told: list[str] = field(default_factory=list[str])

    async def call(self, tool: str, /, **arguments: Any) -> CallToolResult:
        """A call, whatever comes of it."""
        reply = await self.client.call_tool(tool, arguments)
        self.told += [said(reply), json.dumps(reply.structured_content)]
        return reply

    async def read(self, uri: str) -> None:
        """A resource, or why not."""
        try:
            self.told += [str(each) for each in (await self.client.read_resource(uri)).contents]
        except MCPError as error:
            self.told.append(str(error))

    async def create(self, name: str = "r", **further: Any) -> CallToolResult:
        """A run that would be made but for what is put into it."""
        arguments = {"name": name, "instruction": "Sort.", "seed": SEEDS, "teacher": "local", "augment_factor": 2}
        return await self.call("create_run", **{**arguments, "student": str(student_path()), **further})

    async def refused(self, reply: Awaitable[CallToolResult]) -> str:
        """The words of a call that must be refused."""
        answer = await reply
        assert answer.is_error, answer.structured_content
        return said(answer).split(": ", 1)[1]

    def holds(self, canary: str) -> list[str]:
        """Where a text stands: files of the data directory by name, answers, and what was asked of the teacher."""
        data = canary.encode()
        found = [str(path) for path in self.home.rglob("*") if path.is_file() and data in path.read_bytes()]
        found += ["an answer"] if any(canary in text for text in self.told) else []
        return found + (["a request"] if any(canary in str(asked.body) for asked in self.teacher.asked) else [])


Attack = Callable[..., Any]


@pytest.fixture
def attack(tmp_path: Path, home: Path, script: ScriptedTeacher, monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Opens an attacker's connection. One directory may be read, and it lies beside the data directory."""
    monkeypatch.setenv(KEY, SECRET)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    monkeypatch.setattr(door, "CALLS_AT_ONCE", sys.maxsize)  # these tests are a flood
    endpoint = {"model": "openai/desk", "api_base": script.url, "api_key_env": KEY, "usd_per_mtok": [2, 10]}
    config = {"teachers": {"local": endpoint}, "allowed_paths": [str(allowed), str(student_path())]}

    @asynccontextmanager
    async def open_(**further: Any) -> AsyncGenerator[Attacker]:
        (home / "config.yaml").write_text(json.dumps({**config, **further}), encoding="utf-8")
        async with Client(build_server(load_settings(home, env={}))) as client:
            yield Attacker(home, allowed, script, client)

    return open_
