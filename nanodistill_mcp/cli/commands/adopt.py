"""``nanodistill-mcp adopt``: a run of a folder that NanoDistill made."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("folder", help="holds traces_cot.jsonl and traces_amplified.jsonl")
    command.add_argument("--name", required=True, help="the run's id")
    command.add_argument("--instruction", required=True, help="what the student is to do, as NanoDistill was told")
    command.add_argument("--student", default="", help="a hub id or a local folder (default: the configured one)")


def run(arguments: argparse.Namespace) -> int:
    """Make it."""
    from nanodistill_mcp.cli.adopting import adopt_folder

    asked = {"name": arguments.name, "instruction": arguments.instruction, "student": arguments.student}
    return adopt_folder(data_home(), arguments.folder, **asked)
