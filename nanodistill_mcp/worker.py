"""The entry of a detached job: claim the lock, say who we are, then import what the stage needs and do it."""

import os
import sys
from pathlib import Path

import anyio

from nanodistill_mcp.jobs.machine import keep_awake
from nanodistill_mcp.jobs.supervise import carry_out, claim
from nanodistill_mcp.runs.paths import JobPaths, RunPaths
from nanodistill_mcp.runs.secrets import RedactedStream
from nanodistill_mcp.runs.store import Run


def main() -> None:
    """Run one job: ``worker <run folder> <job name> <nonce> <descriptor of the locked worker.lock>``."""
    root, job_name, nonce, descriptor = sys.argv[1:5]
    os.umask(0o077)
    # Whatever a library prints or a traceback quotes of a provider's refusal goes to the job's log.
    sys.stdout, sys.stderr = RedactedStream(sys.stdout), RedactedStream(sys.stderr)
    run = Run(RunPaths(Path(root)))
    job = claim(run, JobPaths(run.paths.jobs / job_name), nonce, int(descriptor))
    if job is None:
        sys.exit(os.EX_TEMPFAIL)
    keep_awake()
    from nanodistill_mcp.pipeline.stages import STAGES  # noqa: PLC0415 - after worker.json: the launcher waits for it

    anyio.run(carry_out, job, STAGES[job.request.stage])
