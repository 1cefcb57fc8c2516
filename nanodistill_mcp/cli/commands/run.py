"""``nanodistill-mcp run``: a whole run from a file."""

import argparse
from pathlib import Path

from nanodistill_mcp.runs.paths import data_home
from nanodistill_mcp.runs.records import PIPELINE


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("spec", help="a YAML or JSON file of create_run's arguments")
    command.add_argument(
        "--train-file",
        default="",
        metavar="FILE",
        help="the examples, where the file names none (else SM_CHANNEL_TRAIN)",
    )
    command.add_argument("--until", default="", choices=PIPELINE, help="the last stage wanted", metavar="STAGE")
    command.add_argument("--anyway", action="store_true", help="go on although the teacher cannot do the task well")


def run(arguments: argparse.Namespace) -> int:
    """Carry it out, or go on with it."""
    from nanodistill_mcp.cli.headless import run_spec

    wanted = {"until": arguments.until, "anyway": arguments.anyway, "train_file": arguments.train_file}
    return run_spec(data_home(), Path(arguments.spec), **wanted)
