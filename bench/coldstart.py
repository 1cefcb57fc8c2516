"""How long a client waits for the server: spawn, answered initialize, answered tools/list, over stdio.

The measure is set beside the smallest server the SDK allows (one tool), started by the same interpreter in alternation.
CPU seconds are the kernel's for the process, user and system, up to the answer; the machine's load hardly moves them. The
least of the runs is compared, because everything else a machine does only adds.

    python bench/coldstart.py [-n RUNS]

Exit code 1 when the server takes more than BAR times the CPU of the smallest one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BAR = 1.15
ROOT = Path(__file__).resolve().parents[1]

SMALLEST = """\
from mcp.server.mcpserver import MCPServer

server = MCPServer("smallest", log_level="WARNING")


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


server.run("stdio")
"""

_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "coldstart", "version": "1"},
}


@dataclass(frozen=True)
class Start:
    """One start, up to the answered tools/list."""

    cpu_s: float
    wall_s: float
    tools: int


def measure(command: list[str], home: Path) -> Start:
    """Start a server, ask for its tools, and end it.

    Raises:
        RuntimeError: It answered with an error or ended.
    """
    environment = {**os.environ, "NANODISTILL_HOME": str(home)}
    began_s = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        _ask(child, 1, "initialize", _INITIALIZE)
        _send(child, {"method": "notifications/initialized"})
        tools = _ask(child, 2, "tools/list", {})["tools"]
        wall_s = time.perf_counter() - began_s
    finally:
        child.kill()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return Start(cpu_s=usage.ru_utime + usage.ru_stime, wall_s=wall_s, tools=len(tools))


def _ask(child: subprocess.Popen[bytes], number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    _send(child, {"id": number, "method": method, "params": params})
    assert child.stdout is not None
    for line in child.stdout:
        reply = json.loads(line)
        if reply.get("id") == number:
            if "error" in reply:
                msg = f"{method} was answered with {reply['error']}"
                raise RuntimeError(msg)
            return reply["result"]
    msg = f"the server ended before it answered {method}"
    raise RuntimeError(msg)


def _send(child: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    child.stdin.flush()


def main() -> int:
    """Measure both servers in alternation and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10, help="runs of each server (default 10)")
    runs = parser.parse_args().n
    with tempfile.TemporaryDirectory() as folder:
        smallest = Path(folder) / "smallest.py"
        smallest.write_text(SMALLEST, encoding="utf-8")
        commands = {
            "nanodistill-mcp": [sys.executable, "-m", "nanodistill_mcp", "serve"],
            "smallest MCPServer": [sys.executable, str(smallest)],
        }
        for command in commands.values():  # the first start writes bytecode
            measure(command, Path(folder))
        starts: dict[str, list[Start]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():
                starts[name].append(measure(command, Path(folder)))
    print(f"{'':<20}{'tools':>6}{'CPU s min':>11}{'median':>8}{'wall s min':>12}{'median':>8}")
    for name, found in starts.items():
        cpu_s, wall_s = [start.cpu_s for start in found], [start.wall_s for start in found]
        print(
            f"{name:<20}{found[0].tools:>6}{min(cpu_s):>11.2f}{statistics.median(cpu_s):>8.2f}"
            f"{min(wall_s):>12.2f}{statistics.median(wall_s):>8.2f}"
        )
    ours, theirs = (min(start.cpu_s for start in found) for found in starts.values())
    print(f"ratio of the least CPU: {ours / theirs:.2f} (bar {BAR}), n={runs}")
    return 0 if ours / theirs <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
