"""A server as far as starting jobs goes: for each line it reads, it starts a job and says what became of it."""

import json
import os
import sys
from pathlib import Path

import anyio

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs import launch
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run

WORKER = (sys.executable, "-I", str(Path(__file__).with_name("stage_program.py")))


async def main() -> None:
    """Until the input ends, or it is killed."""
    os.write(1, b"ready\n")
    for line in sys.stdin:
        told = json.loads(line)
        run = Run(RunPaths(Path(told["run"])))
        try:
            job, started = await launch.start(run, "train", told["arguments"], {}, worker=WORKER)
            answer: dict[str, object] = {"job": job.root.name, "started": started}
        except NanodistillError as error:
            answer = {"error": str(error)}
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    anyio.run(main)
