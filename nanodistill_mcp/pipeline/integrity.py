"""What a stage wrote is what the next ones read: a file that is another by then was damaged, or changed by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anyio import to_thread

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.jobs.supervise import Stage as Carry
from nanodistill_mcp.pipeline.restart import products_of
from nanodistill_mcp.pipeline.seeds import digest
from nanodistill_mcp.runs.files import sha256_of
from nanodistill_mcp.runs.records import Exit, Stage
from nanodistill_mcp.runs.store import Run, read_record

_PROVED: tuple[Stage, ...] = ("synthesize_cot", "extract_policy", "amplify")
"""What the others write has its hashes in what they write last."""


def with_proof(stage: Stage, carry_out: Carry) -> Carry:
    """The stage, which begins by holding what it builds on against what was written, and ends by saying what it wrote."""

    async def proved(job: Job) -> dict[str, Any]:
        await to_thread.run_sync(check_unchanged, job.run)
        summary = await carry_out(job)
        written = products_of(job.run.paths, stage) if stage in _PROVED else []
        job.files = {path.name: await to_thread.run_sync(sha256_of, path) for path in written}
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
    for stage in _PROVED:
        ended = read_record(newest[stage].exit, Exit) if stage in newest else None
        for path in products_of(run.paths, stage):
            if ended and (known := ended.files.get(path.name)):
                yield stage, path, known
