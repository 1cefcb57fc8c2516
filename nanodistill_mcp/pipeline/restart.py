"""Redo a stage: its products, and those of the stages that built on them, go to the archive. Paid answers stay."""

import os
from datetime import UTC, datetime
from pathlib import Path

from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import PIPELINE, Stage
from nanodistill_mcp.runs.store import Run


def archive_from(run: Run, stage: Stage) -> list[str]:
    """Move what a stage and the later ones wrote to ``archive/<time>``.

    The last-written file of each stage goes first, so that a stage half archived never looks done.

    Returns:
        The names of what was moved.
    """
    target = run.paths.archive / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{stage}"
    moved: list[str] = []
    # What base and student answered is kept by what was asked of which adapter, so another training need not ask it again.
    again = [run.paths.answered] if stage == "evaluate" else []
    for later in PIPELINE[PIPELINE.index(stage) :]:
        for path in [*products_of(run.paths, later), *again]:
            if path.exists():
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                fault("archive.rename")
                os.rename(path, target / path.name)
                moved.append(path.name)
    fault("archive.fsync_dir")
    fsync_dir(run.paths.root)
    return moved


def products_of(paths: RunPaths, stage: Stage) -> list[Path]:
    """The files and folders a stage writes, the last-written one first."""
    match stage:
        case "synthesize_cot":
            return [paths.traces_cot]
        case "extract_policy":
            return [paths.policy]
        case "amplify":
            return [paths.traces_amplified, paths.rejected]
        case "train":
            return [paths.training, paths.checkpoints, paths.dataset, paths.model, paths.loss_picture, paths.report]
        case "evaluate":
            return [paths.evaluation, paths.answers, paths.comparison, paths.scorecard, paths.report]
        case "export_gguf":
            return [paths.export, paths.modelfile, paths.gguf, paths.exports, paths.scorecard, paths.report]
        case "compare_models":
            return [paths.comparison]
        case "plan_training":
            return [paths.training_plan]
