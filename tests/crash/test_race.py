"""An agent that starts run after run, from two clients at once, meets one limit that the user set once."""

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from nanodistill_mcp.demo import task, teacher
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from nanodistill_mcp.pipeline.seeds import digest, split
from nanodistill_mcp.runs.journal import read_journal, spend_of
from nanodistill_mcp.runs.store import RunStore
from tests.conftest import KEY, Agent, Bench
from tests.runs.made import manifest

pytestmark = pytest.mark.race

CALLS_PER_RUN = 10
OUTPUT_TOKENS = 900
USD_PER_TOKEN = (Fraction(2, 10**6), Fraction(10, 10**6))
SAYS = {
    "usd": "that all runs may spend in a day are left.",
    "calls": "calls that all runs may make in a day are made.",
}


@pytest.mark.parametrize(
    "starts",
    [pytest.param(4, id="sample"), pytest.param(50, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
@pytest.mark.parametrize("cap", ["usd", pytest.param("calls", marks=pytest.mark.slow)])
async def test_two_servers_racing_starts_against_one_day_never_pass_it_by_a_cent_or_a_call(
    bench: Bench, starts: int, cap: Literal["usd", "calls"], record_property: Callable[[str, object], None]
) -> None:
    """Each start is asked of both servers at the same moment: one worker does it, and the day is one day for all of them."""
    cap_usd, cap_calls = Fraction(5 * starts, 100), CALLS_PER_RUN * starts * 6 // 10
    bench.configure(budget={"usd_per_day": float(cap_usd)} if cap == "usd" else {"calls_per_day": cap_calls})
    bench.teacher.script = _billed
    names = [f"run-{number:02d}" for number in range(starts)]
    for name in names:
        _create(bench.home, name)
    told: list[dict[str, Any]] = []

    async def start(agent: Agent, name: str) -> None:
        told.append(await agent.call("synthesize_cot", run_id=name, wait_s=0))

    async def end(agent: Agent, name: str) -> None:
        status = await agent.call("get_status", run_id=name, wait_s=20)
        while status["running"]:
            status = await agent.call("get_status", run_id=name, wait_s=20)
        told.append(next(stage for stage in status["stages"] if stage["stage"] == "synthesize_cot"))

    async with bench.connect() as one, bench.connect() as other:
        for name in names:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start, one, name)
                tasks.start_soon(start, other, name)
        told.clear()
        for name in names:
            await end(one, name)

    assert all(len(list((bench.run_folder(name) / "jobs").iterdir())) == 1 for name in names), "a start lost or doubled"
    ends = Counter(stage["state"] for stage in told)
    assert ends.keys() <= {"done", "failed"}
    assert ends["failed"] > 0
    for name in names:
        (job,) = (bench.run_folder(name) / "jobs").iterdir()
        ended = json.loads((job / "exit.json").read_text(encoding="utf-8"))
        if ended["outcome"] == "failed":
            assert SAYS[cap] in ended["what"], ended
            assert "after midnight UTC, or raise the day's ceiling under budget" in ended["next_step"]

    asked = bench.teacher.asked
    usd = sum((_price(request) for request in asked), Fraction())
    journals = [read_journal(bench.run_folder(name) / "calls.jsonl").records for name in names]
    spent = [spend_of(records) for records in journals]
    assert sum(each.calls for each in spent) == len(asked)
    assert sum(each.in_doubt_calls + each.failed_calls for each in spent) == 0
    assert sum(each.usd for each in spent) == pytest.approx(float(usd))
    (day,) = (bench.home / "ledger").iterdir()
    highest, total, calls = _ledger(day)
    assert float(total) == pytest.approx(float(usd))
    assert calls == len(asked)
    if cap == "usd":
        assert usd <= highest <= cap_usd
    else:
        assert len(asked) == cap_calls, "the last call of the day is made, and not one more"
    limit = f"${float(cap_usd):.2f}" if cap == "usd" else f"{cap_calls} calls"
    record_property(
        "measured",
        f"{starts} starts raced by two servers against {limit} a day: ${float(usd):.4f} in {len(asked)} calls asked of the "
        f"teacher, 0 starts lost or doubled, {ends['done']} stages done, {ends['failed']} stopped with the ceiling's name",
    )


def _create(home: Path, name: str) -> None:
    """A run as create_run makes it, without its look at the teacher, which takes longer than a start."""
    seeds = split([(row["input"], row["output"]) for row in task.seeds()], None, 0)
    made = manifest(name, instruction=task.INSTRUCTION, student=str(student_path()), seeds_sha256=digest(seeds))
    RunStore(home).create(made.model_copy(update={"usd_per_mtok": (2.0, 10.0), "key_variables": [KEY]}), seeds)


def _billed(request: WireRequest) -> WireReply:
    answer = teacher.answer(request.system, request.user, request.schema_name)
    return Says(answer, input_tokens=_input_tokens(request), output_tokens=OUTPUT_TOKENS)


def _input_tokens(request: WireRequest) -> int:
    return (len(request.system) + len(request.user)) // 4


def _price(request: WireRequest) -> Fraction:
    return _input_tokens(request) * USD_PER_TOKEN[0] + OUTPUT_TOKENS * USD_PER_TOKEN[1]


def _ledger(day: Path) -> tuple[Fraction, Fraction, int]:
    """The highest the ledger ever stood at in dollars, where it stands, and how many calls it counts."""
    total = highest = Fraction()
    calls = 0
    for line in day.read_text(encoding="utf-8").splitlines():
        change = json.loads(line)
        total += Fraction(change["usd"]).limit_denominator(10**12)
        highest = max(highest, total)
        calls += change["calls"]
    return highest, total, calls
