"""``nanodistill-mcp control``: steer a run's job."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument(
        "action", choices=("pause", "resume", "stop", "cancel"), help="stop keeps a training's student"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell it."""
    from nanodistill_mcp.cli.showing import control_run

    return control_run(data_home(), arguments.run_id, arguments.action)
