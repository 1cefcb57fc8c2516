"""What of this machine and this configuration works: a finding each, with the one command that mends it.

What needs a library that the server never imports is looked at in short processes, side by side, each with an end.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

import anyio
from pydantic import BaseModel

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.launch import Lost, observe
from nanodistill_mcp.jobs.memory import spare_gb
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server.preflight import inspect_device, inspect_student, inspect_teacher
from nanodistill_mcp.settings import DEVICE_VARIABLE, Settings, load_settings
from nanodistill_mcp.teacher.wording import read_wordings

_FREE_GB, _MEMORY_GB = 10.0, 6.0
_WITHIN_S = 60.0
_LIBRARIES = ("mcp", "pydantic", "litellm", "instructor")


class Finding(BaseModel):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "advice", "no"]
    found: str
    mend: str = ""


class DoctorReply(BaseModel):
    """Everything that was looked at. ``usable`` is false when a finding is ``no``."""

    version: str
    python: str
    platform: str
    usable: bool
    findings: list[Finding]


async def examine(home: Path) -> DoctorReply:
    """Look at everything, the slow things side by side. Nothing is paid, and no run is changed."""
    try:
        settings = load_settings(home)
        os.environ[DEVICE_VARIABLE] = settings.device
        checks = _checks(home, settings)
    except NanodistillError as error:
        checks = [("configuration", partial(_fails, error))]
    findings: dict[str, list[Finding]] = {}

    async def make(what: str, check: Callable[[], Awaitable[list[Finding]]]) -> None:
        findings[what] = [
            Finding(what=what, state="no", found="It did not answer in time.", mend="nanodistill-mcp doctor")
        ]
        with anyio.move_on_after(_WITHIN_S):
            try:
                findings[what] = await check()
            except NanodistillError as error:
                findings[what] = [Finding(what=what, state="no", found=error.what, mend=error.next_step)]

    async with anyio.create_task_group() as tasks:
        for what, check in checks:
            tasks.start_soon(make, what, check)
    ordered = [finding for what, _ in checks for finding in findings[what]]
    return DoctorReply(
        version=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        usable=all(finding.state != "no" for finding in ordered),
        findings=ordered,
    )


def _checks(home: Path, settings: Settings) -> list[tuple[str, Callable[[], Awaitable[list[Finding]]]]]:
    teachers = list(dict.fromkeys((settings.default_teacher, *settings.teachers)))
    return [
        ("platform", _platform),
        ("data directory", partial(_home, home)),
        ("memory", _memory),
        ("device", _device),
        (f"student {settings.default_student}", partial(_student, settings)),
        *((f"teacher {name}", partial(_teacher, settings, name)) for name in teachers),
        *([("prompts", partial(_prompts, settings))] if settings.prompts else []),
        ("jobs", partial(_jobs, home)),
    ]


async def _fails(error: NanodistillError) -> list[Finding]:
    raise error


async def _platform() -> list[Finding]:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    found = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {libraries}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return [
            Finding(
                what="platform",
                state="no",
                found=f"{found}: MLX trains on Apple silicon only",
                mend="use a Mac with Apple silicon, or Linux",
            )
        ]
    return [Finding(what="platform", state="ok", found=found)]


async def _home(home: Path) -> list[Finding]:
    try:
        RunStore(home).prepare()
        with tempfile.NamedTemporaryFile(dir=home, prefix=".doctor-", suffix=".tmp"):
            pass
        free_gb = shutil.disk_usage(home).free / 1e9
    except OSError:
        return [
            Finding(
                what="data directory",
                state="no",
                found=f"{home} cannot be written",
                mend=f"chmod u+rwx '{home}', or set NANODISTILL_HOME to a folder you may write",
            )
        ]
    found = f"{home} can be written, {free_gb:.0f} GB free"
    if free_gb < _FREE_GB:
        found += "; a 4B student with its export wants 10 GB or more"
        return [Finding(what="data directory", state="advice", found=found, mend="nanodistill-mcp clean")]
    return [Finding(what="data directory", state="ok", found=found)]


async def _memory() -> list[Finding]:
    can_take_gb = spare_gb()
    found = f"{can_take_gb:.1f} GB can be taken"
    if can_take_gb < _MEMORY_GB:
        found += "; a 4B student in 4 bits wants 6 GB or more"
        mend = "close other programs, or create runs with a smaller student: train(dry_run=true) says what fits"
        return [Finding(what="memory", state="advice", found=found, mend=mend)]
    return [Finding(what="memory", state="ok", found=found)]


async def _device() -> list[Finding]:
    facts = await inspect_device()
    memory = f", {facts.memory_gb:.0f} GB for it" if facts.memory_gb else ""
    found = (
        f"MLX {facts.mlx} and MLX-LM {facts.mlx_lm} on {facts.device}{memory}; two steps took {facts.elapsed_s:.1f} s"
    )
    device = Finding(what="device", state="ok", found=found)
    if not facts.learns:
        device.state, device.found = "no", f"{found}, and the loss did not fall"
        device.mend = "pip install --force-reinstall mlx mlx-lm"
    elif sys.platform == "linux" and not facts.memory_gb and not facts.blas:
        device.state, device.found = "advice", f"{found}, with the slow BLAS that MLX brings"
        device.mend = "sudo apt-get install libopenblas0-pthread"
    llama = Finding(what="llama.cpp", state="ok", found=f"{facts.llama_cpp} loads")
    if not facts.llama_cpp:
        llama = Finding(
            what="llama.cpp",
            state="advice",
            found="xllamacpp does not load: GGUF files are written and not checked",
            mend="sudo apt-get install libgomp1"
            if sys.platform == "linux"
            else "pip install --force-reinstall xllamacpp",
        )
    return [device, llama]


async def _student(settings: Settings) -> list[Finding]:
    facts = await inspect_student(settings.default_student)
    where = f"in {facts.student_path}" if facts.student_path else f"{facts.bytes_to_download / 1e9:.1f} GB to download"
    found = f"{facts.model_type}, {facts.layers} blocks, {where}"
    return [Finding(what=f"student {settings.default_student}", state="ok", found=found)]


async def _teacher(settings: Settings, name: str) -> list[Finding]:
    what = f"teacher {name}"
    facts = await inspect_teacher(settings.endpoint(name))
    if not facts.missing_keys:
        seen = ", ".join(variable for variable in facts.key_variables if os.environ.get(variable))
        return [
            Finding(what=what, state="ok", found=f"{facts.provider}, {f'{seen} is set' if seen else 'needs no key'}")
        ]
    names = " or ".join(facts.missing_keys)
    return [
        Finding(
            what=what,
            # The agent itself can be the teacher, so a machine without any key is usable.
            state="advice",
            found=f"{facts.provider}, {names} is not set here",
            mend=f"add {facts.missing_keys[0]} under env of this server's entry in the client's configuration",
        )
    ]


async def _prompts(settings: Settings) -> list[Finding]:
    read_wordings(settings.prompts)
    return [
        Finding(what="prompts", state="ok", found=f"{', '.join(settings.prompts)} from files of this server's owner")
    ]


async def _jobs(home: Path) -> list[Finding]:
    """Jobs whose worker is gone without having said how it ended."""
    lost: list[Finding] = []
    runs = 0
    for run in RunStore(home).all():
        runs += 1
        match [(job, observe(run, job)) for job in run.paths.job_list()[-1:]]:
            case [(job, Lost(orphaned_trainer=orphaned))]:
                trainer = ", and its trainer still runs: calling the stage again ends it" if orphaned else ""
                found = f"{job.stage} of run {run.run_id} was interrupted{trainer}; what it finished is kept"
                lost.append(
                    Finding(what="jobs", state="advice", found=found, mend=f"nanodistill-mcp show {run.run_id}")
                )
            case _:
                pass
    return lost or [Finding(what="jobs", state="ok", found=f"none was interrupted in {runs} runs")]
