"""A provider for benches: a process of its own that answers chat completions with one fixed answer after a fixed time.

It spends about a tenth of a millisecond of CPU on a request, so that what is measured is the client. The time stands in the
path: ``/500/v1/chat/completions`` is answered after 500 ms. As a tool call where tools were sent, as text otherwise.

    python bench/teacher_stub.py

prints its port and serves until standard input ends.
"""

import asyncio
import json
import re
import sys
import threading
from typing import Any

SOLUTION = "First read what is asked and find the operation, then take each number in turn. " * 9
ANSWER = {"solution": SOLUTION.strip(), "answer": "42"}

_HEAD = re.compile(rb"POST /(\d+)/\S* HTTP.*?content-length: *(\d+)", re.IGNORECASE | re.DOTALL)


def _response(*, as_tool: bool) -> bytes:
    text = json.dumps(ANSWER)
    function = {"name": "WorkedSolution", "arguments": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if as_tool:
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if as_tool else "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 200, "total_tokens": 500},
    }
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


class _Connection(asyncio.Protocol):
    """One keep-alive connection; no client here sends a second request before its first is answered."""

    text, tool = _response(as_tool=False), _response(as_tool=True)

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        if (asked := _HEAD.match(head)) is None:
            self._transport.abort()
            return
        if len(body) < int(asked[2]):
            return
        self._received = b""
        answer = self.tool if b'"tools"' in body else self.text
        asyncio.get_running_loop().call_later(int(asked[1]) / 1000, self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def _serve() -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
