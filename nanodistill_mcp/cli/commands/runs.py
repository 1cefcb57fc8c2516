"""``nanodistill-mcp runs``: all runs."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--tag", default="", help="only those of this tag")
    command.add_argument("--names", action="store_true", help="only their ids, one a line")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    if arguments.names:  # a shell asks for them while somebody types
        from nanodistill_mcp.runs.store import RunStore

        print(*RunStore(data_home()).names(), sep="\n")
        return 0
    from nanodistill_mcp.cli.showing import show_runs

    return show_runs(data_home(), tag=arguments.tag, as_json=arguments.json)
