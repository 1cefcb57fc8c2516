"""What the teacher's answers cost over the libraries they stand on, beside other clients, against what the provider allows.

Each client asks the same stub on the loopback (bench/teacher_stub.py) for the same structured answer, in a process of its
own, cell by cell in alternation because a machine's load drifts. Counted are validated answers per second, as a share of
the ideal (requests in flight ÷ latency), and CPU milliseconds per answer, user and system, threads included. Of the rounds
the best is taken of each: everything else a machine does only adds.

Ours keeps a journal (each answer flushed to disk before it counts), a budget and the day's ledger, and finds its pace: it
is measured at pace, and what finding it took is told apart. The others are given their number in flight, keep nothing and
are measured with open connections. "serial" asks one question after the other.

    python bench/teacher.py [--quick] [--latency 50 500 2000] [--at-once 1 8 32 128] [--clients ours instructor …]
                            [--rounds 1] [--with-curator PYTHON] [--with-distilabel PYTHON]
    python bench/teacher.py --memory

``PYTHON`` is an interpreter of an environment of its own: ``pip install bespokelabs-curator==0.1.31``, or
``pip install 'distilabel[openai,instructor]==1.5.3' instructor==1.17.0``.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = {
    "ours": "**nanodistill-mcp**",
    "aiohttp": "aiohttp + pydantic",
    "litellm": "bare LiteLLM",
    "instructor": "bare LiteLLM + Instructor",
    "serial": "serial loop",
    "curator": "bespokelabs-curator",
    "distilabel": "distilabel",
}
CELL_S = 5.0
"""About how long one cell takes."""
PEAK_RATE = 120
"""Answers per second that one core of LiteLLM and Instructor makes at most."""
MEMORY_CALLS = 4000

Cell = dict[str, int]
Taken = dict[str, float]


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=int, nargs="+", default=[50, 500, 2000], help="milliseconds")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32, 128], help="requests in flight")
    parser.add_argument("--clients", nargs="+", default=list(NAMES)[:5], choices=list(NAMES)[:5])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="500 ms, 8 and 32 in flight")
    parser.add_argument("--with-curator", metavar="PYTHON")
    parser.add_argument("--with-distilabel", metavar="PYTHON")
    parser.add_argument(
        "--memory", action="store_true", help=f"our memory over {MEMORY_CALLS} answers, and nothing else"
    )
    given = parser.parse_args()
    pythons = dict.fromkeys(given.clients, sys.executable)
    pythons |= {"curator": given.with_curator} if given.with_curator else {}
    pythons |= {"distilabel": given.with_distilabel} if given.with_distilabel else {}
    with stub() as port:
        if given.memory:
            asyncio.run(_memory(port))
            return
        latencies, crowds = ([500], [8, 32]) if given.quick else (given.latency, given.at_once)
        with ExitStack() as stack:
            clients = {name: stack.enter_context(client(name, python, port)) for name, python in pythons.items()}
            for latency_ms in latencies:
                print("\n".join(_table(latency_ms, crowds, _measured(clients, latency_ms, crowds, given.rounds))))


@contextmanager
def stub() -> Generator[int]:
    """The provider, in a process of its own; its port."""
    with _process([sys.executable, str(HERE / "teacher_stub.py")]) as process:
        yield int(_line(process))


@contextmanager
def client(name: str, python: str, port: int) -> Generator[subprocess.Popen[str]]:
    """A client that waits for cells on its standard input."""
    with _process([python, str(HERE / "teacher_clients.py"), name, str(port)]) as process:
        yield process


@contextmanager
def _process(command: list[str]) -> Generator[subprocess.Popen[str]]:
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdin is not None
        try:
            yield process
        except (EOFError, BrokenPipeError):
            errors.seek(0)
            sys.exit(f"{command[1:3]} ended:\n{errors.read().decode(errors='replace')[-2000:]}")
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError
    return line


def ask(process: subprocess.Popen[str], cell: Cell) -> Taken:
    """Have a client run one cell."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(cell) + "\n")
    process.stdin.flush()
    return json.loads(_line(process))


def _measured(
    clients: dict[str, subprocess.Popen[str]], latency_ms: int, crowds: list[int], rounds: int
) -> dict[tuple[str, int], list[Taken]]:
    found: dict[tuple[str, int], list[Taken]] = {}
    for _ in range(rounds):
        for crowd in crowds:
            for name, process in clients.items():
                if name == "serial" and crowd != crowds[0]:
                    continue
                taken = ask(process, _cell(latency_ms, 1 if name == "serial" else crowd))
                found.setdefault((name, crowd), []).append(taken)
                rate, cpu_ms = taken["answers"] / taken["wall_s"], taken["cpu_s"] / taken["answers"] * 1000
                print(f"{latency_ms} ms, {crowd}: {name} {rate:.1f}/s {cpu_ms:.1f} ms", file=sys.stderr, flush=True)
    return found


def _cell(latency_ms: int, at_once: int) -> Cell:
    """As many calls as take about CELL_S, in whole rounds of those in flight, four at least but for the long latencies."""
    rate = min(at_once * 1000 / latency_ms, PEAK_RATE)
    rounds = max(4 if at_once > 1 else 3, round(CELL_S * rate / at_once))
    return {"latency_ms": latency_ms, "at_once": at_once, "calls": at_once * rounds}


def _table(latency_ms: int, crowds: list[int], measured: dict[tuple[str, int], list[Taken]]) -> list[str]:
    """A markdown table of one latency: answers per second, share of the ideal, CPU per answer; then the ratios."""
    rates = {key: max(taken["answers"] / taken["wall_s"] for taken in found) for key, found in measured.items()}
    cpu_ms = {key: min(taken["cpu_s"] / taken["answers"] * 1000 for taken in found) for key, found in measured.items()}
    lines = [
        f"\n### {latency_ms} ms\n",
        "| client | " + " | ".join(f"{crowd} in flight" for crowd in crowds) + " |",
        "|---" * (len(crowds) + 1) + "|",
        "| *ideal* | " + " | ".join(f"{crowd * 1000 / latency_ms:.1f}" for crowd in crowds) + " |",
    ]
    for name, shown in NAMES.items():
        cells = [
            f"{rates[name, crowd]:.1f} ({rates[name, crowd] * latency_ms / crowd / 10:.0f} %) · {cpu_ms[name, crowd]:.1f} ms"
            if (name, crowd) in rates
            else "–"
            for crowd in crowds
        ]
        if any(key[0] == name for key in rates):
            lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, shown in NAMES.items():
        ratios = [
            f"{rates['ours', crowd] / rates[name, crowd if name != 'serial' else crowds[0]]:.2f}×"
            for crowd in crowds
            if ("ours", crowd) in rates and (name, crowd if name != "serial" else crowds[0]) in rates
        ]
        if name != "ours" and ratios:
            lines.append(f"- answers per second against {shown}: {', '.join(ratios)}")
    if ramps := [
        f"{min(t['ramp_s'] for t in measured['ours', crowd]):.1f} s" for crowd in crowds if ("ours", crowd) in measured
    ]:
        lines.append(f"- finding the pace took beyond the ideal: {', '.join(ramps)}")
    return lines


async def _memory(port: int) -> None:
    """Print our memory along a long stage."""
    from teacher_clients import our_teacher, questions, rss_mb

    from nanodistill_mcp.teacher.answers import WorkedSolution

    with tempfile.TemporaryDirectory() as folder:
        async with our_teacher(f"http://127.0.0.1:{port}/50/v1", 32, Path(folder)) as (teacher, prompt):
            print(f"| answers | memory |\n|---|---|\n| 0 | {rss_mb():.0f} MB |")
            for done in range(0, MEMORY_CALLS, MEMORY_CALLS // 8):
                asked: list[Any] = [teacher.ask(prompt(text), WorkedSolution) for text in questions(MEMORY_CALLS // 8)]
                await asyncio.gather(*asked)
                print(f"| {done + MEMORY_CALLS // 8} | {rss_mb():.0f} MB |", flush=True)
        print(f"\nThe journal on disk: {os.path.getsize(Path(folder) / 'calls.jsonl') / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
