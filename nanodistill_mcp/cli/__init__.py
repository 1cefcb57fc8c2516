"""The command line, for people. Without a command it serves a client on standard input and output."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.settings import from_words, given_to_servers

COMMANDS = {
    "serve": "serve an MCP client on standard input and output (the default)",
    "demo": "the whole job with an offline teacher and a tiny student: no key, no download",
    "doctor": "check this machine and this configuration, and say what mends what",
    "config": "every value of the configuration and where it is from; no secret",
    "run": "carry out a whole run from a file, without an agent; again: go on",
    "runs": "list all runs",
    "compare": "two runs side by side as JSON: settings, scores on the same rows, cost",
    "track": "tell an experiment tracker of a run's training: numbers and settings alone",
    "bundle": "put a run into one file, to keep or to import elsewhere",
    "import": "make a run of a bundle; only of one from people you trust",
    "import-data": "make a run of published distillation data, without a teacher",
    "export-data": "write a run's rows as another trainer reads them",
    "adopt": "make a run of a folder that NanoDistill made",
    "show": "show one run",
    "logs": "what a run's newest job did and does",
    "control": "pause, resume, stop or cancel a run's job; what is finished is kept",
    "clean": "say what could be freed; with --yes, free it",
    "install": "put the server into a client's configuration; without --client, list them",
    "serve-model": "serve a run's trained model as OpenAI does: see docs/serving.md",
    "completion": "print a script that completes commands and run ids",
}
"""Each has a module in ``cli/commands``, which is loaded when the command may be the one wanted."""


class Command(Protocol):
    """What a module of a command holds."""

    def add_arguments(self, command: argparse.ArgumentParser) -> None:
        """Say what the command takes."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Carry it out; answers with the exit code."""
        ...


def main() -> None:
    """Run one command; exits 2 on an anticipated failure, 130 on Ctrl-C."""
    words = sys.argv[1:]
    parser = command_line(words)
    arguments = parser.parse_args(words)
    if arguments.command is None:
        arguments = parser.parse_args([*words, "serve"])
    if arguments.home:
        os.environ["NANODISTILL_HOME"] = str(Path(arguments.home).expanduser().absolute())
    os.umask(0o077)
    try:
        if arguments.set:  # as with --home, the servers that a command starts have to know as well
            os.environ.update(given_to_servers(os.environ, from_words(arguments.set)))
        sys.exit(_command(arguments.command).run(arguments))
    except NanodistillError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def command_line(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The commands and what they take: those among the words that were typed, without words all of them."""
    parser = argparse.ArgumentParser(prog="nanodistill-mcp", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--home", default="", help="the data directory (else NANODISTILL_HOME, else this user's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the configuration, over all others"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    possible = COMMANDS if words is None else {"serve", *words}
    for name, told in COMMANDS.items():
        command = commands.add_parser(name, help=told)
        if name in possible:  # the others cannot be meant, and a client waits for the server's start
            _command(name).add_arguments(command)
    return parser


def _command(name: str) -> Command:
    module = {"import": "import_"}.get(name, name.replace("-", "_"))
    return cast("Command", importlib.import_module(f"nanodistill_mcp.cli.commands.{module}"))
