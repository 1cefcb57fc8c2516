"""A worker as the package starts it, whose stages are scenes made to ask one question each."""

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel

from nanodistill_mcp.errors import BudgetError
from nanodistill_mcp.jobs.supervise import Job, Stage, carry_out, claim
from nanodistill_mcp.runs.paths import JobPaths, RunPaths
from nanodistill_mcp.runs.store import Run


class Errand(BaseModel):
    """What a student process of these tests is sent to do."""

    kind: str = "errand"
    does: str
    result_path: Path
    metrics_path: Path


class Told(BaseModel):
    """What it comes back with."""

    text: str


async def finish(job: Job) -> dict[str, Any]:
    """Nothing goes wrong."""
    job.progress(3, 3, "counted")
    return {"answer": 42}


async def wait(job: Job) -> dict[str, Any]:
    """Work in small units until the test lays a file named go into the job's folder."""
    done = 0
    while not (job.paths.root / "go").exists():
        await job.checkpoint()
        done += 1
        job.progress(done, 0, "working", unit=done)
        await anyio.sleep(0.01)
    return {"units": done}


async def refuse(_: Job) -> dict[str, Any]:
    """A failure that was anticipated."""
    raise BudgetError("The budget is used up.", next_step="Raise it.")


async def refuse_in_a_group(job: Job) -> dict[str, Any]:
    """The same failure, among other work at the same time."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, job)
        tasks.start_soon(refuse, job)
    return {}


async def defect(_: Job) -> dict[str, Any]:
    """A mistake of ours, with words that must not be repeated."""
    raise ValueError("canary")


async def full_disk(_: Job) -> dict[str, Any]:
    """The disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def crash(_: Job) -> dict[str, Any]:
    """The worker is killed."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def linger(_: Job) -> dict[str, Any]:
    """A library's thread that never ends keeps the interpreter from ending."""
    threading.Thread(target=threading.Event().wait).start()
    return {}


async def queue(job: Job) -> dict[str, Any]:
    """Work that needs the machine for itself."""
    async with job.one_at_a_time(Path(job.arguments["lock_path"])):
        return await wait(job)


async def queue_with_student(job: Job) -> dict[str, Any]:
    """Work that needs the machine for itself, done by a student process."""
    async with job.one_at_a_time(Path(job.arguments["lock_path"])):
        return await errand(job)


async def errand(job: Job) -> dict[str, Any]:
    """Send students on the errands named in the arguments, one after the other."""
    texts: list[str] = []
    for number, does in enumerate(job.arguments["does"]):
        request = Errand(
            does=does, result_path=job.paths.root / f"errand-{number}.json", metrics_path=job.paths.metrics
        )
        told = await job.run_student(
            request,
            Told,
            on_metric=lambda line: job.progress(line["step"], 3, "training"),
            silent_s=job.arguments.get("silent_s"),
        )
        texts.append(told.text)
    return {"texts": texts}


SCENES: dict[str, Stage] = {
    scene.__name__: scene
    for scene in (
        *(finish, wait, refuse, refuse_in_a_group, defect, full_disk, crash, linger),
        *(queue, queue_with_student, errand),
    )
}


def main() -> None:
    """Do what the worker of the package does, with a scene for its stage."""
    root, job_name, nonce, descriptor = sys.argv[1:5]
    run = Run(RunPaths(Path(root)))
    job = claim(run, JobPaths(run.paths.jobs / job_name), nonce, int(descriptor))
    if job is None:
        sys.exit(os.EX_TEMPFAIL)
    job.student_command = [sys.executable, "-I", str(Path(__file__).with_name("student_program.py"))]
    anyio.run(carry_out, job, SCENES[job.arguments["scene"]])


if __name__ == "__main__":
    main()
