"""The student is trained: the dataset built, the plan made or taken, one trainer at a time on the machine."""

import os
import shutil
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs import memory
from nanodistill_mcp.jobs.beside import start_beside
from nanodistill_mcp.jobs.supervise import Cancelled, Job
from nanodistill_mcp.pipeline import dataset, machines, recipe
from nanodistill_mcp.pipeline.guarded import train_guarded
from nanodistill_mcp.pipeline.inherited import inherited
from nanodistill_mcp.pipeline.limits import PROCESS_GB, limits_of
from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.pipeline.revisions import moved_since_dataset
from nanodistill_mcp.pipeline.tracking import OWN_VARIABLES, check_installed
from nanodistill_mcp.pipeline.training_plan import make_training_plan, planned, training_options
from nanodistill_mcp.runs.files import read_object, sha256_of, write_json
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import RunSpec
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.student.requests import Recipe, TrainRequest, without_commit


async def train(job: Job) -> dict[str, Any]:
    """Write ``dataset/``, ``model/adapters/`` and, last, ``training.json``."""
    run = job.run
    spec = run.manifest.spec
    options, notes = training_options(spec, job.arguments.get("options", {}))
    async with job.one_at_a_time(Path(job.arguments["training_lock_path"])):
        if is_of_other_rows(run):
            archive_from(run, "train")
            job.event("begun_anew", reason="the examples were changed since this training began")
        if not (run.paths.dataset / "manifest.json").exists():
            dataset.build_dataset(run, _val_split(spec, options))
        plan = await planned(job, run.paths.dataset, options, notes)
        resolved, reasons = plan.recipe, {**plan.reasons, **plan.changes}
        for name, reason in reasons.items():
            job.event("resolved", option=name, reason=reason)
        together = _machines(job, resolved)
        _start_trackers(job)
        before = inherited(run)
        run.paths.checkpoints.mkdir(mode=0o700, exist_ok=True)
        run.paths.model.mkdir(mode=0o700, exist_ok=True)
        job.progress(0, resolved.iters, "training")
        limits, _ = limits_of(spec.preset, options, memory.total_gb())
        result, gave_way = await train_guarded(
            job,
            TrainRequest(
                student=job.arguments["student"],
                dataset_dir=run.paths.dataset,
                checkpoints_dir=run.paths.checkpoints,
                teaching_dir=run.paths.teaching,
                adapter_dir=run.paths.adapters,
                metrics_path=job.paths.metrics,
                control_path=job.paths.control,
                guard_path=job.paths.guard,
                memory_limit_bytes=max(1, int(1e9 * (limits.max_memory_gb - PROCESS_GB))),
                result_path=job.paths.root / "train.json",
                recipe=resolved,
                ranks=together.ranks if together else 1,
                start_from=before.adapter_dir if before else None,
            ),
            limits,
            lambda line: _report(job, resolved, line),
            together.command(job.student_command) if together else (),
        )
    if result.stopped == "cancelled":
        raise Cancelled
    summary = {
        **result.model_dump(),
        "recipe": resolved.model_dump(),
        "reasons": reasons,
        "planned": plan.model_dump(include={"hours", "peak_memory_gb", "seconds_per_step", "changes"}),
        "student": without_commit(job.arguments["student"]),
        **({"machines": together.hosts} if together else {}),
        **({"gave_way": gave_way} if gave_way else {}),
        **({"went_on_from": before.training.get("adapter_sha256")} if before else {}),
    }
    write_json(run.paths.training, summary)
    return summary


async def plan_training(job: Job) -> dict[str, Any]:
    """Write ``training_plan.json``. Nothing of a training that was done, or begun, is touched."""
    run = job.run
    options, notes = training_options(run.manifest.spec, job.arguments.get("options", {}))
    rows = job.paths.root / "dataset"
    async with job.one_at_a_time(Path(job.arguments["training_lock_path"])):
        dataset.build_dataset(run, _val_split(run.manifest.spec, options), rows)
        plan = await make_training_plan(job, rows, options, notes)
    shutil.rmtree(rows)
    told = plan.model_dump(mode="json")
    write_json(run.paths.training_plan, told)
    return told


def _machines(job: Job, resolved: Recipe) -> machines.Machines | None:
    """The machines to train on, where the operator named some."""
    if not (hostfile := job.arguments.get("hostfile")):
        return None
    found = machines.read_hostfile(Path(hostfile))
    found.check(resolved)
    job.event("machines", hosts=found.hosts, backend=found.backend or "ring")
    return found


def _start_trackers(job: Job) -> None:
    """Start a process for each tracker. One that is not there is told of, and training goes on: it costs nothing that matters."""
    also = {name: value for name, value in os.environ.items() if name.startswith(OWN_VARIABLES)}
    for tracker in job.arguments.get("trackers", []):
        try:
            check_installed(tracker)
        except NanodistillError as error:
            job.event("tracker", tracker=tracker, told=str(error))
            continue
        log = job.paths.root / "tracker.log"
        started = start_beside("cli.tracking", str(job.run.paths.root), tracker, log=log, also=also)
        job.event("tracker", tracker=tracker, told="is told of the training", pid=started.pid)


def _val_split(spec: RunSpec, options: Options) -> float:
    return recipe.preset_options(spec.preset, options).val_split or 0.0


def is_of_other_rows(run: Run) -> bool:
    """Is the dataset of an unfinished training made of other examples? A checkpoint of it has seen what was dropped."""
    built, written = run.paths.dataset / "manifest.json", run.paths.traces_amplified
    if (manifest := read_object(built)) is None:
        return False
    if known := manifest.get("examples_sha256"):
        changed = known != sha256_of(written)
    else:  # of a version that did not write it down: a clock that was set may mislead
        changed = built.stat().st_mtime_ns < written.stat().st_mtime_ns
    return changed or moved_since_dataset(run)


def _report(job: Job, resolved: Recipe, line: dict[str, Any]) -> None:
    match line.get("event"):
        case "step":
            job.progress(
                line["iteration"],
                resolved.iters,
                "training",
                **{
                    name: line[name]
                    for name in ("train_loss", "learning_rate", "tokens_per_second", "peak_memory_gb")
                    if name in line
                },
            )
        case "valid":
            job.progress(line["iteration"], resolved.iters, "training", valid_loss=line["valid_loss"])
        case "teaching":
            job.note(f"the local teacher's probabilities: {line['rows']} of {line['of']} rows")
        case "dataset" | "paused" | "resumed" | "cache_emptied":
            job.event(line.pop("event"), **line)
        case _:
            pass
