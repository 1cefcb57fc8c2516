"""A run whose paid stages are carried out in this process: the worker's own code, with a teacher behind real HTTP."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanodistill_mcp.demo import task
from nanodistill_mcp.jobs.supervise import Job, carry_out
from nanodistill_mcp.pipeline.seeds import digest, split
from nanodistill_mcp.pipeline.stages import STAGES
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.records import Exit, Stage
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.settings import BudgetSettings
from tests.conftest import KEY, SECRET, ScriptedTeacher
from tests.runs.made import begin_job, manifest


@dataclass
class PaidRun:
    """One run, its teacher, and what the stages wrote."""

    home: Path
    teacher: ScriptedTeacher
    rows: list[tuple[str, str]] = field(default_factory=lambda: [(row["input"], row["output"]) for row in task.seeds()])
    spec: dict[str, Any] = field(default_factory=dict[str, Any])
    held_out_share: float | None = None
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        seeds = split(self.rows, self.held_out_share, 0)
        asked = {"instruction": task.INSTRUCTION, **self.spec, "seeds_sha256": digest(seeds)}
        made = manifest("paid", **asked).model_copy(update={"usd_per_mtok": (2.0, 10.0)})
        self.run, _ = RunStore(self.home).create(made, seeds)
        os.environ[KEY] = SECRET

    async def stage(self, name: Stage, **arguments: Any) -> Exit:
        """Carry a stage out, as a worker does."""
        return await self.carry_out(name, STAGES[name], **arguments)

    async def carry_out(self, name: Stage, work: Callable[[Job], Awaitable[dict[str, Any]]], **arguments: Any) -> Exit:
        """Carry out as a worker does, under the name of a stage."""
        endpoint = {"name": "local", "model": "openai/desk", "api_base": self.teacher.url, "api_key_env": KEY}
        common = {
            "endpoint": {**endpoint, "usd_per_mtok": [2, 10]},
            "ceilings": BudgetSettings(usd_per_run=5, usd_per_day=50).model_dump(),
            "ledger_dir": str(self.home / "ledger"),
            "capabilities_path": str(self.home / "capabilities.json"),
        }
        ended = await carry_out(begin_job(self.run, name, **{**common, **arguments}), work)
        assert ended is not None
        return ended

    async def summary(self, name: Stage, **arguments: Any) -> dict[str, Any]:
        """Carry a stage out that must succeed; what it found."""
        ended = await self.stage(name, **arguments)
        assert ended.outcome == "done", (ended.what, ended.next_step)
        return ended.summary

    def written(self, path: Path) -> list[dict[str, Any]]:
        """The rows of one of the run's files."""
        return list(read_lines(path))

    def asked_for(self, schema_name: str) -> int:
        """How many questions of a shape reached the teacher."""
        return sum(request.schema_name == schema_name for request in self.teacher.asked)
