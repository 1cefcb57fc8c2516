"""Requests and answers as bytes: who may ask, what is read of a request, and how an answer or a stream of them is sent."""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from nanodistill_mcp.serving.bodies import MOST_BYTES, RefusedError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

BODY_WITHIN_S = 30.0
_READ_OF_TOO_MUCH = 16 * MOST_BYTES
_PAUSE_S = 0.3
_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


@dataclass(frozen=True)
class Door:
    """Who is let in."""

    hosts: frozenset[bytes]
    """The names under which this is served, with the port: a web page's own name may be made to point here."""
    token: str = ""
    """Empty where everybody on this machine may ask."""

    def check(self, scope: "Scope") -> None:
        """Refuse who has no token, asks under another name, or is a web page.

        Raises:
            RefusedError: One of these.
        """
        if self.token and not self._is_carried(scope):
            refused = RefusedError(
                401,
                "Give the token: Authorization: Bearer <token>.",
                kind="authentication_error",
                code="invalid_api_key",
            )
            refused.headers["www-authenticate"] = "Bearer"
            raise refused
        if [value.lower() for value in _values(scope, b"host")] not in [[host] for host in self.hosts]:
            raise RefusedError(421, "This address is served under another name.")
        if _values(scope, b"origin"):
            raise RefusedError(403, "Web pages are not answered.", kind="permission_error")

    def _is_carried(self, scope: "Scope") -> bool:
        given = _values(scope, b"authorization")
        return len(given) == 1 and hmac.compare_digest(given[0], b"Bearer " + self.token.encode())


async def read_json_bytes(scope: "Scope", receive: "Receive") -> bytes:
    """The body of a request that says it is JSON.

    Raises:
        RefusedError: It is something else, too much, or does not arrive.
    """
    kinds = [value.decode("latin-1").lower().replace(" ", "") for value in _values(scope, b"content-type")]
    if kinds not in (["application/json"], ["application/json;charset=utf-8"]):
        raise RefusedError(415, "Send JSON: Content-Type: application/json.")
    if _values(scope, b"content-encoding") not in ([], [b"identity"]):
        raise RefusedError(415, "Send the body as it is, not compressed.")
    announced = _values(scope, b"content-length")
    if any(
        len(length) > len(str(MOST_BYTES)) or not length.isdigit() or int(length) > MOST_BYTES for length in announced
    ):
        raise await _too_large(receive)
    body = bytearray()
    with anyio.move_on_after(BODY_WITHIN_S):
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MOST_BYTES:
                raise await _too_large(receive)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return bytes(body)
    raise RefusedError(408, f"The body did not arrive within {BODY_WITHIN_S:g} seconds.")


async def _too_large(receive: "Receive") -> RefusedError:
    """The refusal, once the caller stopped sending or sent far too much: one that still sends would not read it."""
    left = _READ_OF_TOO_MUCH
    while left > 0:
        with anyio.move_on_after(_PAUSE_S) as pause:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body"):
                break
        if pause.cancelled_caught:
            break
    refused = RefusedError(413, f"The body may have {MOST_BYTES} bytes.")
    refused.headers["connection"] = "close"
    return refused


def _values(scope: "Scope", wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == wanted]


class Reply:
    """The answer to one request: JSON at once, or events one by one."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self.has_begun = False
        """A status was sent: it cannot be another any more."""

    async def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        body = json.dumps(value, ensure_ascii=False).encode() if value is not None else b""
        await self._begin(
            status, {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        )
        await self._send({"type": "http.response.body", "body": body})

    async def refused(self, refused: RefusedError) -> None:
        """Send an error; within a stream, as its last event."""
        if self.has_begun:
            await self.event(refused.body())
            await self.end_events(done=False)
        else:
            await self.json(refused.body(), refused.status, refused.headers)

    async def event(self, value: Any) -> None:
        """Send an event; the first one begins the stream."""
        if not self.has_begun:
            await self._begin(200, {"content-type": "text/event-stream; charset=utf-8"})
        data = f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self, *, done: bool = True) -> None:
        """End the stream, with the mark that says it is whole."""
        await self._send(
            {"type": "http.response.body", "body": b"data: [DONE]\n\n" if done else b"", "more_body": False}
        )

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.has_begun = True
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": sent + _HEADERS})
