"""``nanodistill-mcp compare``: two runs side by side."""

import argparse
import json

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="a run's id")
    command.add_argument("other_id", help="the other's")


def run(arguments: argparse.Namespace) -> int:
    """Print how they differ, as JSON."""
    from nanodistill_mcp.pipeline.compare_runs import compare_runs
    from nanodistill_mcp.runs.store import RunStore

    store = RunStore(data_home())
    compared = compare_runs(store.open(arguments.run_id), store.open(arguments.other_id))
    print(json.dumps(compared, indent=2, ensure_ascii=False))
    return 0
