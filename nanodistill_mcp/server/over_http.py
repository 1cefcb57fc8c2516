"""The server over HTTP, for a client that cannot start it: on this machine, or from the next room, and never without the token.

Every request is held against the token before anything of it is read, whatever its path; then Host and Origin are, so that
a web page somebody opened cannot reach the server by a name that points here.
"""

import hmac
import ipaddress
import os
import re
import secrets
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.server.transport_security import TransportSecuritySettings

from nanodistill_mcp.errors import ConfigurationError, UserInputError
from nanodistill_mcp.runs.files import open_plain
from nanodistill_mcp.server.resources import RunsServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "NANODISTILL_HTTP_TOKEN"  # noqa: S105 - its name, not the token
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}\Z")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ENDS_WITHIN_S = 2


def token_of(home: Path) -> tuple[str, str]:
    """The token, and where it is from: the environment, or a file of the data directory that is made on the first start.

    Raises:
        ConfigurationError: It is too short, or others may read the file.
    """
    if given := os.environ.get(TOKEN_VARIABLE, ""):
        return _checked(given, TOKEN_VARIABLE), TOKEN_VARIABLE
    path = home / "http_token"
    if not path.exists():
        _make(path)
    with open_plain(path) as stream:
        if os.fstat(stream.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                "The token's file can be read by other users of this machine.",
                next_step=f"Remove {path}; the next start makes a new token, which the clients' entries then need.",
            )
        return _checked(stream.read(4096).decode("ascii", "replace").strip(), str(path)), str(path)


def _make(path: Path) -> None:
    """Write a new token; of two servers that start at once, one does, and the other takes the same."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
            stream.flush()
            os.fsync(fd)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _checked(token: str, where: str) -> str:
    if not _TOKEN.match(token):
        raise ConfigurationError(
            f"The token in {where} is not one: 32 to 512 letters, digits or . _ ~ + / = - are needed.",
            next_step="Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'.",
        )
    return token


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
    names = _LOOPBACK if _is_loopback(host) else (f"[{host}]" if ":" in host else host,)
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
    with _bound(host, port) as listening:
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        warning = "" if _is_loopback(host) else " The connection is not encrypted: use it in a network you trust."
        print(f"Serving http://{shown}:{port}/mcp. The token is in {where}.{warning}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it
        config = uvicorn.Config(
            http_app(server, token, host, port),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_ENDS_WITHIN_S,
        )
        await uvicorn.Server(config).serve(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    if host == "" or _is_every_address(host):
        raise UserInputError(
            "That would serve every network this machine is in.",
            next_step="Give --host the one address or name the client will use, such as 192.168.1.20 or studio.local.",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError):
        raise UserInputError(
            f"{host[:100]} port {port} cannot be served: it is taken, or not an address of this machine.",
            next_step="Give another --port, or an address or name of this machine as --host.",
        ) from None


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
