"""What a stage wrote is what the next ones read: a file that is another by then was damaged, or changed by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyio import to_thread

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.jobs.supervise import Stage as Carry
from nanodistill_mcp.pipeline.seeds import digest
from nanodistill_mcp.runs.files import sha256_of
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Exit, Stage
from nanodistill_mcp.runs.store import Run, read_record


def with_proof(stage: Stage, carry_out: Carry) -> Carry:
    """The stage, which begins by holding what it builds on against what was written, and ends by saying what it wrote."""

    async def proved(job: Job) -> dict[str, Any]:
        await to_thread.run_sync(check_unchanged, job.run)
        summary = await carry_out(job)
        job.files = {path.name: await to_thread.run_sync(sha256_of, path) for path in _written_by(job.run.paths, stage)}
        return summary

    return proved


def check_unchanged(run: Run) -> None:
    """Hold the run's examples, traces and policy against what was written.

    Raises:
        DamagedRunError: One is another; names it and how to get it back.
    """
    if digest(run.seeds(), run.inputs()) != run.manifest.spec.seeds_sha256:
        raise DamagedRunError(
            "The examples in seeds.jsonl or inputs.jsonl are not those the run was created with: a file was damaged, or changed.",
            next_step="Restore it from a copy, or create the run again under another name.",
        )
    for stage, path, known in _known(run):
        if path.exists() and sha256_of(path) != known:
            raise DamagedRunError(
                f"{path.name} is not what {stage} wrote: it was damaged, or changed by hand.",
                next_step=f"Restore it from a copy, or call {stage} with restart=true, which asks nothing again that was "
                "answered. Examples are changed with revise_examples, the policy with extract_policy.",
            )


def _known(run: Run) -> Iterator[tuple[Stage, Path, str]]:
    """The files whose hashes the newest job of their stage has told.

    One that was killed, failed, was cancelled or still runs may have written them anew, so nothing is known of them then.
    """
    newest = {job.stage: job for job in run.paths.job_list()}
    stages: tuple[Stage, ...] = ("synthesize_cot", "extract_policy", "amplify")
    for stage in stages:
        ended = read_record(newest[stage].exit, Exit) if stage in newest else None
        told = ended.files if ended else {}
        for path in _written_by(run.paths, stage):
            if known := told.get(path.name):
                yield stage, path, known


def _written_by(paths: RunPaths, stage: Stage) -> list[Path]:
    match stage:
        case "synthesize_cot":
            return [paths.traces_cot]
        case "extract_policy":
            return [paths.policy]
        case "amplify":
            return [paths.traces_amplified, paths.rejected]
        case "train" | "evaluate" | "export_gguf" | "compare_models" | "plan_training":
            return []  # what they write has its hashes in what they write last
