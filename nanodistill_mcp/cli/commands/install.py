"""``nanodistill-mcp install``: the server in a client's configuration."""

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("--client", default="", help="claude-code, claude-desktop, cursor, vscode, codex, ...")
    command.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    command.add_argument("--undo", action="store_true", help="take it out again")
    command.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="a variable with a teacher's key, by name"
    )
    command.add_argument(
        "--no-env", action="store_true", help="no key: the agent is the teacher, or a local one needs none"
    )


def run(arguments: argparse.Namespace) -> int:
    """Put it in, show what that would change, or take it out."""
    from nanodistill_mcp.cli.installing import DEFAULT_KEY, install

    keys = [] if arguments.no_env else arguments.env or [DEFAULT_KEY]
    return install(arguments.client, keys=keys, dry_run=arguments.dry_run, undo=arguments.undo)
