"""``nanodistill-mcp show``: one run."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("--web", action="store_true", help="in a browser on this machine, live, until Ctrl-C")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Show it here or in a browser."""
    from nanodistill_mcp.cli.showing import show_board, show_run

    if arguments.web:
        return show_board(data_home(), arguments.run_id)
    return show_run(data_home(), arguments.run_id, as_json=arguments.json)
