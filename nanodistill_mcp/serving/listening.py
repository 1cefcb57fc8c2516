"""Listening at an address: which may be served, the token that goes with it, and a server that ends when it is told to."""

import ipaddress
import os
import re
import secrets
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from nanodistill_mcp.errors import ConfigurationError, UserInputError
from nanodistill_mcp.runs.files import open_plain

if TYPE_CHECKING:
    from starlette.types import ASGIApp

TOKEN_VARIABLE = "NANODISTILL_HTTP_TOKEN"  # noqa: S105 - its name, not the token
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}\Z")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ENDS_WITHIN_S = 2
_MOST_CONNECTIONS = 256


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


def bound(host: str, port: int) -> socket.socket:
    """Listen at an address of this machine.

    Raises:
        UserInputError: The address is not one of this machine, is all of its addresses, or is taken.
    """
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


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_of(host: str, port: int) -> frozenset[bytes]:
    """The names under which an address is asked for."""
    names = LOOPBACK if is_loopback(host) else (f"[{host}]" if ":" in host else host,)
    return frozenset(f"{name}:{port}".lower().encode() for name in names)


async def listen(app: "ASGIApp", listening: socket.socket, ended: anyio.Event) -> None:
    """Serve an application until the event is set. Signals are left to the caller."""
    import uvicorn  # noqa: PLC0415 - it comes with mcp, and only those who listen need it

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=ENDS_WITHIN_S,
    )
    server = Server(config)

    async def end() -> None:
        await ended.wait()
        server.should_exit = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        await server.serve(sockets=[listening])
        tasks.cancel_scope.cancel()
