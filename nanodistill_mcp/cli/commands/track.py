"""``nanodistill-mcp track``: an experiment tracker is told of a training."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("--to", required=True, choices=("mlflow", "wandb", "trackio"), help="the tracker")
    command.add_argument("-f", "--follow", action="store_true", help="until the training ends")


def run(arguments: argparse.Namespace) -> int:
    """Tell it."""
    from nanodistill_mcp.cli.tracking import track_run

    return track_run(data_home(), arguments.run_id, arguments.to, follow=arguments.follow)
