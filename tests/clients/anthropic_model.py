"""A large model's endpoint on the loopback that answers with a function: what Claude Code talks to instead of a provider.

It speaks Anthropic messages as a stream, which teachers are never asked for and demo/wire.py does not speak.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Body = dict[str, Any]


@dataclass(frozen=True)
class Calls:
    """The model calls a tool."""

    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Says:
    """The model says something and ends its turn."""

    text: str


class ScriptedModel:
    """A model whose every turn is what the function makes of the request. Use as a context manager.

    A failure of the function ends the turn, and is raised again where the model is closed.
    """

    def __init__(self, turn: Callable[[Body], Calls | Says]) -> None:
        self._turn = turn
        self._lock = threading.Lock()
        self._count = 0
        self._failure: Exception | None = None
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the library
                """Say nothing: the transcript is printed instead."""

            def do_HEAD(self) -> None:
                self._answer(b"", "text/plain")

            do_GET = do_HEAD  # noqa: N815 - its name in the library

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path.partition("?")[0].endswith("/count_tokens"):
                    self._answer(b'{"input_tokens": 1}', "application/json")
                elif not self.path.partition("?")[0].endswith("/v1/messages"):
                    self._answer(b"{}", "application/json")
                elif body.get("stream"):
                    self._answer(_stream(model.message(body)), "text/event-stream")
                else:
                    self._answer(json.dumps(model.message(body)).encode(), "application/json")

            def _answer(self, data: bytes, kind: str) -> None:
                self.send_response(HTTPStatus.OK)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="scripted-model", daemon=True)

    @property
    def base_url(self) -> str:
        """What ANTHROPIC_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if error is None and self._failure is not None:
            raise self._failure

    def message(self, body: Body) -> Body:
        """The whole message that answers a request."""
        with self._lock:  # one turn after the other, whatever the client asks side by side
            self._count += 1
            try:
                turn = self._turn(body)
            except Exception as error:  # noqa: BLE001 - kept, and raised again where the model is closed
                self._failure = self._failure or error
                turn = Says("The script failed.")
            number = self._count
        match turn:
            case Calls(tool, arguments):
                content: Body = {"type": "tool_use", "id": f"toolu_{number:04d}", "name": tool, "input": arguments}
            case Says(text):
                content = {"type": "text", "text": text}
        return {
            "id": f"msg_{number:04d}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", ""),
            "content": [content],
            "stop_reason": "tool_use" if isinstance(turn, Calls) else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }


def _stream(message: Body) -> bytes:
    """A message as the events it is streamed in."""
    block: Body = message["content"][0]
    empty: Body
    delta: Body
    if block["type"] == "tool_use":
        empty, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    else:
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    ends = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events: list[Body] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ends, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
