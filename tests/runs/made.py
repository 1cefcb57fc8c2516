"""Runs made for a test: small, whole, and like those create_run makes."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.demo import task
from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.seeds import digest
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Example, JobRequest, Plan, Range, RunManifest, RunSpec, Seed, Stage
from nanodistill_mcp.runs.store import Run, RunStore, now

SEEDS = [Seed(id=f"s{i:04d}", input=f"question {i}", output=f"answer {i}", split="train") for i in range(1, 6)]


def manifest(run_id: str = "tickets", **spec: Any) -> RunManifest:
    """A manifest; ``spec`` replaces fields of what was asked for."""
    asked: dict[str, Any] = {
        "instruction": "Sort the ticket.",
        "teacher": "local",
        "student": "/models/tiny",
        "augment_factor": 50,
        "reasoning": "cot",
        "response_schema": {},
        "preset": "recommended",
        "options": {},
        "budget_usd": 5.0,
        "seeds_sha256": digest(SEEDS),
    }
    several = Range(low=1, high=2)
    plan = Plan(
        train_seeds=4,
        held_out=1,
        target_examples=200,
        teacher_calls=several,
        teacher_tokens=several,
        cost_usd=None,
        train_updates=100,
        disk_gb=1.0,
    )
    return RunManifest(
        run_id=run_id,
        created_at=now(),
        package_version="0",
        spec=RunSpec(**{**asked, **spec}),
        plan=plan,
        teacher_model="openai/desk",
        usd_per_mtok=None,
        key_variables=[],
    )


def make_run(home: Path, run_id: str = "tickets") -> Run:
    """A run in a data directory."""
    run, created = RunStore(home).create(manifest(run_id), SEEDS)
    assert created
    return run


def begin_job(run: Run, stage: Stage, **arguments: Any) -> Job:
    """The run's next job, in this process, as a worker begins it: it is asked for, and the run's lock is held."""
    paths = JobPaths(run.paths.jobs / f"{len(run.paths.job_list()) + 1:03d}-{stage}")
    paths.root.mkdir(mode=0o700, parents=True)
    request = JobRequest(stage=stage, nonce="n", requested_at=now(), arguments=arguments)
    write_json(paths.request, request.model_dump())
    lock = open_lock(run.paths.worker_lock)
    assert try_lock(lock)
    return Job(run, paths, request, lock)


def put_demo_examples(run: Run) -> None:
    """Give a run the demo's rows as if they had been amplified."""
    examples = [
        Example(
            id=f"g{number}", input=row["input"], thinking="Clues.", output=row["output"], confidence=1.0,
            origin="synthetic", parents=[], call_ids=[],
        )
        for number, row in enumerate(task.seeds())
    ]  # fmt: skip
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
