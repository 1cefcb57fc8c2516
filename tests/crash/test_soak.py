"""Hours of runs and deaths on end: nothing grows, nothing stays behind, and no cent goes uncounted."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from nanodistill_mcp.demo import teacher
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.runs.journal import read_journal, spend_of
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import WorkerRecord
from nanodistill_mcp.runs.store import Run, read_record
from tests.conftest import SHORT, STAGES, Agent, Bench
from tests.crash.deaths import process_of

pytestmark = pytest.mark.soak

USD_PER_TOKEN = (2e-6, 10e-6)
OUTPUT_TOKENS = 40
CONCURRENCY = 8
_DEAD_FOR_S, _CLOSES_WITHIN_S, _LOOK_S = 1800, 60, 2.0
_MOST_DESCRIPTORS, _MOST_GROWTH_MB = 4, 24


@dataclass
class Lasting:
    """A server that is connected all the time, as an agent's is that looks at its runs now and then."""

    process: psutil.Process
    descriptors: list[int] = field(default_factory=list[int])
    megabytes: list[float] = field(default_factory=list[float])

    def measure(self) -> None:
        self.descriptors.append(self.process.num_fds())
        self.megabytes.append(self.process.memory_info().rss / 1e6)


@dataclass
class Soak:
    """Runs one after the other to their end, while somebody of theirs is killed every so often."""

    bench: Bench
    until_s: float
    every_s: float
    stages: tuple[str, ...]
    draw: random.Random
    lasting: Lasting
    runs: list[str] = field(default_factory=list[str])
    killed: Counter[str] = field(default_factory=Counter[str])
    zombies: set[int] = field(default_factory=set[int])
    billed_usd: float = 0.0

    def answer(self, request: WireRequest) -> WireReply:
        """The demo's teacher, with a bill that can be added up."""
        tokens = (len(request.system) + len(request.user)) // 4
        self.billed_usd += tokens * USD_PER_TOKEN[0] + OUTPUT_TOKENS * USD_PER_TOKEN[1]
        answer = teacher.answer(request.system, request.user, request.schema_name)
        return Says(answer, input_tokens=tokens, output_tokens=OUTPUT_TOKENS)

    async def go(self, agent: Agent) -> None:
        """Until the time is over and the run that was begun by then is at its end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._kill)
            tasks.start_soon(self._look, agent)
            while not self.runs or time.monotonic() < self.until_s:
                self.runs.append(f"soak-{len(self.runs):03d}")
                with anyio.fail_after(_DEAD_FOR_S):
                    while not await self._carried_to_the_end(self.runs[-1]):
                        pass
            tasks.cancel_scope.cancel()

    async def _carried_to_the_end(self, name: str) -> bool:
        """Go on with a new server. False when it is killed."""
        deaths = self.killed["server"]
        try:
            async with self.bench.connect() as agent:
                await agent.create(
                    name, augment_factor=3, options={**SHORT, "teacher_concurrency": CONCURRENCY}, budget_usd=20
                )
                for stage in self.stages:
                    while (await self._called(agent, stage, name))["state"] != "done":
                        pass
        except Exception:  # a client meets a server's death in many ways, none of which is the matter here
            if self.killed["server"] == deaths:
                raise
            return False
        return True

    async def _called(self, agent: Agent, stage: str, name: str) -> dict[str, Any]:
        """What a stage says of itself; a worker that dies before it reports in is an error that asks for the call again."""
        deaths = self.killed.total()
        result = await agent.client.call_tool(stage, {"run_id": name, "wait_s": 20})
        reply: dict[str, Any] = result.structured_content or {"state": "interrupted"}
        if result.is_error or reply["state"] in ("failed", "cancelled"):
            assert self.killed.total() > deaths or self.killed["student"], result.content
        return reply

    async def _kill(self) -> None:
        """Until the time is over, so that the last run gets to its end."""
        while time.monotonic() < self.until_s:
            await anyio.sleep(self.every_s)  # the kill's moment: there is nothing to wait for
            kinds = ["worker", "student", "server"]
            self.draw.shuffle(kinds)
            found = (
                (kind, {"worker": self._worker, "student": self._student, "server": self._server}[kind]())
                for kind in kinds
            )
            if victim := next(((kind, process) for kind, process in found if process), None):
                kind, process = victim
                self.killed[kind] += 1
                try:
                    process.kill()
                except psutil.NoSuchProcess:  # it had just ended by itself
                    self.killed[kind] -= 1

    async def _look(self, agent: Agent) -> None:
        dead_before: set[int] = set()
        while True:
            await agent.call("get_status")
            if self.runs and self._run(self.runs[-1]).paths.manifest.exists():
                await agent.call("get_status", run_id=self.runs[-1])
            self.lasting.measure()
            dead = {process.pid for process in ours(self.bench.home) if _is_zombie(process)}
            self.zombies |= dead & dead_before  # who was killed a moment ago is one until its parent looks
            dead_before = dead
            await anyio.sleep(_LOOK_S)

    async def none_left(self) -> None:
        """Wait for the last worker to close down, which takes it a moment after its last word."""
        with anyio.fail_after(_CLOSES_WITHIN_S):
            while [process for process in ours(self.bench.home) if process.pid != self.lasting.process.pid]:
                await anyio.sleep(0.1)

    def _run(self, name: str) -> Run:
        return Run(RunPaths(self.bench.run_folder(name)))

    def _worker(self) -> psutil.Process | None:
        if not self.runs or not self._run(self.runs[-1]).paths.root.exists():
            return None
        job = active_job(self._run(self.runs[-1]))
        record = read_record(job.worker, WorkerRecord) if job else None
        return process_of(record.worker.pid) if record else None

    def _student(self) -> psutil.Process | None:
        worker = self._worker()
        return next(iter(worker.children()), None) if worker else None

    def _server(self) -> psutil.Process | None:
        children = [child for child in psutil.Process().children() if child.pid != self.lasting.process.pid]
        return next((child for child in children if "nanodistill_mcp" in _words(child)), None)

    def check(self) -> tuple[float, float]:
        """Hold what is left against the promise; the ledger's dollars, and those the runs' journals say."""
        for name in self.runs:
            reading = read_journal(self._run(name).paths.calls)
            assert reading.damaged_lines == reading.torn_bytes == 0
        spends = [spend_of(read_journal(self._run(name).paths.calls).records) for name in self.runs]
        told_usd = sum(spend.usd + spend.in_doubt_usd for spend in spends)
        lines = [
            json.loads(line)
            for day in (self.bench.home / "ledger").iterdir()
            for line in day.read_text("utf-8").splitlines()
        ]
        ledger_usd = sum(line["usd"] for line in lines)
        worst_usd = max(line["usd"] for line in lines)
        deaths = self.killed["worker"]
        assert self.billed_usd <= ledger_usd + 1e-9, "a call was paid that no ledger knows"
        assert told_usd - 1e-9 <= ledger_usd <= told_usd + CONCURRENCY * deaths * worst_usd + 1e-9
        assert self.zombies == set()
        kept = self.lasting.descriptors[len(self.lasting.descriptors) // 4 :]
        grown = self.lasting.megabytes[-1] - self.lasting.megabytes[len(self.lasting.megabytes) // 4]
        assert max(kept) - min(kept) <= _MOST_DESCRIPTORS, kept
        assert grown <= _MOST_GROWTH_MB, self.lasting.megabytes
        return ledger_usd, told_usd


@pytest.mark.parametrize(
    ("soak_s", "every_s", "stages"),
    [
        pytest.param(8, 4, STAGES[:1], id="sample"),
        pytest.param(
            float(os.environ.get("SOAK_S", "7200")),
            30,
            STAGES,
            id="full",
            marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)],
        ),
    ],
)
async def test_after_hours_of_runs_and_deaths_nothing_has_grown_and_nothing_is_left_behind(
    bench: Bench, soak_s: float, every_s: float, stages: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    """What leaks a little with each run or death is seen by nobody in a test of a minute, and by everybody after a week."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"repeat with CRASH_SEED={seed}")
    bench.configure(budget={"usd_per_run": 20, "usd_per_day": 10_000})
    began_s = time.monotonic()
    async with bench.connect() as agent:
        lasting = Lasting(psutil.Process(bench.server_pid()))
        soak = Soak(bench, began_s + soak_s, every_s, stages, random.Random(seed), lasting)
        bench.teacher.script = soak.answer
        await soak.go(agent)
        await soak.none_left()
        lasting.measure()
        ledger_usd, told_usd = soak.check()
    kinds = ", ".join(f"{soak.killed[kind]} {kind}" for kind in ("worker", "student", "server"))
    first, last = lasting.megabytes[len(lasting.megabytes) // 4], lasting.megabytes[-1]
    record_property(
        "measured",
        f"{(time.monotonic() - began_s) / 60:.0f} minutes, {len(soak.runs)} runs to their end, {soak.killed.total()} kills "
        f"({kinds}): the server that was there all the time had {min(lasting.descriptors)} to {max(lasting.descriptors)} "
        f"descriptors and {first:.0f} MB, then {last:.0f} MB; 0 zombies, 0 processes left; the day's ledger ${ledger_usd:.4f}, the "
        f"runs' own sums ${told_usd:.4f}, billed by the teacher ${soak.billed_usd:.4f} [CRASH_SEED={seed}]",
    )


def ours(home: Path) -> list[psutil.Process]:
    """The processes that work in a data directory, and the servers this process started."""
    started = psutil.Process().children(recursive=True)
    named = [process for process in psutil.process_iter() if any(str(home) in word for word in _words(process))]
    return list({process.pid: process for process in [*started, *named]}.values())


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
