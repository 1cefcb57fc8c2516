"""``nanodistill-mcp demo``: the whole job offline."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--seed", type=int, default=0, help="of the data order and the adapter's start (default 0)")
    command.add_argument("--fresh", action="store_true", help="begin anew instead of continuing")


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from nanodistill_mcp.demo.run import run_demo

    return run_demo(data_home(), seed=arguments.seed, fresh=arguments.fresh)
