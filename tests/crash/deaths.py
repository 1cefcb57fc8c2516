"""Deaths at drawn moments over the paid stages of a run, and what the journal and the teacher's own server saw of them."""

import json
import os
import random
import signal
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import psutil
from mcp import Client, StdioServerParameters

from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.jobs.processes import is_same
from nanodistill_mcp.runs.journal import JournalReading, Record, in_doubt, read_journal
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import WorkerRecord
from nanodistill_mcp.runs.store import Run, read_record
from tests.conftest import Agent, Bench

T = TypeVar("T")
Kind = Literal["worker", "server", "host"]

KINDS: tuple[Kind, ...] = ("worker", "server", "host")
STAGES = ("synthesize_cot", "extract_policy", "amplify")
CONCURRENCY = 8
PRODUCTS = ("traces_cot.jsonl", "policy.json", "traces_amplified.jsonl", "rejected.jsonl")

HOST = str(Path(__file__).with_name("host_program.py"))
_WAIT_S = 120.0
_POLL_S = 0.002


@dataclass(frozen=True)
class Kill:
    """Whom to kill, and when: so many questions after the last kill, and a moment later."""

    kind: Kind
    questions: int
    moment_s: float


def kills(seed: int, count: int) -> deque[Kill]:
    """As many of each kind, at moments from the start of a process to the middle of its work."""
    draw = random.Random(seed)
    kinds: list[Kind] = [KINDS[number % len(KINDS)] for number in range(count)]
    draw.shuffle(kinds)
    return deque(
        Kill(kind, draw.randint(0, draw.choice((4, 30))), draw.uniform(0, draw.choice((0.01, 0.01, 1.0))))
        for kind in kinds
    )


@dataclass
class Tally:
    """What was found, over all runs."""

    killed: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    questions: int = 0
    answers: int = 0
    asked_twice: int = 0
    begun_twice_at_worst: int = 0

    def line(self) -> str:
        """The figures of the promise."""
        limit = CONCURRENCY * self.killed["worker"]
        kinds = ", ".join(f"{self.killed[kind]} {kind}" for kind in KINDS)
        return (
            f"{self.killed.total()} kills ({kinds}) over {self.runs} runs and {self.questions} questions: 0 of "
            f"{self.answers} answers lost, {self.asked_twice} asked twice (limit {limit}), at most "
            f"{self.begun_twice_at_worst} after one worker's death (limit {CONCURRENCY}), 0 after a server's or host's, "
            "all files as in an undisturbed run"
        )


@dataclass
class Course:
    """One run on its way through the paid stages, while its processes are killed."""

    bench: Bench
    name: str
    examples_per_seed: int
    waiting: deque[Kill]
    killed: list[tuple[Kill, JournalReading]] = field(default_factory=list[tuple[Kill, JournalReading]])
    asked_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.asked_before = len(self.bench.teacher.asked)

    @property
    def run(self) -> Run:
        return Run(RunPaths(self.bench.run_folder(self.name)))

    async def go(self) -> None:
        """To the end of the paid stages, through as many servers and workers as that takes."""
        with anyio.fail_after(20 * _WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._kill)
                while not await self._carried_to_the_end():
                    pass
                tasks.cancel_scope.cancel()

    async def _carried_to_the_end(self) -> bool:
        """Go on with a new server. False when it is killed."""
        killed = len(self.killed)
        try:
            async with connect_by_host(self.bench) as agent:
                await agent.create(
                    self.name,
                    augment_factor=self.examples_per_seed,
                    budget_usd=20,
                    options={"teacher_concurrency": CONCURRENCY},
                )
                for stage in STAGES:
                    await self._finish(agent, stage)
        except Exception:  # a client meets a server's death in many ways, none of which is the matter here
            if len(self.killed) == killed:
                with anyio.fail_after(5):  # the kill may be noted a moment after it is felt
                    while len(self.killed) == killed:
                        await anyio.sleep(_POLL_S)
            if not any(kill.kind != "worker" for kill, _ in self.killed[killed:]):
                raise
            return False
        return True

    async def _finish(self, agent: Agent, stage: str) -> None:
        """Call a stage until it is done, as an agent does that reads the reply and calls again."""
        with anyio.fail_after(_WAIT_S):
            while True:
                deaths = self._deaths_of_workers()
                result = await agent.client.call_tool(stage, {"run_id": self.name, "wait_s": 20})
                reply: dict[str, Any] = result.structured_content or {}
                if result.is_error:  # it died before it could report in
                    assert self._deaths_of_workers() > deaths, result.content
                elif reply["state"] == "done":
                    return
                else:
                    assert reply["state"] in ("queued", "running", "interrupted"), reply

    def _deaths_of_workers(self) -> int:
        return sum(kill.kind == "worker" for kill, _ in self.killed)

    async def _kill(self) -> None:
        while self.waiting:
            kill = self.waiting[0]
            goal = len(self.bench.teacher.asked) + kill.questions
            await until(lambda goal=goal: len(self.bench.teacher.asked) >= goal)
            await anyio.sleep(kill.moment_s)  # the moment itself, drawn at random: there is nothing to wait for
            process = await until({"worker": self._worker, "server": find_server, "host": find_host}[kill.kind])
            try:
                if kill.kind == "host":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue  # it had just ended by itself
            await until(lambda process=process: is_gone(process) or None)
            self.waiting.popleft()
            self.killed.append((kill, read_journal(self.run.paths.calls)))

    def _worker(self) -> psutil.Process | None:
        if not self.run.paths.root.exists() or (job := active_job(self.run)) is None:
            return None
        record = read_record(job.worker, WorkerRecord)
        return psutil.Process(record.worker.pid) if record is not None and is_same(record.worker) else None

    def check(self, tally: Tally, undisturbed: Path) -> None:
        """Hold what is on disk, and what the teacher's server was asked, against the promise."""
        reading = read_journal(self.run.paths.calls)
        records = reading.records
        assert reading.damaged_lines == reading.torn_bytes == 0
        for kill, before in self.killed:
            assert before.damaged_lines == 0
            assert records[: len(before.records)] == before.records, f"a record was lost when {kill} struck"

        answered: set[str] = set()
        for record in records:
            assert record["kind"] != "intent" or record["call_id"] not in answered, "what is answered was asked again"
            if record["kind"] == "answer":
                answered.add(record["call_id"])

        begun_again = self._begun_again(records)
        deaths = self._deaths_of_workers()
        assert all(number <= CONCURRENCY for number in begun_again.values()), begun_again
        assert len(in_doubt(records)) <= CONCURRENCY * deaths

        asked = [json.dumps(each.body, sort_keys=True) for each in self.bench.teacher.asked[self.asked_before :]]
        asked_twice = len(asked) - len(set(asked))
        assert len(asked) <= sum(record["kind"] == "intent" for record in records), "a question left without an intent"
        assert asked_twice <= begun_again.total()
        workers = [job.root.name for job in self.run.paths.job_list() if job.worker.exists()]
        # A server killed while it started a job leaves a folder in which no worker ever reported.
        assert len(workers) <= len(STAGES) + deaths, f"a second worker where the first one lived: {workers}"
        for product in PRODUCTS:
            assert (self.run.paths.root / product).read_bytes() == (undisturbed / product).read_bytes(), product

        tally.killed.update(kill.kind for kill, _ in self.killed)
        tally.runs += 1
        tally.questions += len(set(asked))
        tally.answers += len(answered)
        tally.asked_twice += asked_twice
        tally.begun_twice_at_worst = max([tally.begun_twice_at_worst, *begun_again.values()])

    def _begun_again(self, records: list[Record]) -> Counter[int]:
        """How many questions were begun a second time, by the worker's death that lies between.

        Raises:
            AssertionError: Between the two no worker died.
        """
        ends = sorted(len(before.records) for kill, before in self.killed if kill.kind == "worker")
        again: Counter[int] = Counter()
        last: dict[str, int] = {}
        for index, record in enumerate(records):
            if record["kind"] != "intent":
                continue
            if (earlier := last.get(record["call_id"])) is not None:
                death = next((number for number, end in enumerate(ends) if earlier < end <= index), None)
                assert death is not None, "a question was begun twice by the same worker"
                again[death] += 1
            last[record["call_id"]] = index
        return again


@asynccontextmanager
async def connect_by_host(bench: Bench) -> AsyncGenerator[Agent, None]:
    """An agent whose server was started by a host in between, which can be killed as well."""
    server = [sys.executable, "-m", "nanodistill_mcp", "serve"]
    parameters = StdioServerParameters(command=sys.executable, args=[HOST, *server], env=bench.env)
    async with Client(parameters) as client:
        yield Agent(client)


def process_of(pid: int) -> psutil.Process | None:
    """The process, while it lives."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def find_host() -> psutil.Process | None:
    """The client that this process started."""
    return child_of(psutil.Process(), HOST)


def find_server() -> psutil.Process | None:
    """That client's server."""
    host = find_host()
    return host and child_of(host, "nanodistill_mcp")


def child_of(parent: psutil.Process, word: str) -> psutil.Process | None:
    """The child whose command line has a word in it."""
    try:
        return next((child for child in parent.children() if word in child.cmdline()), None)
    except psutil.Error:  # it ended between the looks
        return None


def is_gone(process: psutil.Process) -> bool:
    """Has it ended, whether or not its parent has looked?"""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(found: Callable[[], T | None]) -> T:
    """Wait for something. The course as a whole has a limit of time."""
    while not (value := found()):
        await anyio.sleep(_POLL_S)
    return value
