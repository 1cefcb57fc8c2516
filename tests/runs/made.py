"""Runs made for a test: small, whole, and like those create_run makes."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.runs.records import Plan, Range, RunManifest, RunSpec, Seed
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
        "seeds_sha256": "0" * 64,
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
