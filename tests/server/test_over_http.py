"""The server over HTTP: a client with the token uses all of it, and nobody else anything."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.serving.listening import TOKEN_VARIABLE, token_of
from tests.cli.person import types
from tests.runs.made import make_run

TOKEN = "t0ken-" * 8
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


@dataclass(frozen=True)
class Served:
    """A server that was started over HTTP."""

    home: Path
    url: str
    token: str
    told: str

    def ask(self, method: str = "POST", path: str = "/mcp", **headers: str) -> tuple[int, dict[str, str], str]:
        """One plain request: status, headers and text. A header given as the empty string is left out."""
        sent = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **headers,
        }
        connection = HTTPConnection(self.url.removeprefix("http://").removesuffix("/mcp"), timeout=30)
        body = json.dumps(HELLO) if method == "POST" else None
        connection.request(method, path, body, {name: value for name, value in sent.items() if value})
        with connection.getresponse() as answer:
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, answer.read().decode() if answer.status != 200 else ""

    @asynccontextmanager
    async def connect(self, mode: str) -> AsyncGenerator[Client]:
        """The SDK's own client."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(self.url, http_client=http), mode=mode) as client,  # pyright: ignore[reportArgumentType]
        ):
            yield client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the module, on a port the system chose."""
    home = tmp_path_factory.mktemp("http") / "home"
    command = [sys.executable, "-m", "nanodistill_mcp", "--home", str(home), "serve", "--http", "--port", "0"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.match(r"Serving (http://127\.0\.0\.1:\d+/mcp)\. The token is in (.+)\.\n", told)
        assert found, told
        yield Served(home, found[1], Path(found[2]).read_text().strip(), told)
        process.terminate()
        assert process.wait(20) in (0, -15)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_with_the_token_uses_the_server_as_over_stdio(served: Served, mode: str) -> None:
    """The same tools, resources and prompts, in both eras."""
    make_run(served.home, f"run-{mode}")
    async with served.connect(mode) as client:
        assert len((await client.list_tools()).tools) > 15
        assert len((await client.list_prompts()).prompts) == 4
        reply = await client.call_tool("get_status", {"run_id": f"run-{mode}"})
        assert reply.structured_content is not None
        assert reply.structured_content["run_id"] == f"run-{mode}"
        found = await client.read_resource(f"nanodistill://runs/run-{mode}/run.json")
    assert len(found.contents) == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/"), ("POST", "/mcp/")]
)
def test_without_the_token_nothing_is_answered(served: Served, method: str, path: str) -> None:
    """Whatever the path and the method: what a stranger learns is that a token is missing."""
    right = served.token
    for given in (
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {right}",
        right,
        f"Bearer {right}x",
        f"Bearer  {right}",
        f"Bearer {right[:-1]}",
    ):
        status, headers, text = served.ask(method, path, Authorization=given)
        assert status == 401, given
        assert headers["www-authenticate"] == "Bearer"
        assert text.startswith("This server takes only requests with its token")


def test_the_token_is_taken_from_the_header_alone(served: Served) -> None:
    """An address is kept in histories and logs."""
    in_the_address = f"/mcp?token={served.token}&access_token={served.token}"
    assert served.ask(path=in_the_address, Authorization="")[0] == 401
    assert served.ask()[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:8765", "0.0.0.0"])
def test_another_name_for_this_machine_is_refused(served: Served, host: str) -> None:
    """A web page's own name may be made to point here, and the browser then sends the page's requests."""
    assert served.ask(Host=host)[0] == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:3000", "file://"]
)
def test_a_web_page_is_refused_even_with_the_token(served: Served, origin: str) -> None:
    """No web page is a client of this server."""
    assert served.ask(Origin=origin)[0] == 403


def test_the_token_is_for_this_user_alone_and_printed_nowhere(served: Served) -> None:
    """A terminal is copied into reports; a file of others' is read."""
    path = served.home / "http_token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(served.token) >= 43
    assert served.token not in served.told


def test_the_token_stays_and_one_from_the_environment_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry in a client's configuration must not have to be changed at each start."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    first = token_of(tmp_path)
    assert token_of(tmp_path) == first == ((tmp_path / "http_token").read_text().strip(), str(tmp_path / "http_token"))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert token_of(tmp_path) == (TOKEN, TOKEN_VARIABLE)


@pytest.mark.parametrize("weak", ["short", "x" * 31, "two words " * 5, "ü" * 40, "x" * 600])
def test_a_token_that_is_easily_guessed_or_broken_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weak: str
) -> None:
    """A token that somebody made up is as good as none."""
    monkeypatch.setenv(TOKEN_VARIABLE, weak)
    with pytest.raises(ConfigurationError, match="32 to 512"):
        token_of(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE)
    (tmp_path / "http_token").write_text(weak, encoding="utf-8")
    (tmp_path / "http_token").chmod(0o600)
    with pytest.raises(ConfigurationError, match="32 to 512"):
        token_of(tmp_path)


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no secret any more, so going on with it would be pretence."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    token_of(tmp_path)
    (tmp_path / "http_token").chmod(0o644)
    with pytest.raises(ConfigurationError, match="can be read by other users"):
        token_of(tmp_path)


def test_an_address_that_cannot_be_served_is_refused_in_our_words(served: Served, tmp_path: Path) -> None:
    """Every network at once, a port that is taken, an address of another machine."""
    port = served.url.split(":")[2].removesuffix("/mcp")
    for words, told in {
        ("--host", "0.0.0.0"): "That would serve every network this machine is in.",
        ("--port", port): f"127.0.0.1 port {port} cannot be served",
    }.items():
        ended = types(tmp_path, "serve", "--http", *words)
        assert ended.returncode == 2
        assert ended.stderr.startswith(told)
