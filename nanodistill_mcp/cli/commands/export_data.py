"""``nanodistill-mcp export-data``: a run's rows for another trainer."""

import argparse
from pathlib import Path

from nanodistill_mcp.runs.paths import data_home

FORMS = ("trl", "llama-factory", "unsloth", "axolotl", "easydistill", "alpaca")
"""What other trainers read, by name; what writes it is loaded when it is wanted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("--to", required=True, choices=FORMS, help=f"one of {', '.join(FORMS)}", metavar="FORM")
    command.add_argument("--out", default="", help="the folder to make (default RUN-FORM in this folder)")
    command.add_argument("--no-reasoning", action="store_true", help="the answers alone")
    command.add_argument("--model", default="", help="what to train there (default: the run's student)")


def run(arguments: argparse.Namespace) -> int:
    """Write them, and say what starts a training with them."""
    from nanodistill_mcp.pipeline.data_export import export_data
    from nanodistill_mcp.runs.store import RunStore

    run, form = RunStore(data_home()).open(arguments.run_id), arguments.to
    folder = Path(arguments.out or f"{run.run_id}-{form}").expanduser().absolute()
    made = export_data(run, form, folder, reasoning=not arguments.no_reasoning, model=arguments.model)
    counts = ", ".join(f"{count} {name}" for name, count in made.rows.items())
    gone = f"\n{made.left_out} rows were left out: they hold most of a held-out example." if made.left_out else ""
    print(f"{made.folder}: {counts}{gone}\nThere: {made.command}")
    return 0
