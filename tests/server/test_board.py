"""The run board: one page without a library or a network, listed for those who show it, and served to nobody else."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from nanodistill_mcp.runs.files import append_line, write_json
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server import board
from nanodistill_mcp.server.build import build_server
from nanodistill_mcp.settings import load_settings
from tests.conftest import Bench
from tests.runs.made import make_run
from tests.server.made import RUN, amplified_run

USED = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.0}
SVG = "http://www.w3.org/2000/svg"
HOSTILE = "</script><img src=x onerror=alert(1)>"


class _Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_asks_for_no_other() -> None:
    """A client shows it in a frame without a network; a library or a font would leave it blank."""
    text = board.page()
    assert re.findall(r"https?://[^\"'\s]+", text) == [SVG]
    assert not re.search(r"@import|url\(|\bimport\b\s*[({*'\"]", text.replace("/url\\(|", ""))
    read = _Page()
    read.feed(text)
    assert [
        (tag, name) for tag, given in read.tags for name in given if name in ("src", "href", "srcset", "style")
    ] == []
    assert [(tag, name) for tag, given in read.tags for name in given if name.startswith("on")] == []
    assert {tag for tag, _ in read.tags} & {"iframe", "object", "embed", "link", "base"} == set()
    assert len(text.encode()) < 60_000


def test_what_a_run_says_never_becomes_markup() -> None:
    """Each way by which a text could become an element or a program is absent, and the policy lets no other script run."""
    text = board.page()
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\(|new Function|srcdoc"
    assert re.findall(ways, text) == []
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", rules["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", rules["style-src"])
    assert policy == board.policy(text)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_finds_the_page_by_get_status_and_other_replies_stay_as_they_were(
    tmp_path: Path, mode: str
) -> None:
    """The tool names it, the list has it, reading it gives the type that clients show; no reply grows by it."""
    make_run(tmp_path)
    async with Client(build_server(load_settings(tmp_path, env={})), mode=mode) as client:  # pyright: ignore[reportArgumentType]
        said = [(tool.name, tool.meta or {}) for tool in (await client.list_tools()).tools]
        naming = {name: meta["ui"] for name, meta in said if "ui" in meta}
        assert naming == {"get_status": {"resourceUri": board.BOARD}}
        [listed] = [each for each in (await client.list_resources()).resources if str(each.uri) == board.BOARD]
        assert listed.mime_type == "text/html;profile=mcp-app"
        [read] = (await client.read_resource(board.BOARD)).contents
        assert (read.mime_type, read.meta) == ("text/html;profile=mcp-app", board.META)
        assert getattr(read, "text", "") == board.page()
        result = await client.call_tool("get_status", {"run_id": "tickets"})
        assert "ui://" not in result.model_dump_json()


async def test_the_page_is_told_the_curve_the_scores_and_what_arrived(tmp_path: Path) -> None:
    """What no reply holds: a long training as a few hundred points, and the newest inputs while they are made."""
    run = make_run(tmp_path)
    job = JobPaths(run.paths.jobs / "001-train")
    job.root.mkdir(mode=0o700, parents=True)
    for at in range(1, 2001):
        append_line(job.metrics, {"event": "step", "iteration": at, "train_loss": 4 / at})
    for at, loss in ((0, 5.0), (1000, 0.5), (2000, 0.7), (2001, float("nan"))):
        append_line(job.metrics, {"event": "valid", "iteration": at, "valid_loss": loss})
    score = {"rows": 10, "correct": 9, "accuracy": 0.9, "interval_95": [0.6, 0.98]}
    write_json(
        run.paths.evaluation, {"decision": "ship", "verdict": "Good.", "held_out": {"base": score, "student": score}}
    )
    with Journal.open(run.paths.calls) as journal:
        for text in (json.dumps({"inputs": ["one", HOSTILE, 3]}), json.dumps({"solution": "x", "answer": "y"}), "{"):
            journal.append({"kind": "answer", "call_id": "c", "attempt": 1, "text": text, **USED})
    told: dict[str, Any] = json.loads(board.board_data(RunStore(tmp_path).open("tickets")))
    assert len(told["train"]) <= 300
    assert told["train"][-1][0] == 2000
    assert told["valid"] == [[0, 5.0], [1000, 0.5], [2000, 0.7]]
    assert told["best"] == 1000
    assert told["arrived"] == [HOSTILE, "one"]
    assert [(each["set"], each["model"], each["correct"]) for each in told["scores"]] == [
        ("held_out", "base", 9),
        ("held_out", "student", 9),
    ]
    async with Client(build_server(load_settings(tmp_path, env={}))) as client:
        read = await client.call_tool("read_artifact", {"run_id": "tickets", "artifact": "board.json", "limit": 40_000})
    assert read.structured_content is not None
    assert json.loads(read.structured_content["text"]) == told
    assert read.structured_content["next_offset"] == -1


@dataclass(frozen=True)
class Web:
    """``show --web`` as it runs."""

    home: Path
    port: int
    path: str

    def asks(
        self, method: str = "GET", path: str = "", body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """One request: status, headers and text."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path or self.path, json.dumps(body) if body is not None else None, headers)
        with connection.getresponse() as answer:
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()

    def calls(self, name: str, arguments: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        """A question as the page asks it."""
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json", **headers}
        status, _, text = self.asks("POST", f"{self.path}call", {"name": name, "arguments": arguments}, **own)
        return status, json.loads(text) if status == 200 else {}


@pytest.fixture
def web(bench: Bench) -> Iterator[Web]:
    """The board of a run with examples."""
    amplified_run(bench)
    make_run(bench.home, "other")
    command = [sys.executable, "-m", "nanodistill_mcp", "show", RUN, "--web"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(bench.home), "NANODISTILL_HOME": str(bench.home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        found = re.match(rf"{RUN} is shown at http://127\.0\.0\.1:(\d+)(/[\w-]{{43}}/)\n", told)
        assert found, told
        yield Web(bench.home, int(found[1]), found[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_in_a_browser_the_same_page_is_served_and_answered_for_its_one_run(web: Web) -> None:
    """Whoever has no such client sees and does the same; another run stays out of reach, and so do the other tools."""
    status, headers, text = web.asks()
    assert (status, text) == (200, board.page())
    assert headers["content-security-policy"] == f"{board.policy(text)}; frame-ancestors 'none'"
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    for given in ({}, {"run_id": "other"}):
        status, reply = web.calls("get_status", given)
        assert (status, reply["structuredContent"]["run_id"]) == (200, RUN)
    status, reply = web.calls("revise_examples", {"drop": ["g0000-1"]})
    assert (status, reply["structuredContent"]["dropped"]) == (200, 1)
    status, reply = web.calls("control_job", {"action": "pause"})
    assert (status, reply["isError"]) == (200, True)
    assert "has no running job" in reply["content"][0]["text"]
    assert web.calls("delete_run", {"confirm_name": RUN})[0] == 400
    assert web.calls("create_run", {})[0] == 400
    assert (web.home / "runs" / RUN).is_dir()


def test_who_does_not_know_the_address_or_comes_from_another_page_learns_nothing(web: Web) -> None:
    """A page somebody opened can send requests here; by name, by guess or by form, none is answered."""
    for path in (
        "/",
        "/call",
        f"{web.path[:-2]}x/",
        f"{web.path}x",
        web.path[:-1],
        "/x/call",
        f"//{web.path}",
        f"{web.path}call/",
    ):
        assert web.asks(path=path)[0] in (400, 404), path
        assert web.asks("POST", path, {})[0] in (400, 404), path
    for host in (
        "evil.example",
        "127.0.0.1",
        f"evil.example:{web.port}",
        "localhost:1",
        f"127.0.0.1.evil.example:{web.port}",
    ):
        status, _, text = web.asks(Host=host)
        assert (status, "<html" in text) == (421, False), host
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert web.asks(method)[0] == 405
    assert web.asks(path=f"{web.path}call")[0] == 405
    for origin in ("http://evil.example", "null", f"http://localhost:{web.port}", f"https://127.0.0.1:{web.port}", ""):
        assert web.calls("get_status", {}, Origin=origin)[0] == 403, origin
    assert web.calls("get_status", {}, **{"Content-Type": "text/plain"})[0] == 403
    assert [name for name in web.asks()[1] if name.startswith("access-control")] == []
    own = {"Origin": f"http://127.0.0.1:{web.port}", "Content-Type": "application/json"}
    bodies: list[Any] = [7, [], {"name": "get_status"}, {"name": ["get_status"], "arguments": {}}]
    for body in bodies:
        assert web.asks("POST", f"{web.path}call", body, **own)[0] == 400
    assert web.asks("POST", f"{web.path}call", "x" * 1_100_000, **own)[0] == 413


def test_a_run_there_is_not_is_said_in_words(bench: Bench) -> None:
    """Before anything is served."""
    command = [sys.executable, "-m", "nanodistill_mcp", "show", "nothing", "--web"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(bench.home), "NANODISTILL_HOME": str(bench.home)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "There is no run 'nothing'" in ended.stderr
