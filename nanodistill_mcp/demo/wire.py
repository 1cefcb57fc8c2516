"""A teacher on this machine: an HTTP server on the loopback that speaks the providers' formats and answers with a function.

The demo answers with a program that solves its task; tests answer with a script that refuses, stalls, lies or breaks. It
listens on 127.0.0.1 only, keeps no state but the record of what it was asked, and never calls anything.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from nanodistill_mcp.demo.wire_batches import Played, WireBatches
from nanodistill_mcp.demo.wire_formats import (
    Breaks,
    Fails,
    Refuses,
    Says,
    Wire,
    WireReply,
    WireRequest,
    completion,
    current_claude_refuses,
    failure,
    read_request,
)

__all__ = ["Breaks", "Fails", "Refuses", "Says", "WireReply", "WireRequest", "WireServer"]

_MAX_HEAD_BYTES = 1 << 16
_MAX_BODY_BYTES = 1 << 24
_TRICKLE_S = 0.05
_MUTE_S = 600.0
_STOP_S = 10.0
_PATHS: dict[str, Wire] = {"/chat/completions": "openai", "/v1/messages": "anthropic"}


class WireServer:
    """A loopback teacher in a thread of its own. Use as a context manager.

    Args:
        answer: Called on the server's loop for every request, so it must not block; a delay is part of the reply.
        strict_claude: Refuse on the Anthropic format what current Claude models refuse.
    """

    def __init__(self, answer: Callable[[WireRequest], WireReply], *, strict_claude: bool = False) -> None:
        self._answer = answer
        self._strict_claude = strict_claude
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="wire-server", daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._failure: BaseException | None = None
        self.batches = WireBatches(answer)
        self.port = 0
        self.requests: list[WireRequest] = []
        self.in_flight = 0
        self.peak_in_flight = 0

    @property
    def base_url(self) -> str:
        """The address without a path, as the Anthropic format wants it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        """The address as the OpenAI format wants it."""
        return f"{self.base_url}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise TimeoutError("The wire server does not end: its answer function blocks.")
        if error is None and self._failure is not None:
            raise self._failure  # what the answer function raised; the client saw a 500

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=_MAX_HEAD_BYTES, backlog=512)
        except OSError as error:
            self._failure = error
            self._started.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other, until either side closes it."""
        self._writers.add(writer)
        try:
            while (received := await _read_http(reader)) is not None:
                if not await self._respond(writer, *received):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away, as clients do
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _respond(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer one request; False when the connection is of no more use."""
        if (played := self._of_batches(method, path, headers, body)) is not None:
            if played.mute:
                await self._pause(_MUTE_S)
                return False
            await _write(writer, played.status, played.kind, played.body, {})
            return True
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._answered(writer, path.partition("?")[0], headers, body)
        finally:
            self.in_flight -= 1

    def _of_batches(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Played | None:
        try:
            return self.batches.respond(method, path.partition("?")[0], headers, body)
        except Exception as error:  # noqa: BLE001 - kept and raised again where the server is closed
            self._failure = self._failure or error
            return Played(HTTPStatus.INTERNAL_SERVER_ERROR, b"{}")

    async def _answered(self, writer: asyncio.StreamWriter, path: str, headers: dict[str, str], body: bytes) -> bool:
        wire: Wire | None = next((wire for ending, wire in _PATHS.items() if path.endswith(ending)), None)
        if wire is None:
            models = {"object": "list", "data": [{"id": "demo-teacher", "object": "model", "owned_by": "nanodistill"}]}
            known = path.endswith("/models")
            await _write_json(
                writer, HTTPStatus.OK if known else HTTPStatus.NOT_FOUND, models if known else {"error": {}}
            )
            return True
        try:
            request = read_request(wire, json.loads(body), headers)
        except ValueError:
            await _write_json(writer, HTTPStatus.BAD_REQUEST, {"error": {"message": "The body is not JSON."}})
            return True
        self.requests.append(request)
        number = len(self.requests)
        if wire == "anthropic" and self._strict_claude and (message := current_claude_refuses(request.body)):
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
            await _write_json(writer, HTTPStatus.BAD_REQUEST, error)
            return True
        try:
            reply = self._answer(request)
        except Exception as error:  # noqa: BLE001 - kept and raised again where the server is closed
            self._failure = self._failure or error
            reply = Fails("server")
        await self._pause(reply.delay_s)
        match reply:
            case Fails():
                status, value = failure(wire, reply)
                await _write_json(writer, status, value, reply.headers)
                return True
            case Breaks():
                return await self._break(writer, reply)
            case Says() | Refuses():
                headers = reply.headers if isinstance(reply, Says) else {}
                await _write_json(writer, HTTPStatus.OK, completion(request, reply, number), headers)
                return True

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not past the end of the server."""
        assert self._stop is not None  # noqa: S101 - set before the first connection
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)

    async def _break(self, writer: asyncio.StreamWriter, reply: Breaks) -> bool:
        """Do what no server should; False when the connection has to go."""
        match reply.how:
            case "html":
                await _write(writer, HTTPStatus.OK, "text/html", b"<html><body>Bad gateway</body></html>", {})
                return True
            case "half_json":
                await _write(
                    writer, HTTPStatus.OK, "application/json", b'{"id": "half", "choices": [{"index": 0, "mess', {}
                )
                return True
            case "reset":
                writer.transport.abort()
                return False
            case "trickle":
                writer.write(b"HTTP/1.1 200 -\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await self._pause(_TRICKLE_S)
                return False


async def _read_http(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    """Read one request: its method, path, headers in lower case and body. None when the client closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    length = int(headers.get("content-length", "0"))
    if length > _MAX_BODY_BYTES or "chunked" in headers.get("transfer-encoding", ""):
        return None
    method, path, _ = lines[0].split(" ")
    return method, path, headers, await reader.readexactly(length)


async def _write_json(
    writer: asyncio.StreamWriter, status: int, value: dict[str, Any], headers: dict[str, str] | None = None
) -> None:
    await _write(writer, status, "application/json", json.dumps(value, ensure_ascii=False).encode(), headers or {})


async def _write(writer: asyncio.StreamWriter, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {int(status)} -\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
