"""The server's life on stdio: lines of a bounded length in, nothing but the protocol out, and an end with its client."""

import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import IO, Any, cast

import anyio
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, ErrorData, JSONRPCError

from nanodistill_mcp.server.resources import RunsServer

MAX_LINE_BYTES = 4 * 1024 * 1024
"""As over HTTP, where the SDK limits a request to this."""

_PARENT_LOOK_S = 10.0
_TOO_LONG = f"The message is longer than {MAX_LINE_BYTES} bytes. Give a long table of examples as a file in an allowed directory, in seed_path."
_KEPT_BYTES = 300
_ID = rb'"id"\s*:\s*(\d{1,15}|"[^"\\]{1,100}")\s*'
_ID_FIRST = re.compile(rb"\A[^{]*\{(?:(?!\"params\").)*?" + _ID, re.DOTALL)
_ID_LAST = re.compile(_ID + rb"(?:,[^{}]*)?\}\s*\Z")


async def serve_stdio(server: RunsServer) -> None:
    """Serve until standard input ends, a signal asks to stop, or the client is gone.

    Exits hard on a signal: the thread that reads standard input cannot be woken, and there is nothing to save.
    """
    low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - the only way to offer listChanged to handshake-era clients
    parent = os.getppid()

    async def end_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for _ in signals:
                os._exit(0)

    async def end_without_parent() -> None:
        while os.getppid() == parent:  # a wrapper may keep our standard input open after the client died
            await anyio.sleep(_PARENT_LOOK_S)
        os._exit(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_on_signal)
        tasks.start_soon(end_without_parent)
        lines = BoundedLines(_taken_over())
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (read, write):

            async def refuse(request_id: int | str) -> None:
                error = ErrorData(code=INVALID_REQUEST, message=_TOO_LONG)
                await write.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=request_id, error=error)))

            lines.refuse = refuse
            with redirect_stdout(sys.stderr):  # what is printed and not yet flushed would reach the client at the end
                options = low.create_initialization_options(NotificationOptions(resources_changed=True))
                await low.run(read, write, options)
        tasks.cancel_scope.cancel()


class BoundedLines:
    """The lines of a stream. One that is too long is read to its end without being kept, and its request refused."""

    def __init__(self, stream: IO[bytes], most_bytes: int = MAX_LINE_BYTES) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self.refuse: Callable[[int | str], Awaitable[None]] | None = None

    def __aiter__(self) -> "BoundedLines":
        return self

    async def __anext__(self) -> str:
        while True:
            line = await anyio.to_thread.run_sync(self._next, abandon_on_cancel=True)
            if line == "":
                raise StopAsyncIteration
            if isinstance(line, str):
                return line
            if line.request_id is not None and self.refuse:  # a client would wait for its answer for ever
                await self.refuse(line.request_id)

    def _next(self) -> "str | _TooLong":
        line = self._stream.readline(self._most_bytes)
        if not line or line.endswith(b"\n") or len(line) < self._most_bytes:
            return line.decode("utf-8", "replace")
        first, last = line[:_KEPT_BYTES], line[-_KEPT_BYTES:]
        while more := self._stream.readline(1 << 16):
            last = (last + more)[-_KEPT_BYTES:]
            if more.endswith(b"\n"):
                break
        found = _ID_FIRST.search(first) or _ID_LAST.search(last)
        return _TooLong(json.loads(found[1]) if found else None)


@dataclass(frozen=True)
class _TooLong:
    """What is left of a line that was too long: the id of its request, None when it is a notification or no message."""

    request_id: int | str | None


def _taken_over() -> IO[Any]:
    """Standard input for us alone: whatever else in this process reads it finds it empty."""
    mine = os.dup(0)
    os.set_inheritable(mine, False)  # noqa: FBT003 - the standard library's own signature
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return os.fdopen(mine, "rb", closefd=False)
