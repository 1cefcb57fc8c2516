"""A desk to ask a teacher from: a server on the loopback that answers by a script, a journal, and the real client."""

import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest, WireServer
from nanodistill_mcp.runs.journal import Journal, Record, read_journal, spend_of
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.budget import Budget, Caps
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Teacher

SECRET = "sk-desk-" + "0123456789" * 3
GOOD = Says({"solution": "Two and two make four.", "answer": "4"})
BAD = Says({"working": "Two and two make four."})
USD_PER_MTOK = (3.0, 15.0)

Wire = Literal["openai", "anthropic"]


@dataclass
class Desk:
    """One run's teacher, over real HTTP. ``script`` says what the server answers."""

    folder: Path
    wire: Wire
    strict_claude: bool = False
    script: Callable[[WireRequest], WireReply] = lambda _: GOOD
    server: WireServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = WireServer(self._answer, strict_claude=self.strict_claude)

    def _answer(self, request: WireRequest) -> WireReply:
        return self.script(request)

    def answers(self, *replies: WireReply, then: WireReply = GOOD) -> None:
        """Answer with these replies, in the order the requests come, and with the last one ever after."""
        rest, lock = iter(replies), threading.Lock()

        def script(_: WireRequest) -> WireReply:
            with lock:
                return next(rest, then)

        self.script = script

    @property
    def requests(self) -> list[WireRequest]:
        return self.server.requests

    @property
    def journal_path(self) -> Path:
        return self.folder / "calls.jsonl"

    @property
    def capabilities_path(self) -> Path:
        return self.folder / "capabilities.json"

    def records(self, kind: str) -> list[Record]:
        """What stands in the journal on disk."""
        return [record for record in read_journal(self.journal_path).records if record["kind"] == kind]

    def endpoint(self, **further: Any) -> TeacherEndpoint:
        model, address = {
            "openai": ("openai/desk", self.server.openai_url),
            "anthropic": ("anthropic/claude-sonnet-4-5", self.server.base_url),
        }[self.wire]
        values: dict[str, Any] = {"name": "desk", "model": model, "api_base": address, "api_key_env": "DESK_KEY"}
        return TeacherEndpoint.model_validate({**values, "usd_per_mtok": USD_PER_MTOK, **further})

    @asynccontextmanager
    async def teacher(
        self, *, caps: Caps | None = None, prices: tuple[float, float] | None = USD_PER_MTOK, **further: Any
    ) -> AsyncGenerator[Teacher]:
        """A teacher with this desk's journal, as a stage opens it."""
        endpoint = further.pop("endpoint", None) or self.endpoint()
        with Journal.open(self.journal_path) as journal:
            settings: dict[str, Any] = {"stage": "synthesize_cot", "timeout_s": 20, "backoff_s": 0.01, **further}
            async with Teacher(
                endpoint,
                journal=journal,
                budget=Budget(caps or Caps(usd=100), spend_of(journal.records), prices),
                capabilities=Capabilities(self.capabilities_path),
                **settings,
            ) as teacher:
                yield teacher


@pytest.fixture(params=["openai", "anthropic"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Desk]:
    """A desk on each of the two wire formats."""
    yield from _desk(request.param, tmp_path, monkeypatch)


@pytest.fixture
def openai_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Desk]:
    """A desk for what does not depend on the wire format."""
    yield from _desk("openai", tmp_path, monkeypatch)


@pytest.fixture
def claude_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Desk]:
    """A desk on the Anthropic format that refuses what current Claude models refuse."""
    yield from _desk("anthropic", tmp_path, monkeypatch, strict_claude=True)


def _desk(wire: Wire, folder: Path, patch: pytest.MonkeyPatch, *, strict_claude: bool = False) -> Generator[Desk]:
    patch.setenv("DESK_KEY", SECRET)
    desk = Desk(folder, wire, strict_claude=strict_claude)
    with desk.server:
        yield desk


def question(text: str = "What is 2 + 2?") -> prompts.Prompt:
    """A question of the demo kind."""
    return prompts.solve("Answer with a number.", text)


def questions(count: int) -> Iterable[prompts.Prompt]:
    """That many different questions."""
    return (question(f"What is {number} + 2?") for number in range(count))
