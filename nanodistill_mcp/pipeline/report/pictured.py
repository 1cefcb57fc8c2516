"""What the two pictures show: the curve of a training, which may have taken several jobs, and the scores."""

import math
from typing import Any

from nanodistill_mcp.figures.shapes import LossCurve, Points, Score, ScoredSet
from nanodistill_mcp.pipeline.report import numbers
from nanodistill_mcp.pipeline.report.facts import Facts
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.store import Run

NOTHING: dict[str, Any] = {}

SET_NAMES = {"held_out": "held-out examples", "synthetic": "synthetic examples", "general": "general questions"}


def curve_of(run: Run, training: dict[str, Any]) -> LossCurve | None:
    """The training's losses; None when no job left any."""
    lines, resumed = losses_of(run)
    per_update = max(1, training["recipe"]["grad_accumulation_steps"])

    def series(event: str, name: str) -> Points:
        return [(line["iteration"] / per_update, line[name]) for line in lines if line["event"] == event]

    train, valid = series("step", "train_loss"), series("valid", "valid_loss")
    if not train:
        return None
    diverged = training["stopped"] == "diverged"
    return LossCurve(
        title=_curve_title(training, train, valid, per_update),
        train=train,
        valid=valid,
        learning_rate=series("step", "learning_rate"),
        best=training["best_iteration"] / per_update,
        resumed=[at / per_update for at in resumed],
        diverged=max(x for x, _ in train + valid) if diverged else None,
    )


def scored_sets(facts: Facts) -> list[ScoredSet]:
    """Every set that was answered, with the GGUF file beside the student it was made of."""
    gguf = facts.gguf_score
    found: list[ScoredSet] = []
    sets = dict(facts.sets)
    if general := (facts.evaluation or {}).get("general"):
        sets["general"] = general
    if gguf and gguf["set"] not in sets:  # exported, never evaluated: MLX was asked the same
        sets = {gguf["set"]: {"student": gguf["mlx"]}, **sets}
    for name, part in sets.items():
        scores = [_score(model, part[model]) for model in ("base", "student") if part.get(model)]
        scores += [_score("GGUF", gguf)] if gguf and gguf["set"] == name else []
        scores += [_score("teacher", part["teacher"])] if part.get("teacher") else []
        rows = max(score.rows for score in scores)
        teacher: dict[str, Any] = part.get("teacher", NOTHING)
        note = "; the teacher may have seen the answers" if teacher.get("may_have_seen_answers") else ""
        found.append(ScoredSet(f"{SET_NAMES[name]} (n = {rows:,}{note})", scores))
    return found


def scorecard_title(sets: list[ScoredSet]) -> str:
    """What the picture shows, in one line: the first set."""
    name = sets[0].name.split(" (")[0]
    found = {score.model: score.share for score in sets[0].scores}
    told = [f"{model} {found[model]}" for model in ("student", "base", "GGUF") if model in found]
    return f"{name.capitalize()}: {', '.join(told[:2])}"


def _score(model: str, score: dict[str, Any]) -> Score:
    low, high = score["interval_95"]
    told = numbers.share(score["accuracy"])
    return Score(model, score["rows"], score["correct"], score["accuracy"], told, low, high)


def losses_of(run: Run) -> tuple[list[dict[str, Any]], list[int]]:
    """The events of a training in order, and the iterations at which it was taken up again.

    A job that goes on from a checkpoint repeats what came after it, and one that begins anew repeats all: what a later job
    reached counts.
    """
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    resumed: list[int] = []
    for job in run.paths.job_list():
        if job.stage != "train":
            continue
        told = [line for line in read_lines(job.metrics, appended=True) if line.get("event") in ("step", "valid")]
        first = next((line["iteration"] for line in told if line["event"] == "step"), None)
        if first is not None:
            before = first - 1  # the checkpoint it went on from
            kept = {key: line for key, line in kept.items() if before and key[1] <= before}
            resumed = [at for at in resumed if at < before] + ([before] if before else [])
        kept |= {(line["event"], line["iteration"]): line for line in told}
    return sorted(kept.values(), key=lambda line: line["iteration"]), resumed


def _curve_title(training: dict[str, Any], train: Points, valid: Points, per_update: int) -> str:
    best = training["best_iteration"] / per_update
    if training["stopped"] == "diverged":
        return f"The training diverged; the model is the one of update {best:g}"
    what, series = ("Validation", valid) if valid else ("Training", train)
    finite = [(x, y) for x, y in series if math.isfinite(y)]
    if not finite:
        return f"{what} loss"
    begun, reached = finite[0][1], dict(finite).get(best, finite[-1][1])
    moved = "fell" if reached < begun else "rose" if reached > begun else "stayed"
    return f"{what} loss {moved} from {numbers.loss(begun)} to {numbers.loss(reached)}"
