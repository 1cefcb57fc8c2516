"""What is told of a call of revise_examples, and of a clone."""

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.clone import has_given_examples
from nanodistill_mcp.pipeline.inherited import inherited
from nanodistill_mcp.pipeline.policy_versions import carried_policy
from nanodistill_mcp.pipeline.revise import Revised
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import RowChange
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.server.artifacts import artifact_list
from nanodistill_mcp.server.replies import (
    CloneReply,
    CreateReply,
    FocusLine,
    NextStep,
    RefineReply,
    RevisedRow,
    ReviseReply,
)

_ROWS_SHOWN = 20
_CHARS_SHOWN = 120


def revise_reply(run: Run, revised: Revised) -> ReviseReply:
    """What a call changed, and what to do with it."""
    counts = {action: sum(c.action == action for c in revised.changes) for action in ("drop", "edit", "approve")}
    told = f"{counts['drop']} rows dropped, {counts['edit']} edited, {counts['approve']} approved"
    return ReviseReply(
        run_id=run.run_id,
        message=f"{told}; {revised.examples} examples are trained on." if revised.changes else "Nothing had to change.",
        number=revised.number,
        dropped=counts["drop"],
        edited=counts["edit"],
        approved=counts["approve"],
        unchanged=revised.unchanged,
        rows=[_row(change) for change in revised.changes[:_ROWS_SHOWN]],
        warnings=revised.warnings,
        examples=revised.examples,
        artifacts=artifact_list(run),
        next_step=_next_step(run, revised),
    )


def clone_reply(reply: CreateReply, run: Run, source: Run) -> CloneReply:
    """A clone, and what it has of the run it was made of."""
    borrowed = [record for record in read_journal(run.paths.calls).records if "borrowed_from" in record]
    answers = len({record["call_id"] for record in borrowed})
    number, policy = revisions_of(run).number, carried_policy(run) is not None
    along = [f"{answers} answers of {source.run_id} are at hand and cost nothing where the same is asked"]
    given = has_given_examples(source)
    if given:
        along = [f"The examples that {source.run_id} was given are this run's too; no teacher is asked for any"]
    if not answers and source.paths.calls.exists():
        along = ["No answer fits: the teacher, the instruction or a setting that is part of every question differs"]
    if policy:
        along.append("the user's own policy is its first, unless extract_policy is told otherwise")
    if number:
        other = run.manifest.spec.response_schema != source.manifest.spec.response_schema
        but = ", but for rows whose output does not keep the new response_schema" if other else ""
        paid = "" if given else "; amplify pays only to make up for dropped ones"
        along.append(f"the revisions of examples hold here too{but}{paid}")
    return CloneReply(
        **reply.model_dump(),
        cloned_from=source.run_id,
        message="; ".join(along) + ".",
        answers_at_hand=answers,
        revisions_carried=number,
        policy_carried=policy,
    )


def refine_reply(reply: CreateReply, run: Run) -> RefineReply:
    """A child, what it has of its parent, and where its new examples go."""
    parent, before = run.manifest.refined_from, inherited(run)
    if before is None:
        raise UserInputError(
            f"There is already a run {run.run_id!r} that was not refined from another.",
            next_step="Choose another name.",
        )
    total = sum(each.weight for each in before.focus)
    focus = [
        FocusLine(asked_for=each.cell, share=round(each.weight / total, 3), because=each.because)
        for each in before.focus
    ]
    there_are, wanted = len(before.folds), reply.plan.target_examples
    where = (
        f"where {parent} fails" if focus else f"over the whole task, because the failures of {parent} show no pattern"
    )
    return RefineReply(
        **reply.model_dump(),
        refined_from=parent,
        message=f"{there_are} examples and the best checkpoint of {parent} are here; {wanted - there_are} new ones are generated {where}.",
        examples_inherited=there_are,
        examples_wanted=wanted,
        focus=focus,
    )


def _row(change: RowChange) -> RevisedRow:
    row = change.row
    return RevisedRow(id=row.id, action=change.action, input=row.input[:_CHARS_SHOWN], output=row.output[:_CHARS_SHOWN])


def _next_step(run: Run, revised: Revised) -> NextStep:
    made = states.stage_status(run, "amplify").exit
    target, missing = (made.summary.get("target", 0), made.summary.get("missing", 0)) if made else (0, 0)
    if revised.examples < target and not missing:  # what stopped it short before would stop it again
        return NextStep(
            tool="amplify",
            arguments={"run_id": run.run_id, "target_size": target},
            why=f"{target - revised.examples} of {target} examples are missing now; only they are paid for. Or train with what there is.",
        )
    trained = states.product_of(run.paths, "train").exists()
    return NextStep(
        tool="train",
        arguments={"run_id": run.run_id, **({"restart": True} if trained else {})},
        why="The student learns from the examples as they are now.",
    )
