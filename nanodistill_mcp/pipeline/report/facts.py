"""Everything a report says, read from the run's folder once. What is not there is None or empty, never an error."""

import importlib.metadata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nanodistill_mcp import __version__
from nanodistill_mcp.pipeline.ceiling import ceiling
from nanodistill_mcp.pipeline.report.provenance import Base, base_of
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.pipeline.status import is_outdated
from nanodistill_mcp.pipeline.training_plan import stored_plan
from nanodistill_mcp.runs.files import read_object
from nanodistill_mcp.runs.journal import read_journal, spend_by_stage, spend_of
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import (
    PIPELINE,
    EffectiveExample,
    Example,
    Exit,
    Heartbeat,
    Rejected,
    RunManifest,
    Spend,
    Stage,
    Trace,
    WorkerRecord,
)
from nanodistill_mcp.runs.store import Run, read_record, read_records
from nanodistill_mcp.settings import HOST_TEACHER

_PACKAGES = ("mlx", "mlx-lm", "litellm", "instructor", "gguf", "xllamacpp", "numpy")
_EXAMPLES_SHOWN = 3
_SHORT_CHARS = 900


@dataclass(frozen=True)
class StageFacts:
    """What one stage took."""

    stage: Stage
    elapsed_s: float
    jobs: int
    spend: Spend | None
    """None for a stage that does not ask the teacher."""


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells of it."""

    manifest: RunManifest
    base: Base
    ceiling: dict[str, Any] | None
    examples: list[EffectiveExample]
    rejected: dict[str, int]
    revised: dict[str, int]
    dataset: dict[str, Any] | None
    training: dict[str, Any] | None
    options: list[dict[str, Any]]
    """Option, value and why, as the training was carried out."""
    evaluation: dict[str, Any] | None
    evaluation_is_old: bool
    """It is of a training before the one that is there."""
    export: dict[str, Any] | None
    export_is_old: bool
    stages: list[StageFacts]
    spend: Spend
    packages: list[tuple[str, str]]

    @property
    def run_id(self) -> str:
        return self.manifest.run_id

    @property
    def teacher_is_host(self) -> bool:
        return self.manifest.teacher_model == HOST_TEACHER

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        """The evaluation's sets, the user's own examples first."""
        found = self.evaluation or {}
        return {name: found[name] for name in ("held_out", "synthetic") if found.get(name)}

    @property
    def gguf_score(self) -> dict[str, Any] | None:
        """How the GGUF file did, and on which set."""
        return (self.export or {}).get("accuracy")

    def shown_examples(self) -> list[EffectiveExample]:
        """A seed and two others with different answers; short ones, where there are any."""
        short = [row for row in self.examples if len(row.input) + len(row.thinking) + len(row.output) < _SHORT_CHARS]
        rows = short if len(short) >= _EXAMPLES_SHOWN else self.examples
        seeds = [row for row in rows if row.origin == "seed"][:1]
        others = [row for row in rows if row.origin != "seed"]
        answers = dict.fromkeys(row.output for row in seeds)
        different = [row for row in others if row.output not in answers and not answers.setdefault(row.output)]
        chosen = [*seeds, *different, *others, *rows]
        return list({row.id: row for row in chosen}.values())[:_EXAMPLES_SHOWN]


def facts_of(run: Run) -> Facts:
    """Read a run.

    Raises:
        DamagedRunError: One of its files cannot be read.
    """
    traces = list(read_records(run.paths.traces_cot, Trace))
    revisions = revisions_of(run)
    training = read_object(run.paths.training)
    records = read_journal(run.paths.calls).records
    may_have_seen = run.manifest.teacher_model == HOST_TEACHER
    return Facts(
        manifest=run.manifest,
        base=base_of(run.manifest.spec.student, training),
        ceiling=ceiling(traces, may_have_seen_answers=may_have_seen) if traces else None,
        examples=revisions.effective(read_records(run.paths.traces_amplified, Example)),
        rejected=dict(Counter(row.reason for row in read_records(run.paths.rejected, Rejected)).most_common()),
        revised=revisions.counts() if revisions.number else {},
        dataset=read_object(run.paths.dataset / "manifest.json"),
        training=training,
        options=_options(run, training),
        evaluation=read_object(run.paths.evaluation),
        evaluation_is_old=is_outdated(run, "evaluate"),
        export=read_object(run.paths.export),
        export_is_old=is_outdated(run, "export_gguf"),
        stages=list(_stages(run, spend_by_stage(records))),
        spend=spend_of(records),
        packages=list(_packages()),
    )


def _options(run: Run, training: dict[str, Any] | None) -> list[dict[str, Any]]:
    """From the plan that was carried out; where it is gone, the recipe with the reasons that were kept."""
    if training is None:
        return []
    plan = stored_plan(run)
    if plan is not None and plan.recipe.model_dump() == training["recipe"]:
        return plan.resolved
    reasons = training.get("reasons", {})
    return [
        {"option": name, "value": value, "why": reasons.get(name, "")}
        for name, value in training["recipe"].items()
        if name != "distilling"
    ]


def _stages(run: Run, spends: dict[str, Spend]) -> Iterator[StageFacts]:
    """Every stage that was begun: its time over all its jobs, those that were broken off as well."""
    for stage in PIPELINE:
        jobs = [job for job in run.paths.job_list() if job.stage == stage]
        if jobs:
            yield StageFacts(stage, sum(map(_elapsed_s, jobs)), len(jobs), spends.get(stage))


def _elapsed_s(job: JobPaths) -> float:
    """How long a job took; one that did not end, or has not yet, until its last sign of life."""
    if ended := read_record(job.exit, Exit):
        return ended.elapsed_s
    worker, beat = read_record(job.worker, WorkerRecord), read_record(job.heartbeat, Heartbeat)
    if worker is None or beat is None or not beat.at:
        return 0.0
    return max(0.0, (datetime.fromisoformat(beat.at) - datetime.fromisoformat(worker.started_at)).total_seconds())


def _packages() -> Iterator[tuple[str, str]]:
    yield "nanodistill-mcp", __version__
    for name in _PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
