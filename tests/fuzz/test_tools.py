"""Whatever a caller puts into a tool, a resource or a prompt: an answer or a refusal in our words, and nothing else happens.

A failure prints its example and its seed; ``FUZZ_SEED=<seed>`` before the command draws the same ones again, and
``FUZZ_EXAMPLES`` says how many.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from mcp import Client, MCPError

from nanodistill_mcp.server import door
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench, ScriptedTeacher, said
from tests.fuzz.strategies import ATTACKS, arguments_of, whole
from tests.server.made import RUN, amplified_run
from tests.server.test_door import HIDES

KEY = "sk-fuzz-" + "n0tT0BeSeen" * 3
CANARY = "CANARY-fuzz-9d2"
COMPUTING_S = 2.0
WAITING_S = 30.0
TOOLS = (
    *(
        "create_run",
        "clone_run",
        "synthesize_cot",
        "extract_policy",
        "amplify",
        "revise_examples",
        "train",
        "evaluate",
        "refine",
    ),
    *("export_gguf", "get_status", "read_artifact", "compare_models", "control_job", "next_teacher_tasks"),
    *("submit_teacher_answers", "delete_run"),
)


class Range:
    """A server in this process over a run that has come up to its examples, and all that must not change around it."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder = folder
        self.client = client
        self.kept = folder / "kept"
        self.home = folder / "home"
        self.tried = 0
        self.answered = 0
        self.slowest_s = 0.0
        self._before = self._around()

    def _around(self) -> list[tuple[str, bytes]]:
        """What lies beside the data directory, and where this process works."""
        outside = [
            (str(path), path.read_bytes()) for path in sorted((self.folder / "outside").rglob("*")) if path.is_file()
        ]
        return [*outside, *((name, b"") for folder in (self.folder, Path()) for name in sorted(os.listdir(folder)))]

    async def hold(self, what: Callable[[], Awaitable[list[str]]]) -> None:
        """Do something, and hold the answer and the surroundings against what is promised."""
        shutil.rmtree(self.home / "runs", ignore_errors=True)
        shutil.copytree(self.kept, self.home / "runs" / RUN)
        began_s = time.process_time()
        with anyio.fail_after(WAITING_S):
            texts = await what()
        computed_s = time.process_time() - began_s
        assert computed_s < COMPUTING_S, "it computed for too long"
        self.tried, self.slowest_s = self.tried + 1, max(self.slowest_s, computed_s)
        for text in texts:
            assert HIDES.search(text) is None, "a character that hides or turns text around"
            assert KEY not in text, "a key"
            assert CANARY not in text, "a file's content"
            assert "Traceback" not in text
        assert self._around() == self._before, "a file outside the data directory"


@asynccontextmanager
async def _range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Range]:
    monkeypatch.setenv("FUZZ_API_KEY", KEY)
    monkeypatch.setattr(door, "CALLS_AT_ONCE", sys.maxsize)
    home, outside = tmp_path / "home", tmp_path / "outside"
    for folder in (home, outside, tmp_path / "work"):
        folder.mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (outside / "secret.jsonl").write_text(json.dumps({"input": CANARY, "output": CANARY}) + "\n")
    # Nothing here may start a process: no student is allowed, so every call that gets so far ends there.
    (home / "config.yaml").write_text(json.dumps({"allowed_students": ["nobody"]}))
    amplified_run(Bench(home, ScriptedTeacher(), {}), student=Path("/not/allowed"))
    shutil.copytree(home / "runs" / RUN, tmp_path / "kept")
    async with Client(build_server(load_settings(home, env={}))) as client:
        yield Range(tmp_path, client)


async def _draw(
    examples: int, strategy: st.SearchStrategy[Any], try_: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    """Try examples on this thread's loop, drawn on another: the server bounds what it computes in the main thread."""
    seed = int(os.environ.get("FUZZ_SEED", "0")) or random.randrange(1, 10**9)
    limits = hypothesis.settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", examples)),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=(Phase.generate, Phase.shrink),
        print_blob=True,
    )

    def example(drawn: Any) -> None:
        anyio.from_thread.run(try_, drawn)

    try:
        await anyio.to_thread.run_sync(hypothesis.seed(seed)(limits(hypothesis.given(strategy)(example))))
    except BaseException as error:
        error.add_note(f"FUZZ_SEED={seed} draws the same examples again.")
        raise


async def _fuzz(range_: Range, tool: str, examples: int) -> None:
    found = {each.name: each.input_schema for each in (await range_.client.list_tools()).tools}
    assert set(found) == set(TOOLS)

    async def try_(arguments: dict[str, Any]) -> None:
        async def call() -> list[str]:
            try:
                reply = await range_.client.call_tool(tool, whole(arguments))
            except MCPError as error:  # no message of the protocol
                return [str(error)]
            assert not reply.is_error or len(said(reply)) < door.MAX_ERROR_CHARS + 100, "an error without end"
            assert said(reply) != f"Error executing tool {tool}", "a defect, whose words are kept back"
            range_.answered += not reply.is_error
            return [said(reply), json.dumps(reply.structured_content, ensure_ascii=False)]

        await range_.hold(call)

    await _draw(examples, arguments_of(found[tool]), try_)


@pytest.mark.fuzz
async def test_whatever_a_tool_is_given_it_answers_or_refuses_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few for each tool at each commit, other ones each time."""
    async with _range(tmp_path, monkeypatch) as range_:
        for tool in TOOLS:
            await _fuzz(range_, tool, 6)


@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("tool", TOOLS)
async def test_whatever_a_tool_is_given_at_length(
    tool: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """As many as a night has room for."""
    async with _range(tmp_path, monkeypatch) as range_:
        await _fuzz(range_, tool, 20_000)
    refused = range_.tried - range_.answered
    record_property(
        "measured",
        f"{range_.tried} calls: {range_.answered} answered, {refused} refused in our words, none took more than "
        f"{range_.slowest_s:.1f} s of computing",
    )


@pytest.mark.fuzz
async def test_whatever_a_resource_or_a_prompt_is_asked_with_it_answers_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no schema of their own to refuse by."""
    words = st.one_of(st.sampled_from(ATTACKS), st.text(max_size=20))
    asked = st.tuples(st.sampled_from(["run", "artifact", "uri", "prompt"]), words, words)

    async with _range(tmp_path, monkeypatch) as range_:

        async def try_(drawn: tuple[str, str, str]) -> None:
            async def ask() -> list[str]:
                kind, one, other = drawn
                try:
                    if kind == "prompt":
                        return [
                            (
                                await range_.client.get_prompt(one or "distill", {other: one, "run_id": other})
                            ).model_dump_json()
                        ]
                    uri = {
                        "run": f"nanodistill://runs/{one}/{other}",
                        "artifact": f"nanodistill://runs/{RUN}/{one}",
                        "uri": one + other,
                    }[kind]
                    read = await range_.client.read_resource(uri)
                    return [each.model_dump_json() for each in read.contents]
                except (MCPError, ValueError) as error:
                    return (
                        [str(error)] if HIDES.search(one + other) is None else []
                    )  # what it asked for is repeated to it

            await range_.hold(ask)

        await _draw(30, asked, try_)
