"""``nanodistill-mcp track RUN``: tell an experiment tracker of a training, afterwards or while it goes on."""

import sys
import time
import traceback
from pathlib import Path

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.pipeline.tracking import Told, has_begun
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.settings import TrackerName

_LOOK_S = 2.0


def track_run(home: Path, run_id: str, tracker: TrackerName, *, follow: bool) -> int:
    """Tell a tracker what it does not know of a run yet.

    Raises:
        NanodistillError: There is no such run, or the tracker is not there or refuses.
    """
    try:
        told = follow_training(RunStore(home).open(run_id), tracker, follow=follow)
    except NanodistillError as error:
        if error.__cause__:  # the tracker's own words, for the person who installed it
            print(clean(f"{type(error.__cause__).__name__}: {error.__cause__}"), file=sys.stderr)
        raise
    print(f"{tracker} was told {told} lines of {run_id}.")
    return 0


def follow_training(run: Run, tracker: TrackerName, *, follow: bool) -> int:
    """Tell what is new until no job trains any more; answers with the number of lines."""
    telling, count, begun = Told(run, tracker), 0, False
    while True:
        trains = follow and (job := active_job(run)) is not None and job.stage == "train"
        begun = begun or not trains or has_begun(run)
        if begun:  # until then what is there is an earlier training's
            count += telling.tell_new()  # after the look: the last lines of a job that ended are then there
        if not trains:
            break
        time.sleep(_LOOK_S)
    telling.end()
    return count


def main() -> None:
    """The process beside a training: ``tracking <run folder> <tracker>``."""
    folder, tracker = sys.argv[1:3]
    try:
        follow_training(Run(RunPaths(Path(folder))), tracker, follow=True)  # pyright: ignore[reportArgumentType]
    except NanodistillError as error:
        traceback.print_exc()  # the package's own words are for the job's folder
        print(error, file=sys.stderr)
        sys.exit(1)
