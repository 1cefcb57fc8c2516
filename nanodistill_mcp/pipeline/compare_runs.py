"""Two runs side by side: what was asked differently, what came of it on the same rows, and what each took."""

from collections import defaultdict
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.revisions import effective_examples, key_of
from nanodistill_mcp.pipeline.statistics import SIGNIFICANT_BELOW, Paired, paired, rows_needed, wilson
from nanodistill_mcp.runs.files import read_lines, read_object
from nanodistill_mcp.runs.records import Exit, RunSpec
from nanodistill_mcp.runs.store import Run, read_record

_CHARS_SHOWN = 300
_SETS = {"held_out": "held-out rows", "synthetic": "rows the teacher wrote"}

Key = tuple[str, str, str]
"""Id, input and expected output: what makes a row of two runs the same question."""


def compare_runs(first: Run, second: Run) -> dict[str, Any]:
    """What the files of two runs say beside each other. A pair of values is the first run's and the second's.

    Raises:
        UserInputError: Both are the same run.
    """
    if first.run_id == second.run_id:
        raise UserInputError("That is the same run.", next_step="Name another run: get_status() lists them.")
    scores = {name: found for name in _SETS if (found := _scores(first, second, name))}
    return {
        "runs": [first.run_id, second.run_id],
        "verdict": _verdict(first, second, scores),
        "asked_differently": _asked(first.manifest.spec, second.manifest.spec),
        "trained_differently": _trained(first, second),
        "data": _data(first, second),
        "scores": scores,
        "gguf": [_gguf(run) for run in (first, second)],
        "took": [_took(run) for run in (first, second)],
    }


def _asked(first: RunSpec, second: RunSpec) -> dict[str, list[Any]]:
    """The settings that differ; options by their names."""
    ours, theirs = first.model_dump(exclude={"seeds_sha256"}), second.model_dump(exclude={"seeds_sha256"})
    ours |= {f"options.{name}": value for name, value in ours.pop("options").items()}
    theirs |= {f"options.{name}": value for name, value in theirs.pop("options").items()}
    return _differing(ours, theirs)


def _trained(first: Run, second: Run) -> dict[str, list[Any]]:
    """The options of the two trainings that differ, as they were resolved; nothing while one is not trained."""
    ours, theirs = ((states.stage_result(run, "train") or {}).get("recipe", {}) for run in (first, second))
    return _differing(ours, theirs) if ours and theirs else {}


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, list[Any]]:
    names = [name for name in (ours | theirs) if ours.get(name) != theirs.get(name)]
    return {name: [_short(ours.get(name)), _short(theirs.get(name))] for name in names}


def _short(value: Any) -> Any:
    text = value if isinstance(value, str) else ""
    return f"{text[:_CHARS_SHOWN]}..." if len(text) > _CHARS_SHOWN else value


def _data(first: Run, second: Run) -> dict[str, Any]:
    """Whether seeds and policy are the same, and how many of the examples trained on."""
    ours, theirs = ({key_of(row.input): row for row in effective_examples(run)} for run in (first, second))
    shared = ours.keys() & theirs.keys()
    policies = [policy.model_dump(exclude={"version", "source", "restored_from"}) if (policy := run.policy()) else None for run in (first, second)]  # fmt: skip
    return {
        "same_seeds": first.manifest.spec.seeds_sha256 == second.manifest.spec.seeds_sha256,
        "same_policy": policies[0] == policies[1],
        "examples": [len(ours), len(theirs)],
        "examples_in_both": len(shared),
        "of_them_answered_alike": sum(ours[key].output == theirs[key].output for key in shared),
        "parent": [run.manifest.cloned_from or run.manifest.refined_from for run in (first, second)],
    }


def _scores(first: Run, second: Run, name: str) -> dict[str, Any] | None:
    """Both students on the rows that both answered; None when one has no rows of this set."""
    ours, theirs = _answered(first, name), _answered(second, name)
    if not ours or not theirs:
        return None
    shared = ours.keys() & theirs.keys()
    found: dict[str, Any] = {
        "rows": [len(ours), len(theirs)],
        "rows_in_both": len(shared),
        "student": [_share(list(each.values())) for each in (ours, theirs)],
    }
    checkers = [(states.stage_result(run, "evaluate") or {}).get("checker", "") for run in (first, second)]
    if checkers[0] != checkers[1]:
        return {**found, "not_comparable": f"answers were compared by different checkers: {checkers[0]}, {checkers[1]}"}
    if not shared:
        return {**found, "not_comparable": "the two share no row"}
    right = [{"\0".join(key) for key in shared if each[key]} for each in (ours, theirs)]
    pair = paired(right[0], right[1], ["\0".join(key) for key in shared])
    low, high = pair.interval()
    return {
        **found,
        "right_in_both": [len(each) for each in right],
        "only_one_right": [pair.only_first, pair.only_second],
        "difference": round(pair.difference, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "p_value": round(pair.p_value, 6),
        "shown": _is_shown(pair),
        "rows_needed": None if _is_shown(pair) else rows_needed(pair),
    }


def _answered(run: Run, name: str) -> dict[Key, bool]:
    """Whether the student answered each row rightly, as the evaluation of the student that is there found."""
    if not run.paths.evaluation.exists() or states.is_outdated(run, "evaluate"):
        return {}
    return {
        (row["id"], row["input"], row["expected"]): bool(row["student"]["correct"])
        for row in read_lines(run.paths.answers)
        if row.get("set") == name
    }


def _is_shown(pair: Paired) -> bool:
    """Is the difference more than chance explains, by the test and by the interval?"""
    low, high = pair.interval()
    return pair.p_value < SIGNIFICANT_BELOW and (low > 0 or high < 0)


def _share(right: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(right), len(right))
    return {
        "correct": sum(right),
        "accuracy": round(sum(right) / len(right), 4),
        "interval_95": [round(low, 4), round(high, 4)],
    }


def _verdict(first: Run, second: Run, scores: dict[str, dict[str, Any]]) -> str:
    """One sentence for the user. A difference that chance explains is not called one."""
    for name, found in scores.items():
        if why := found.get("not_comparable"):
            return f"On {_SETS[name]} the two cannot be held against each other: {why}."
        return _told(first.run_id, second.run_id, found, _SETS[name])
    unproved = [run.run_id for run in (first, second) if not run.paths.evaluation.exists()]
    if unproved:
        return f"Nothing can be said of which is better: not evaluated: {', '.join(unproved)}."
    return "Nothing can be said of which is better: an evaluation is older than its student, or the two have no rows alike."


def _told(first: str, second: str, found: dict[str, Any], rows: str) -> str:
    ours, theirs = found["right_in_both"]
    low, high = found["interval_95"]
    numbers = (
        f"{first} has {ours} right and {second} {theirs} of the {found['rows_in_both']} {rows} both answered "
        f"({found['difference']:+.1%}, 95% {low:+.1%} to {high:+.1%}, p = {found['p_value']:.3g})"
    )
    if found["shown"]:
        return f"{first if ours > theirs else second} is better: {numbers}, which chance does not explain."
    needed = found["rows_needed"]
    further = f"; should it stay like this, about {needed} rows would show it" if needed else ""
    return f"No difference is shown: {numbers}, which chance explains{further}."


def _gguf(run: Run) -> dict[str, Any] | None:
    export = read_object(run.paths.export)
    if export is None:
        return None
    told: dict[str, Any] = {name: export.get(name) for name in ("quantization", "gguf_bytes")}
    score: dict[str, Any] = export.get("accuracy") or {}
    return told | {name: score[name] for name in ("set", "rows", "accuracy", "interval_95") if name in score}


def _took(run: Run) -> dict[str, Any]:
    """What a run cost, and how long each stage's jobs took."""
    spend = states.spend(run)
    seconds: defaultdict[str, float] = defaultdict(float)
    for job in run.paths.job_list():
        if ended := read_record(job.exit, Exit):
            seconds[job.stage] += ended.elapsed_s
    return {
        "cost_usd": round(spend.usd, 6),
        "calls": spend.calls,
        "tokens": spend.input_tokens + spend.output_tokens,
        "elapsed_s": {stage: round(took, 1) for stage, took in seconds.items()},
    }
