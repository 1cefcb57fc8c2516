"""Checks that need a library the server never imports: made in two short processes, side by side, before a run exists."""

import os
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.jobs import processes
from nanodistill_mcp.jobs.supervise import rebuild_error
from nanodistill_mcp.runs.files import read_json, write_json
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.student.requests import InspectRequest, StudentFacts
from nanodistill_mcp.teacher.preflight import TeacherFacts

_TIMEOUT_S = 40.0
_LOOKED_AT = re.compile(r"KEY|TOKEN|SECRET|CREDENTIAL|PROJECT|LOCATION|REGION|PROFILE|ACCOUNT|API_BASE|API_VERSION")


async def inspect_both(endpoint: TeacherEndpoint, student: str) -> tuple[TeacherFacts, StudentFacts]:
    """What can be known of teacher and student without spending anything.

    Raises:
        NanodistillError: One of them is not usable; says why and what to do.
    """
    folder = Path(tempfile.mkdtemp(prefix="nanodistill-"))
    found: dict[str, Any] = {}
    try:
        teacher_in, teacher_out = folder / "teacher.in.json", folder / "teacher.json"
        write_json(teacher_in, {"endpoint": endpoint.model_dump()}, durable=False)
        student_in, student_out = folder / "student.in.json", folder / "student.json"
        write_json(student_in, InspectRequest(student=student, result_path=student_out).model_dump(), durable=False)

        async def one(what: str, out: Path, module: str, *arguments: str, env: dict[str, str]) -> None:
            run = partial(processes.run_briefly, module, *arguments, env=env, timeout_s=_TIMEOUT_S)
            code = await anyio.to_thread.run_sync(run)
            found[what] = read_json(out) or _no_result(what, code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                partial(
                    one,
                    "teacher",
                    teacher_out,
                    "teacher.preflight",
                    str(teacher_in),
                    str(teacher_out),
                    env=_key_names(),
                )
            )
            tasks.start_soon(
                partial(one, "student", student_out, "student.child", str(student_in), env=processes.environment())
            )
    finally:
        shutil.rmtree(folder)
    for what in ("teacher", "student"):
        if found[what].get("failed"):
            raise rebuild_error(found[what])
    return TeacherFacts.model_validate(found["teacher"]), StudentFacts.model_validate(found["student"])


def _key_names() -> dict[str, str]:
    """Which keys are set, without their values: that is all the check looks at."""
    names = {name: "set" for name, value in os.environ.items() if value and _LOOKED_AT.search(name)}
    return {**names, **processes.environment()}


def _no_result(what: str, code: int) -> dict[str, Any]:
    ended = "did not answer in time" if code == processes.TIMED_OUT else f"ended with code {code}"
    step = "Call create_run again; if it repeats, run 'nanodistill-mcp doctor' in a terminal."
    return {
        "failed": True,
        "kind": ConfigurationError.kind,
        "what": f"The check of the {what} {ended}.",
        "next_step": step,
    }
