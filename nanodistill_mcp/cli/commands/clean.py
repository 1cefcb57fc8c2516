"""``nanodistill-mcp clean``: says what would be freed, and frees it only when told to."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--yes", action="store_true", help="remove it for good")
    command.add_argument(
        "--only",
        action="append",
        default=[],
        choices=("trash", "archive", "checkpoints", "temporary"),
        help="this kind",
    )


def run(arguments: argparse.Namespace) -> int:
    """List what can go, of the kinds given or of all; remove it with ``--yes``."""
    from nanodistill_mcp.cli.cleaning import clean_up

    return clean_up(data_home(), arguments.only, yes=arguments.yes)
