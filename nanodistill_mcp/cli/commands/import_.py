"""``nanodistill-mcp import``: a run of a bundle."""

import argparse
from pathlib import Path

from nanodistill_mcp.runs.paths import data_home
from nanodistill_mcp.settings import load_settings


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("file", help="the bundle")
    command.add_argument("--name", default="", help="the run's id here (default: the one it had)")
    command.add_argument("--student", default="", help="a hub id or folder in place of the student it was made with")


def run(arguments: argparse.Namespace) -> int:
    """Make it."""
    from nanodistill_mcp.pipeline.unbundle import import_bundle
    from nanodistill_mcp.runs.store import RunStore

    home, archive = data_home(), Path(arguments.file).expanduser()
    named = {"name": arguments.name, "student": arguments.student}
    run, created = import_bundle(RunStore(home), load_settings(home), archive, **named)
    print(f"Run {run.run_id} {'is imported' if created else 'was imported before'}: nanodistill-mcp show {run.run_id}")
    return 0
