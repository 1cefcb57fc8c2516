"""Whoever is killed while a student is trained, evaluated and exported: it comes out as if nothing had happened."""

import hashlib
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.jobs.locks import is_held
from nanodistill_mcp.jobs.processes import is_same
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import WorkerRecord
from nanodistill_mcp.runs.store import Run, read_record
from tests.conftest import SHORT, Agent, Bench
from tests.crash.deaths import connect_by_host, find_host, find_server, is_gone, process_of, until
from tests.crash.points import everything_reads
from tests.server.made import RUN, amplified_run

pytestmark = [pytest.mark.crash, pytest.mark.slow]

KINDS = ("worker", "trainer", "server", "host")
STAGES = ("train", "evaluate", "export_gguf")
TRAINING = {**SHORT, "batch_size": 2, "num_train_epochs": 8}
PRODUCTS = (
    *("dataset/train.jsonl", "dataset/valid.jsonl", "dataset/test.jsonl", "model/adapters/adapters.safetensors"),
    *("model/adapters/adapter_config.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json"),
    *("answers.jsonl", "evaluation.json", "model.gguf", "Modelfile"),
)


@dataclass
class Way:
    """One run on its way from its examples to the GGUF file, through as many processes as that takes."""

    bench: Bench
    kills: list[tuple[str, str, float]]
    """In which stage, whom, and how long after such a process was seen; in the order of the stages."""
    killed: Counter[str] = field(default_factory=Counter[str])
    at: Counter[str] = field(default_factory=Counter[str])
    stage: str = ""

    @property
    def run(self) -> Run:
        return Run(RunPaths(self.bench.run_folder(RUN)))

    async def go(self) -> None:
        """To the end."""
        with anyio.fail_after(1200):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._kill)
                while not await self._carried_to_the_end():
                    pass
                tasks.cancel_scope.cancel()

    async def _carried_to_the_end(self) -> bool:
        killed = self.killed.total()
        try:
            async with connect_by_host(self.bench) as agent:
                for self.stage in STAGES:
                    await self._finish(agent)
        except Exception:  # noqa: BLE001 - a client meets a server's death in many ways, none of which is the matter here
            with anyio.fail_after(5):
                while self.killed.total() == killed:
                    await anyio.sleep(0.01)
            return False
        return True

    async def _finish(self, agent: Agent) -> None:
        arguments: dict[str, Any] = {"options": TRAINING} if self.stage == "train" else {}
        with anyio.fail_after(300):
            while True:
                deaths = self.killed.total()
                call = {"run_id": RUN, "wait_s": 20, **arguments}
                result = await agent.client.call_tool(self.stage, call)
                reply: dict[str, Any] = result.structured_content or {}
                if result.is_error:
                    assert self.killed.total() > deaths, result.content
                    continue
                if reply["state"] == "done":
                    return
                if reply["state"] == "failed":
                    assert "was ended by SIGKILL" in reply["message"], reply["message"]
                assert reply["state"] in ("queued", "running", "interrupted", "failed"), reply

    async def _kill(self) -> None:
        for stage, kind, moment_s in self.kills:
            find = {"worker": self._worker, "trainer": self._trainer, "server": find_server, "host": find_host}[kind]
            await until(lambda stage=stage: STAGES.index(self.stage or "train") >= STAGES.index(stage) or None)
            await until(self._worker)
            await anyio.sleep(moment_s)  # the moment itself, drawn at random: there is nothing to wait for
            process = await until(find)
            try:
                if kind == "host":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue  # it had just ended by itself
            await until(lambda process=process: is_gone(process) or None)
            self.killed[kind] += 1
            self.at[self.stage or "train"] += 1
            everything_reads(self.run.paths, f"{kind} killed in {self.stage}")

    def _worker(self) -> psutil.Process | None:
        record = self._record()
        return process_of(record.worker.pid) if record and is_same(record.worker) else None

    def _trainer(self) -> psutil.Process | None:
        record = self._record()
        known = record and record.trainer
        return process_of(known.pid) if known and is_held(self.run.paths.trainer_lock) and is_same(known) else None

    def _record(self) -> WorkerRecord | None:
        job = active_job(self.run)
        return read_record(job.worker, WorkerRecord) if job else None


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(_TIMES.sub(b"", (folder / name).read_bytes())).hexdigest() for name in PRODUCTS}


_TIMES = re.compile(rb'"(seconds_per_answer|tokens_per_second)": [0-9.]+')


@pytest.mark.timeout(7200)
async def test_a_student_comes_out_the_same_whoever_was_killed_on_the_way(
    bench: Bench, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The adapter, the fused model, every answer and the GGUF file, to the bit."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    count = int(os.environ.get("CRASH_KILLS", "40"))
    print(f"repeat with CRASH_SEED={seed} CRASH_KILLS={count}")
    draw = random.Random(seed)
    amplified_run(bench)
    await Way(bench, []).go()
    expected = _hashes(bench.run_folder(RUN))
    bench.run_folder(RUN).rename(tmp_path / "undisturbed")
    killed, at, runs = Counter[str](), Counter[str](), 0
    while killed.total() < count:
        amplified_run(bench)
        stages = sorted(draw.choices(STAGES, k=draw.randint(3, 8)), key=STAGES.index)
        kills = [(stage, draw.choice(KINDS), draw.uniform(0, draw.choice((0.5, 4.0)))) for stage in stages]
        way = Way(bench, kills[: count - killed.total()])
        await way.go()
        found = _hashes(bench.run_folder(RUN))
        assert found == expected, [name for name in PRODUCTS if found[name] != expected[name]]
        bench.run_folder(RUN).rename(tmp_path / f"run-{runs}")
        killed, at, runs = killed + way.killed, at + way.at, runs + 1
    kinds = ", ".join(f"{killed[kind]} {kind}" for kind in KINDS)
    stages = ", ".join(f"{at[stage]} in {stage}" for stage in STAGES)
    record_property(
        "measured",
        f"{killed.total()} kills ({kinds}; {stages}) over {runs} runs: adapter, fused model, answers and GGUF file the same "
        f"to the bit as an undisturbed run's [CRASH_SEED={seed} CRASH_KILLS={count}]",
    )
