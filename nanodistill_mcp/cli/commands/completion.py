"""``nanodistill-mcp completion``: the script for a shell."""

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from nanodistill_mcp.cli import command_line
    from nanodistill_mcp.cli.completion import completion

    print(completion(command_line(), arguments.shell), end="")
    return 0
