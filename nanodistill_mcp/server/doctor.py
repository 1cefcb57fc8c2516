"""``nanodistill-mcp doctor``: what of this machine and this configuration works, one line each."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
from rich.console import Console
from rich.text import Text

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.runs.store import RunStore
from nanodistill_mcp.server.preflight import inspect_student, inspect_teacher
from nanodistill_mcp.settings import Settings, load_settings
from nanodistill_mcp.teacher.wording import read_wordings

_FREE_GB = 10.0


def doctor(home: Path) -> int:
    """Check and print. The exit code is 1 when something is not usable."""
    console = Console()
    console.print(f"nanodistill-mcp {__version__}, Python {sys.version.split()[0]} on {sys.platform}", highlight=False)
    settings = load_settings(home)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("data directory", lambda: _home(home)),
        (f"student {settings.default_student}", lambda: _student(settings)),
        *(
            (f"teacher {name}", lambda name=name: _teacher(settings, name))
            for name in (settings.default_teacher, *settings.teachers)
        ),
    ]
    if settings.prompts:
        checks.append(("prompts", lambda: _prompts(settings)))
    good = True
    for what, check in checks:
        try:
            console.print(Text.assemble(("ok   ", "green"), f"{what}: {check()}"), soft_wrap=True)
        except NanodistillError as error:
            good = False
            console.print(Text.assemble(("no   ", "red"), f"{what}: {error}"), soft_wrap=True)
    return 0 if good else 1


def _home(home: Path) -> str:
    RunStore(home).prepare()
    free_gb = shutil.disk_usage(home).free / 1e9
    advice = "" if free_gb > _FREE_GB else "; a 4B student with its export wants 10 GB or more"
    return f"{home}, {free_gb:.0f} GB free{advice}"


def _prompts(settings: Settings) -> str:
    read_wordings(settings.prompts)
    return f"{', '.join(settings.prompts)} from files of this server's owner"


def _student(settings: Settings) -> str:
    facts = anyio.run(inspect_student, settings.default_student)
    where = f"in {facts.student_path}" if facts.student_path else f"{facts.bytes_to_download / 1e9:.1f} GB to download"
    return f"{facts.model_type}, {facts.layers} blocks, {where}"


def _teacher(settings: Settings, name: str) -> str:
    facts = anyio.run(inspect_teacher, settings.endpoint(name))
    key = (
        f"no key: set {' or '.join(facts.missing_keys)} under env in the client's configuration"
        if facts.missing_keys
        else "key is set"
    )
    return f"{facts.provider}, {key}"
