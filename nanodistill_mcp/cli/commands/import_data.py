"""``nanodistill-mcp import-data``: a run of published distillation data."""

import argparse

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("source", help="a .jsonl, .json, .csv or .parquet file, or a dataset of the hub (org/name)")
    command.add_argument("--name", required=True, help="the run's id")
    command.add_argument(
        "--instruction", default="Answer the question.", help="the student's system message (default: %(default)s)"
    )
    command.add_argument("--student", default="", help="a hub id or a local folder (default: the configured one)")
    command.add_argument("--file", default="", help="with a dataset: the file to read")
    command.add_argument("--revision", default="", help="with a dataset: a commit (default: the newest, which is kept)")
    for words, told in (("rv", "reasoning verbosity"), ("cd", "cognitive difficulty")):
        command.add_argument(f"--{words}-min", type=float, metavar="LEVEL", help=f"{told} of 0 to 9, at least")
        command.add_argument(f"--{words}-max", type=float, metavar="LEVEL", help="at most")
    command.add_argument("--difficulty-bins", default="", metavar="EDGES", help="edges of bins of difficulty: 0,3,6,10")
    command.add_argument(
        "--per-bin", default="", metavar="N", help="rows of each bin: 100, or 50,100,200, or 20%%,30%%,50%%"
    )
    command.add_argument(
        "--limit", type=int, default=10_000, help="examples to train on, at most (default %(default)s)"
    )
    command.add_argument(
        "--held-out", type=int, default=100, help="rows kept aside (default %(default)s, a fifth at most)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make it."""
    from nanodistill_mcp.cli.importing import asked_of, import_data

    return import_data(data_home(), asked_of(arguments))
