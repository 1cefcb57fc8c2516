"""The paid stages over real data, taught by a recording of it: what each filter keeps, how fast, and at what price.

A teacher on the loopback answers known questions with their recorded solutions, and is wrong as teachers are: about some
questions always, about any question now and then. The inputs it writes are real ones, among them copies, rewordings, the
same problem with other numbers, and inputs for another answer than was asked for. The server is driven as an agent does.

    python bench/recorded.py gsm8k DATA/gsm8k/train_1500.jsonl [--seeds 20]
    python bench/recorded.py banking77 DATA/banking77/train.csv [--seeds-per-class 10 3 1]

Dollars are LiteLLM's list prices for ``--price-as``, on tokens counted at four bytes each.
"""

import argparse
import csv
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from nanodistill_mcp.demo import teacher as demo_teacher
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest, WireServer

INTENTS = (
    "card_arrival",
    "card_not_working",
    "change_pin",
    "declined_card_payment",
    "exchange_rate",
    "lost_or_stolen_card",
    "pending_transfer",
    "request_refund",
    "top_up_failed",
    "verify_my_identity",
)
COPIED, REWORDED, RENUMBERED, OFF_TARGET = 0.04, 0.12, 0.10, 0.10
"""Shares of the inputs it writes that are no new ones, or are for another answer than was asked for."""
PAID = ("synthesize_cot", "extract_policy", "amplify")
_BLOCK = re.compile(r"<([a-z-]+)-([0-9a-f]{6})>\n(.*?)\n</\1-\2>", re.DOTALL)
_NAME = re.compile(r"\b(James|John|Mary|Maria|Tom|Sam|Emily|Jack|Lily|Anna|Ben|Mike|Sarah|Peter|Jane|Bob|Alice)\b")
_NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Task:
    """A recording, and how inputs like its own are written."""

    instruction: str
    answers: dict[str, tuple[str, str]]
    """By input: the recorded solution and answer."""
    reworded: Callable[[random.Random, str], str]
    renumbered: Callable[[random.Random, str], str] | None
    wrong: Callable[[random.Random, str], str]


class RecordedTeacher:
    """Answers from a recording.

    Args:
        task: The recording.
        always_wrong: Share of the inputs it misunderstands each time.
        now_and_then: Share of the answers that are wrong by chance.
        latency_s: How long an answer takes.
    """

    def __init__(self, task: Task, always_wrong: float, now_and_then: float, latency_s: float) -> None:
        self.task, self.always, self.sometimes, self.latency_s = task, always_wrong, now_and_then, latency_s
        self.known = dict(task.answers)
        self.pool = list(task.answers)

    def reply(self, request: WireRequest) -> WireReply:
        """Answer one request: the same one always alike."""
        blocks: dict[str, str] = {}
        for match in _BLOCK.finditer(request.user):
            blocks.setdefault(match[1], match[3])
        rng = random.Random(f"{request.system}\n{request.user}")
        match request.schema_name:
            case "WorkedSolution" | "DirectAnswer":
                solution, answer = self.solved(rng, blocks.get("input", ""))
                said = {"solution": solution, "answer": answer}
                value = said if request.schema_name == "WorkedSolution" else {"answer": answer}
            case "NewInputs":
                value = {"inputs": [self.written(rng, cell, blocks) for cell in _objects(blocks.get("cells", ""))]}
            case "Derivation":
                solution, answer = self.known.get(blocks.get("input", ""), ("It follows.", blocks.get("answer", "")))
                value = {"objection": "", "solution": solution, "answer": blocks.get("answer", answer)}
            case "PolicyDraft":
                value = demo_teacher.answer(request.system, request.user, request.schema_name)
                value |= {
                    "topics": ["money", "time", "food", "travel", "school"],
                    "choices": [],
                    "checker": "normalized",
                }
            case _:
                value = demo_teacher.answer(request.system, request.user, request.schema_name)
        return Says(value, delay_s=self.latency_s * rng.uniform(0.5, 1.5))

    def solved(self, rng: random.Random, text: str) -> tuple[str, str]:
        """The recorded solution, or a wrong one."""
        solution, answer = self.known.get(text, ("I am not sure how to read this, so I take the most likely.", ""))
        misread = random.Random(text)
        if not answer:
            return solution, self.task.wrong(rng, rng.choice(self.pool))
        if misread.random() < self.always:
            return solution, self.task.wrong(misread, text)
        return (solution, self.task.wrong(rng, text)) if rng.random() < self.sometimes else (solution, answer)

    def written(self, rng: random.Random, cell: dict[str, Any], blocks: dict[str, str]) -> str:
        """An input as a teacher writes it: mostly new, sometimes one of the ways in which it is not."""
        wanted = cell.get("answer", "")
        fitting = [text for text in self.pool if not wanted or self.task.answers[text][1] == wanted] or self.pool
        text = rng.choice(self.pool if rng.random() < OFF_TARGET else fitting)
        shown = [row["input"] for row in _objects(blocks.get("examples", "")) if "input" in row]
        draw = rng.random()
        if draw < COPIED and shown:
            return rng.choice(shown)
        if draw < COPIED + REWORDED:
            return self._variant(self.task.reworded(rng, text), text, self.task.answers[text][1])
        if draw < COPIED + REWORDED + RENUMBERED and self.task.renumbered is not None:
            return self._variant(self.task.renumbered(rng, text), text, self.task.wrong(rng, text))
        return text

    def _variant(self, variant: str, text: str, answer: str) -> str:
        self.known.setdefault(variant, (self.task.answers[text][0], answer))
        return variant


def _objects(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]


def gsm8k(path: Path) -> Task:
    """Word problems with a number for an answer."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Task(
        "Solve the word problem. Answer with the number alone.",
        {row["input"]: (row["thinking"], row["output"]) for row in rows},
        lambda rng, text: _NAME.sub(rng.choice(["Priya", "Omar", "Ingrid"]), text).replace(" how ", " exactly how "),
        lambda rng, text: _NUMBER.sub(lambda _: str(rng.randint(2, 90)), text, count=1),
        lambda rng, text: str(rng.choice([1, 2, 5, 10, 60]) + sum(map(ord, text)) % 50),
    )


def banking77_rows(path: Path) -> dict[str, str]:
    """Customers' questions to a bank, each with its intent."""
    with path.open(encoding="utf-8", newline="") as file:
        return {" ".join(row["text"].split()): row["category"] for row in csv.DictReader(file)}


def banking77(path: Path) -> Task:
    """Customers' questions to a bank, with one of ten intents for an answer."""
    texts = {text: intent for text, intent in banking77_rows(path).items() if intent in INTENTS}
    return banking_task(texts, f"Name the customer's intent. One of: {', '.join(INTENTS)}.")


def banking_task(texts: dict[str, str], instruction: str) -> Task:
    """The task of naming the intents of these texts."""
    intents = sorted(set(texts.values()))
    return Task(
        instruction,
        {
            text: (f"The customer writes about this: {intent.replace('_', ' ')}.", intent)
            for text, intent in texts.items()
        },
        lambda rng, text: rng.choice(["Hi, {}", "{} Please help.", "Hello there. {}"]).format(text),
        None,
        lambda rng, text: rng.choice([intent for intent in intents if intent != texts.get(text)]),
    )


def seeds_of(task: Task, per_class: int | None, count: int) -> list[dict[str, str]]:
    """Seeds drawn from the recording: so many of each answer, or so many in all."""
    texts = sorted(task.answers)
    random.Random(0).shuffle(texts)
    taken: Counter[str] = Counter()
    seeds: list[dict[str, str]] = []
    for text in texts:
        answer = task.answers[text][1]
        if len(seeds) < count if per_class is None else taken[answer] < per_class:
            taken[answer] += 1
            seeds.append({"input": text, "output": answer})
    return seeds


Call = Callable[..., Awaitable[dict[str, Any]]]


@asynccontextmanager
async def agent(home: Path) -> AsyncGenerator[Call, None]:
    """A server on a data directory, and the function that calls its tools."""
    environment = {**os.environ, "NANODISTILL_HOME": str(home), "RECORDED_KEY": "recorded-teacher-key"}
    server = StdioServerParameters(command=sys.executable, args=["-m", "nanodistill_mcp", "serve"], env=environment)
    async with Client(server) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments, read_timeout_seconds=120)
            if result.is_error or result.structured_content is None:
                raise RuntimeError("".join(getattr(block, "text", "") for block in result.content))
            return result.structured_content

        yield call


async def finish(call: Call, name: str, stage: str, **arguments: Any) -> dict[str, Any]:
    """Carry a stage out."""
    reply = await call(stage, run_id=name, wait_s=30, **arguments)
    while reply["state"] in {"queued", "running"}:
        await call("get_status", run_id=name, wait_s=30)
        reply = await call(stage, run_id=name, wait_s=30)
    if reply["state"] != "done":
        raise RuntimeError(f"{stage} {reply['state']}: {reply['message']}")
    return reply


async def run(home: Path, name: str, task: Task, seeds: list[dict[str, str]], examples: int) -> dict[str, Any]:
    """Drive the paid stages as an agent does, and time them."""
    async with agent(home) as call:
        created = await call(
            "create_run",
            name=name,
            seed=seeds,
            instruction=task.instruction,
            teacher="recorded",
            student=str(student_path()),
            augment_factor=max(1, round(examples / len(seeds))),
            budget_usd=10,
            options={"teacher_concurrency": 32},
        )
        took_s: dict[str, float] = {}
        results: dict[str, Any] = {}
        reply: dict[str, Any] = {}
        for stage in PAID:
            began = time.monotonic()
            reply = await finish(call, name, stage, **({"target_size": examples} if stage == "amplify" else {}))
            took_s[stage] = time.monotonic() - began
            results[stage] = reply["result"]
        return {"plan": created["plan"], "took_s": took_s, "results": results, "spend": reply["spend"]}


def report(name: str, known: dict[str, tuple[str, str]], folder: Path, found: dict[str, Any]) -> None:
    """Print what a run came to, beside what the recording knows to be right."""
    ceiling, amplified, spend = (
        found["results"]["synthesize_cot"]["ceiling"],
        found["results"]["amplify"],
        found["spend"],
    )
    rows = [json.loads(line) for line in (folder / "traces_amplified.jsonl").read_text(encoding="utf-8").splitlines()]
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    made = [row for row in rows if row["origin"] == "synthetic"]
    wrong = [row for row in made if known[row["input"]][1] != row["output"]]
    print(f"\n## {name}\n")
    print(f"- the teacher's ceiling: {ceiling['decision']}. {ceiling['why']}")
    print(f"- accepted {len(made)} generated rows, {len(rejected)} set aside; stopped by {amplified['stopped_by']}")
    print(f"- accepted with a wrong answer: {len(wrong)} of {len(made)} ({len(wrong) / max(1, len(made)):.1%})")
    minutes = found["took_s"]["amplify"] / 60
    print(
        f"- amplify: {len(made) / minutes:.0f} accepted rows a minute; {spend['calls']} calls; ${spend['cost_usd']:.3f}"
    )
    plan = found["plan"]
    print(
        f"- planned: {plan['teacher_calls']['low']:.0f}-{plan['teacher_calls']['high']:.0f} calls, {plan['cost_usd']}"
    )
    print("\n| filter | in | out |\n|---|---|---|")
    for line in amplified["yield_by_filter"]:
        print(f"| {line['filter']} | {line['in']} | {line['out']} |")
    print(f"\nset aside: {amplified['rejected']}; diversity: {amplified['diversity']}")


def main() -> int:
    """Run the named task once for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["gsm8k", "banking77"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=20, help="seeds of gsm8k (default 20)")
    parser.add_argument("--seeds-per-class", type=int, nargs="+", default=[10, 3, 1], help="one run each (banking77)")
    parser.add_argument("--examples", type=int, default=300, help="examples wanted (default 300)")
    parser.add_argument("--latency-s", type=float, default=0.5)
    parser.add_argument("--always-wrong", type=float, default=0.04)
    parser.add_argument("--now-and-then", type=float, default=0.04)
    parser.add_argument("--price-as", default="gpt-4.1-mini", help="whose list price (default gpt-4.1-mini)")
    parser.add_argument("--home", type=Path, help="keep the runs here")
    arguments = parser.parse_args()
    task = {"gsm8k": gsm8k, "banking77": banking77}[arguments.task](arguments.data)
    sizes: list[int | None] = [None] if arguments.task == "gsm8k" else arguments.seeds_per_class
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        home.mkdir(mode=0o700, exist_ok=True)
        for per_class in sizes:
            teacher = RecordedTeacher(task, arguments.always_wrong, arguments.now_and_then, arguments.latency_s)
            with WireServer(teacher.reply) as server:
                endpoint = {
                    "model": f"openai/{arguments.price_as}",
                    "api_base": server.openai_url,
                    "api_key_env": "RECORDED_KEY",
                }
                config = {"teachers": {"recorded": endpoint}, "allowed_paths": [str(student_path())]}
                (home / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
                name = arguments.task if per_class is None else f"{arguments.task}-{per_class}"
                seeds = seeds_of(task, per_class, arguments.seeds)
                found = anyio.run(run, home, name, task, seeds, arguments.examples)
            report(name, teacher.known, home / "runs" / name, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
