"""``nanodistill-mcp logs``: what a run's newest job did and does."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("-f", "--follow", action="store_true", help="until the job ends")
    command.add_argument("--stage", default="", help="the newest job of this stage")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from nanodistill_mcp.cli.showing import show_logs

    wanted = {"follow": arguments.follow, "as_json": arguments.json}
    return show_logs(data_home(), arguments.run_id, stage=arguments.stage, **wanted)
