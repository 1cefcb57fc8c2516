"""The student is trained: the dataset built, the recipe resolved, one trainer at a time on the machine."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.jobs.supervise import Cancelled, Job
from nanodistill_mcp.pipeline import dataset, recipe
from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.pipeline.revisions import moved_since_dataset
from nanodistill_mcp.runs.files import count_lines, write_json
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import RunSpec
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.student.requests import InspectRequest, Recipe, StudentFacts, TrainRequest, TrainResult


def training_options(spec: RunSpec, further: dict[str, Any]) -> Options:
    """The run's options with those given to train over them."""
    return Options.model_validate({**spec.options, **further})


async def train(job: Job) -> dict[str, Any]:
    """Write ``dataset/``, ``model/adapters/`` and, last, ``training.json``."""
    run = job.run
    spec = run.manifest.spec
    options = training_options(spec, job.arguments.get("options", {}))
    chosen = recipe.preset_options(spec.preset, options)
    async with job.one_at_a_time(Path(job.arguments["training_lock_path"])):
        job.progress(0, 0, "preparing the student")
        facts = await job.run_student(
            InspectRequest(student=job.arguments["student"], result_path=job.paths.root / "inspect.json"), StudentFacts
        )
        if _is_of_other_rows(run):
            archive_from(run, "train")
            job.event("begun_anew", reason="the examples were changed since this training began")
        if not (run.paths.dataset / "manifest.json").exists():
            dataset.build_dataset(run, chosen.val_split or 0.0)
        rows = count_lines(run.paths.dataset / "train.jsonl")
        resolved, reasons = recipe.resolve(spec.preset, options, rows=rows, layers=facts.layers)
        for name, reason in reasons.items():
            job.event("resolved", option=name, reason=reason)
        run.paths.checkpoints.mkdir(mode=0o700, exist_ok=True)
        run.paths.model.mkdir(mode=0o700, exist_ok=True)
        job.progress(0, resolved.iters, "training")
        result = await job.run_student(
            TrainRequest(
                student=job.arguments["student"],
                dataset_dir=run.paths.dataset,
                checkpoints_dir=run.paths.checkpoints,
                adapter_dir=run.paths.adapters,
                metrics_path=job.paths.metrics,
                control_path=job.paths.control,
                result_path=job.paths.root / "train.json",
                recipe=resolved,
            ),
            TrainResult,
            on_metric=lambda line: _report(job, resolved, line),
        )
    if result.stopped == "cancelled":
        raise Cancelled
    summary = {
        **result.model_dump(),
        "recipe": resolved.model_dump(),
        "reasons": reasons,
        "student": job.arguments["student"],
    }
    write_json(run.paths.training, summary)
    return summary


def _is_of_other_rows(run: Run) -> bool:
    """Is the dataset of an unfinished training older than the examples? A checkpoint of it has seen what was dropped."""
    built, written = run.paths.dataset / "manifest.json", run.paths.traces_amplified
    return built.exists() and (built.stat().st_mtime_ns < written.stat().st_mtime_ns or moved_since_dataset(run))


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
        case "dataset" | "paused" | "resumed":
            job.event(line.pop("event"), **line)
        case _:
            pass
