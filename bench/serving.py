"""Served tokens a second beside mlx_lm.server's: the same model, the same questions, one after the other and eight at once.

A random student never stops by itself, so each answer has the length that was asked for. Both servers compute with the same
BLAS, the rounds alternate between them, and the better round of each counts, because other programs share the machine. What the
others took is told too, on Linux: the milliseconds of a token in which a server's threads computed, and in which they could have
computed and waited for a processor.

    python bench/serving.py [--rounds N] [--hidden N] [--layers N] [--tokens N]

Exit code 1 when serve-model is slower than nine tenths of mlx_lm.server in either way of asking.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import anyio  # noqa: E402 - the path comes first
import psutil  # noqa: E402

from nanodistill_mcp.serving.app import Served  # noqa: E402
from nanodistill_mcp.serving.listening import bound  # noqa: E402
from nanodistill_mcp.serving.model import Model  # noqa: E402
from nanodistill_mcp.serving.serve import serve  # noqa: E402
from nanodistill_mcp.student.questions import KeepLoaded  # noqa: E402

AT_ONCE, QUESTIONS = 8, 8
STARTS_WITHIN_S = 120
LEAST_RATIO = 0.9
THEIRS = "import runpy, sys; from nanodistill_mcp.student import blas; blas.prepare(); runpy.run_module('mlx_lm.server', run_name='__main__')"


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--serve", nargs=2, metavar=("MODEL", "PORT"), help="used by the program itself")
    asked = parser.parse_args()
    if asked.serve:
        anyio.run(_serve, Path(asked.serve[0]), int(asked.serve[1]))
        return 0
    from tests.tiny_student import make_tiny

    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny(Path(folder) / "student", hidden=asked.hidden, layers=asked.layers, heads=8, kv_heads=4)
        ports = {"serve-model": _free_port(), "mlx_lm.server": _free_port()}
        commands = {
            "serve-model": [sys.executable, __file__, "--serve", str(model), str(ports["serve-model"])],
            "mlx_lm.server": [
                sys.executable,
                "-c",
                THEIRS,
                "--model",
                str(model),
                "--port",
                str(ports["mlx_lm.server"]),
            ],
        }
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1"}
        processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands.values()
        ]
        try:
            trees = {name: process.pid for name, process in zip(commands, processes, strict=True)}
            return _compare(ports, trees, str(model), asked.rounds, asked.tokens)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def _compare(ports: dict[str, int], trees: dict[str, int], model: str, rounds: int, tokens: int) -> int:
    for port in ports.values():
        _wait_for(port, model)
    best: dict[tuple[str, int], float] = {}
    computed: dict[str, list[str]] = {}
    for number in range(rounds):
        for at_once in (1, AT_ONCE):
            for name, port in ports.items():
                before = _scheduled(trees[name])
                rate = _measured(port, model, at_once, tokens, f"{number}{at_once}")
                spent = [
                    (now - then) / QUESTIONS / tokens for now, then in zip(_scheduled(trees[name]), before, strict=True)
                ]
                if rate > best.get((name, at_once), 0.0):
                    computed[f"{name}{at_once}"] = [f"{each:.1f}" for each in spent]
                best[name, at_once] = max(rate, best.get((name, at_once), 0.0))
    ratios: list[float] = []
    for at_once in (1, AT_ONCE):
        ours, theirs = best["serve-model", at_once], best["mlx_lm.server", at_once]
        ratios.append(ours / theirs)
        print(f"{at_once} at once: serve-model {ours:.0f} tokens/s, mlx_lm.server {theirs:.0f}, ratio {ratios[-1]:.2f}")
        for name in ports if sys.platform == "linux" else ():
            ms, waited_ms = computed[f"{name}{at_once}"]
            print(f"  {name}: a token took {ms} ms of computing, and {waited_ms} ms of waiting for a processor")
    return int(min(ratios) < LEAST_RATIO)


def _scheduled(pid: int) -> tuple[float, float]:
    """Milliseconds that the threads of a process and its children computed, and waited to compute; noughts where nobody says."""
    computed, waited = 0.0, 0.0
    if sys.platform == "linux":
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                ran_ns, queued_ns, _ = map(int, path.read_text("ascii").split())
                computed, waited = computed + ran_ns / 1e6, waited + queued_ns / 1e6
    return computed, waited


def _measured(port: int, model: str, at_once: int, tokens: int, asked: str) -> float:
    """Tokens a second. No question was asked before: mlx_lm.server would not have to read it again."""

    def ask(number: int) -> int:
        return _ask(port, model, tokens, f"{number}{asked} is the number that the user asks of")

    began_s = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        written = sum(threads.map(ask, range(QUESTIONS)))
    return written / (time.perf_counter() - began_s)


def _ask(port: int, model: str, tokens: int, content: str) -> int:
    """The tokens of one answer."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0}
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        return int(json.loads(answer.read())["usage"]["completion_tokens"])


def _wait_for(port: int, model: str) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            _ask(port, model, 4, "hello")
        except (OSError, KeyError, ValueError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


async def _serve(model: Path, port: int) -> None:
    keep = KeepLoaded(student=str(model), context_tokens=2048, parallel=AT_ONCE)
    served = Served(str(model), list, lambda text: ("", text), 100)
    with bound("127.0.0.1", port) as listening:
        await serve(Model(keep, model.parent / "serve.log"), served, listening, anyio.Event())


if __name__ == "__main__":
    sys.exit(main())
