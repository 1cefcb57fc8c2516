"""The server over HTTP, for a client that cannot start it: on this machine, or from the next room, and never without the token.

Every request is held against the token before anything of it is read, whatever its path; then Host and Origin are, so that
a web page somebody opened cannot reach the server by a name that points here.
"""

import hmac
import sys
from typing import TYPE_CHECKING

from mcp.server.transport_security import TransportSecuritySettings

from nanodistill_mcp.server.resources import RunsServer
from nanodistill_mcp.serving.listening import ENDS_WITHIN_S, LOOPBACK, bound, is_loopback, token_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class BearerOnly:
    """Lets a request through that carries the token, and nothing else."""

    def __init__(self, app: "ASGIApp", token: str) -> None:
        self._app = app
        self._wanted = b"Bearer " + token.encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._is_carried(scope["headers"])):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks anything else
            return
        body = b"This server takes only requests with its token: Authorization: Bearer <token>.\n"
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(body)),
            (b"www-authenticate", b"Bearer"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _is_carried(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)


def http_app(server: RunsServer, token: str, host: str, port: int) -> BearerOnly:
    """The server as an application at ``/mcp``. No Origin is allowed, because no web page is a client of it."""
    names = LOOPBACK if is_loopback(host) else (f"[{host}]" if ":" in host else host,)
    security = TransportSecuritySettings(allowed_hosts=[f"{name}:{port}" for name in names], allowed_origins=[])
    return BearerOnly(server.streamable_http_app(host=host, transport_security=security), token)


async def serve_http(server: RunsServer, host: str, port: int) -> None:
    """Serve until a signal asks to stop.

    Raises:
        UserInputError: The address is not one of this machine, is all of its addresses, or is taken.
        ConfigurationError: The token is not usable.
    """
    import uvicorn  # noqa: PLC0415 - it comes with mcp, and only this way of serving needs it

    server.app.store.prepare()
    token, where = token_of(server.app.store.home)
    with bound(host, port) as listening:
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        warning = "" if is_loopback(host) else " The connection is not encrypted: use it in a network you trust."
        print(f"Serving http://{shown}:{port}/mcp. The token is in {where}.{warning}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it
        config = uvicorn.Config(
            http_app(server, token, host, port),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=ENDS_WITHIN_S,
        )
        await uvicorn.Server(config).serve(sockets=[listening])
