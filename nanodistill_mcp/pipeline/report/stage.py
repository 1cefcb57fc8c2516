"""A stage that ends with its report. The stage is done either way: what cannot be written is said, and no more."""

from typing import Any

from anyio import to_thread

from nanodistill_mcp.jobs.supervise import Job, Stage
from nanodistill_mcp.pipeline.report import NOT_WRITTEN


def with_report(stage: Stage) -> Stage:
    """The stage, followed by its report."""

    async def carry_out(job: Job) -> dict[str, Any]:
        summary = await stage(job)
        job.note("writing the report")
        from nanodistill_mcp.pipeline.report.write import write_report  # noqa: PLC0415 - for the end of a few stages

        missing = await to_thread.run_sync(write_report, job.run)
        for name, why in missing.items():
            job.event(NOT_WRITTEN, file=name, reason=why)
        return {**summary, NOT_WRITTEN: missing} if missing else summary

    return carry_out
