"""The run board in a browser, for people whose client does not show it: on this machine alone, and gone with the command.

The page's address holds a secret that is made anew each time. What does not know it, names another host, or comes from another
page learns nothing. The page asks with the tools an agent has, four of them, and of the one run it was opened for.
"""

import hmac
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from mcp import Client
from pydantic import BaseModel, ValidationError

from nanodistill_mcp.server import board
from nanodistill_mcp.server.resources import RunsServer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_MOST_BYTES = 1_000_000
_ENDS_WITHIN_S = 2
_Answer = tuple[int, str, bytes]


class _Question(BaseModel):
    """What the page asks with: four of the tools."""

    name: Literal["get_status", "read_artifact", "revise_examples", "control_job"]
    arguments: dict[str, Any]


class BoardApp:
    """Serves the page and answers its questions, to whom has the address."""

    def __init__(self, client: Client, run_id: str, token: str, port: int) -> None:
        self._client = client
        self._run_id = run_id
        self._root = f"/{token}/".encode()
        self._hosts = (b"127.0.0.1:%d" % port, b"localhost:%d" % port)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return
        status, kind, body = await self._answer(scope, receive)
        text = board.page()
        headers = {
            "content-type": kind,
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
            "content-security-policy": f"{board.policy(text)}; frame-ancestors 'none'",
        }
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: "Scope", receive: "Receive") -> _Answer:
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name, []).append(value)
        hosts = given.get(b"host", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _refused(421, "This address is served under another name.")
        path: bytes = scope["path"].encode()
        asks = hmac.compare_digest(path, self._root + b"call")
        if not asks and not hmac.compare_digest(path, self._root):
            return _refused(404, "There is nothing here.")
        if scope["method"] != ("POST" if asks else "GET"):
            return _refused(405, "The page is read, and its questions are posted.")
        if not asks:
            return 200, "text/html; charset=utf-8", board.page().encode()
        origins = given.get(b"origin", [])
        if origins != [b"http://" + hosts[0]] or given.get(b"content-type") != [b"application/json"]:
            return _refused(403, "Only the page itself asks here.")
        body = await _read(receive)
        return _refused(413, "That is too much.") if body is None else await self._call(body)

    async def _call(self, body: bytes) -> _Answer:
        try:
            asked = _Question.model_validate_json(body)
        except ValidationError:
            return _refused(400, "This is no question of the page.")
        result = await self._client.call_tool(asked.name, {**asked.arguments, "run_id": self._run_id})
        return 200, "application/json", result.model_dump_json(by_alias=True, exclude_none=True).encode()


async def _read(receive: "Receive") -> bytes | None:
    """A request's body; None when it is too large."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _refused(status: int, why: str) -> _Answer:
    return status, "text/plain", why.encode() + b"\n"


async def serve_board(server: RunsServer, run_id: str, tell: Callable[[str], None]) -> None:
    """Serve the page of a run until a signal asks to stop. ``tell`` is given its address.

    Raises:
        UserInputError: There is no such run.
    """
    import uvicorn  # noqa: PLC0415 - it comes with mcp, and only this way of serving needs it

    server.app.store.open(run_id)
    token = secrets.token_urlsafe(32)
    async with Client(server) as client:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            tell(f"http://127.0.0.1:{port}/{token}/")
            config = uvicorn.Config(
                BoardApp(client, run_id, token, port),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=_ENDS_WITHIN_S,
            )
            await uvicorn.Server(config).serve(sockets=[listening])
