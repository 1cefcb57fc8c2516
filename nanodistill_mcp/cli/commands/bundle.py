"""``nanodistill-mcp bundle``: a run in one file."""

import argparse
from pathlib import Path

from nanodistill_mcp.runs.paths import data_home


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("run_id", help="the run's id")
    command.add_argument("--to", default="", help="the file (default RUN.tar.gz in this folder)")
    command.add_argument("--gguf", action="store_true", help="with model.gguf")
    command.add_argument(
        "--as-is", action="store_true", help="take data that name this machine's folders or what looks like a key"
    )


def run(arguments: argparse.Namespace) -> int:
    """Put a run into one file; an idle one, and never over a file that is there."""
    from nanodistill_mcp.pipeline.bundle import check_idle_for, check_target, write_bundle
    from nanodistill_mcp.runs.store import RunStore

    run = RunStore(data_home()).open(arguments.run_id)
    target = Path(arguments.to or f"{run.run_id}.tar.gz").expanduser().absolute()
    check_idle_for(run)
    check_target(target)
    made = write_bundle(run, target, with_gguf=arguments.gguf, as_is=arguments.as_is)
    print(f"{made.path}: {made.files} files, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    return 0
