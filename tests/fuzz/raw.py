"""The real server as a child whose standard streams a test holds itself, byte by byte."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "0"}},
}
SERVE = (sys.executable, "-m", "nanodistill_mcp", "serve")
PATIENCE_S = 60.0


def call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool call as a message."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@dataclass
class Raw:
    """A server and its two pipes."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: bytes = b""
    """The end of everything it wrote to its client."""
    _rest: bytes = b""

    def send(self, *messages: object) -> None:
        """Messages, a line each."""
        self.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def write(self, data: bytes) -> None:
        """Bytes as they are. What the server answers meanwhile is taken in, or both would wait for each other."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + PATIENCE_S
        into, left = self.process.stdin.fileno(), memoryview(data)
        os.set_blocking(into, False)
        while left:
            assert time.monotonic() < deadline, "the server reads no more"
            _, writable, _ = select.select([], [into], [], 0.05)
            self._take_in(0)
            try:
                left = left[os.write(into, left[: 1 << 16]) :] if writable else left
            except BlockingIOError:
                continue

    def _take_in(self, within_s: float) -> None:
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        if select.select([output], [], [], within_s)[0]:
            more = os.read(output, 1 << 20)
            assert more, f"the server is gone: {self.log.read_text(errors='replace')[-2000:]}"
            self._rest += more
            self.seen = (self.seen + more)[-1_000_000:]

    def answer(self, number: int, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The answer with this id; every line before it has to be a message too."""
        deadline = time.monotonic() + within_s
        while True:
            message = json.loads(self._line(deadline))
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == number:
                return message

    def answer_any(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next message."""
        return json.loads(self._line(time.monotonic() + within_s))

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            assert left > 0, "no answer in time"
            self._take_in(left)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def is_alive(self, number: int) -> bool:
        """Whether it still answers."""
        self.send({"jsonrpc": "2.0", "id": number, "method": "ping"})
        return "result" in self.answer(number)

    def ends_after_eof_s(self) -> float:
        """Close its input; the seconds until it has ended by itself, without an error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.close()
        output = self.process.stdout.fileno()
        while select.select([output], [], [], PATIENCE_S)[0] and os.read(output, 1 << 20):
            pass
        assert self.process.wait(PATIENCE_S) == 0
        return time.monotonic() - began

    def rss_bytes(self) -> int:
        """Memory it holds."""
        return psutil.Process(self.process.pid).memory_info().rss


@contextmanager
def serving(
    home: Path, command: Sequence[str] = SERVE, *, greeted: bool = True, env: Mapping[str, str] | None = None
) -> Generator[Raw]:
    """A server over a data directory."""
    home.mkdir(mode=0o700, exist_ok=True)
    log = home.parent / f"{home.name}.stderr"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "NANODISTILL_HOME": str(home), **(env or {})}
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        raw = Raw(process, log)
        try:
            if greeted:
                raw.send(HELLO, {"jsonrpc": "2.0", "method": "notifications/initialized"})
                raw.answer(0)
            yield raw
        finally:
            process.kill()
