"""A child of an evaluated run: new examples only where its student fails, and training that goes on from its best checkpoint.

Held-out examples decide which groups get more examples, so a child is chosen by them to a small degree; none of them is ever
shown to the teacher, nor an example near to one accepted.
"""

import shutil
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.clone import borrowed, check_clone
from nanodistill_mcp.pipeline.inherited import Focus
from nanodistill_mcp.pipeline.plan import Request
from nanodistill_mcp.runs.files import read_lines, read_object, write_atomic, write_json, write_lines
from nanodistill_mcp.runs.journal import encode
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Plan, Range, StageEstimate, State
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import Settings

_SHARE, _FEWEST, _MOST = 0.5, 40, 1000
"""New examples, when no number is given: half as many as there are, within these bounds."""
_GENTLER = 0.5
"""Of the parent's learning rate: what was learnt is to be kept."""

_LEAST_WEIGHT = 0.5

_Askable = Literal["topic", "difficulty", "persona", "answer"]
_ASKABLE: tuple[_Askable, ...] = get_args(_Askable)


@dataclass(frozen=True)
class Refinement:
    """A child as it is to be made."""

    parent: Run
    request: Request
    focus: list[Focus]
    examples: int
    """New ones wanted."""

    @property
    def target(self) -> int:
        """Examples wanted in all."""
        return self.examples + sum(1 for _ in read_lines(self.parent.paths.traces_amplified))

    def write(self, paths: RunPaths) -> None:
        """Put into the child's folder what it has of its parent. Its first two stages are done with that."""
        theirs = self.parent.paths
        write_atomic(paths.calls, b"".join(map(encode, borrowed(self.parent))))
        if theirs.revisions.exists():
            shutil.copyfile(theirs.revisions, paths.revisions)
        if theirs.test_rows.exists():
            shutil.copyfile(theirs.test_rows, paths.test_rows)
        if theirs.answered.is_dir():  # the base answers as it did
            shutil.copytree(theirs.answered, paths.answered)
        paths.parent.mkdir(mode=0o700)
        shutil.copytree(theirs.adapters, paths.parent / "adapters")
        shutil.copyfile(theirs.traces_amplified, paths.parent / "examples.jsonl")
        shutil.copyfile(theirs.answers, paths.parent / "answers.jsonl")
        shutil.copyfile(theirs.training, paths.parent / "training.json")
        shutil.copyfile(theirs.evaluation, paths.parent / "evaluation.json")
        folds = {
            row["id"]: fold
            for fold in ("train", "valid", "test")
            for row in read_lines(theirs.dataset / f"{fold}.jsonl")
        }
        write_json(paths.parent / "folds.json", folds)
        write_json(paths.parent / "focus.json", [each.model_dump() for each in self.focus])
        write_lines(paths.traces_cot, list(read_lines(theirs.traces_cot)))
        shutil.copytree(theirs.policies, paths.policies)
        write_json(paths.policy, read_object(theirs.policy))


def check_refine(settings: Settings, parent: Run, name: str, examples: int, budget_usd: float) -> Refinement:
    """Check what a child is to be like.

    Raises:
        RunStateError: The parent is not evaluated as it is now.
        UserInputError: It fails nowhere, or the name or the budget is not accepted.
    """
    if states.stage_status(parent, "evaluate").state is not State.DONE or states.is_outdated(parent, "evaluate"):
        raise RunStateError(
            "Where this student fails is not known yet.",
            next_step=f"Call evaluate(run_id={parent.run_id!r}) first, after train.",
        )
    evaluation = states.stage_result(parent, "evaluate") or {}
    if not any(part.get("failures") for part in _sets(evaluation)):
        raise UserInputError(
            "This student failed in none of the examples it was proved on.",
            next_step=f"Call evaluate(run_id={parent.run_id!r}, test_path=...) with harder ones, or export_gguf.",
        )
    trained = states.stage_result(parent, "train") or {}
    recipe: dict[str, Any] = trained["recipe"]
    kept = {
        "fine_tune_type": recipe["fine_tune_type"],
        "lora_rank": recipe["lora_rank"],
        "lora_scale": recipe["lora_scale"],
        "lora_layers": recipe["num_layers"],
        "lora_keys": recipe.get("lora_keys"),
        "lora_alpha": None,
        "learning_rate": _GENTLER * recipe["learning_rate"],
    }
    request = check_clone(settings, parent, name, {"options": kept, "budget_usd": budget_usd})
    there_are = sum(1 for _ in read_lines(parent.paths.traces_amplified))
    wanted = examples or min(max(round(_SHARE * there_are), _FEWEST), _MOST)
    return Refinement(parent, request, focus_of(evaluation), wanted)


def focus_of(evaluation: dict[str, Any]) -> list[Focus]:
    """The groups of failures that new examples can be asked for, weighted by their failures beyond the usual share.

    Several groups that come to the same cell, such as an answer and what it is mistaken for, share rows: the heaviest counts.
    """
    found: dict[tuple[str, str], Focus] = {}
    for part in _sets(evaluation):
        wrong = part["student"]["rows"] - part["student"]["correct"]
        share = wrong / part["student"]["rows"]
        for group in part.get("failure_groups", []):
            named = _asked_for(group["dimension"], group["value"])
            if named is None:
                continue
            beyond = group["wrong"] - share * group["rows"]
            because = f"{group['dimension']} {group['value']}: {group['wrong']} of {group['rows']} wrong"
            known = found.get(named)
            found[named] = Focus(
                cell=dict([named]),
                weight=round(max(beyond, _LEAST_WEIGHT, known.weight if known else 0.0), 3),
                because=f"{known.because}; {because}" if known else because,
            )
    return sorted(found.values(), key=lambda each: -each.weight)


def amplify_alone(plan: Plan, refinement: Refinement) -> Plan:
    """A plan of the child: of the stages that pay, only amplify is left, and it makes only what is new."""
    whole = plan.by_stage["amplify"]
    share = refinement.examples / max(1, plan.target_examples - plan.train_seeds)

    def part(of: Range, digits: int = 0) -> Range:
        return Range(low=round(share * of.low, digits), high=round(share * of.high, digits))

    amplify = StageEstimate(
        calls=part(whole.calls),
        input_tokens=part(whole.input_tokens),
        output_tokens=part(whole.output_tokens),
        cost_usd=part(whole.cost_usd, 4) if whole.cost_usd else None,
    )
    return plan.model_copy(
        update={
            "target_examples": refinement.target,
            "teacher_calls": amplify.calls,
            "teacher_tokens": amplify.tokens,
            "cost_usd": amplify.cost_usd,
            "by_stage": {"amplify": amplify},
            "teacher_minutes": part(plan.teacher_minutes, 1) if plan.teacher_minutes else None,
        }
    )


def _sets(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    return [evaluation[name] for name in ("held_out", "synthetic") if name in evaluation]


def _asked_for(dimension: str, value: str) -> tuple[str, str] | None:
    """A group's cell; None for what no example can be asked to be, such as unfinished."""
    if dimension == "mistaken for":
        return "answer", value.split(" → ", maxsplit=1)[0]
    return (dimension, value) if dimension in _ASKABLE else None
