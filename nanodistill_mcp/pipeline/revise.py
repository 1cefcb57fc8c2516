"""The user drops, edits and approves rows: all of a call is checked before any of it is written."""

import difflib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio

from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.pipeline import answers
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.quality import HeldOut, NearDuplicates
from nanodistill_mcp.pipeline.revisions import Revisions, key_of, revisions_in, revisions_of
from nanodistill_mcp.pipeline.seeds import MAX_CHARS
from nanodistill_mcp.pipeline.tables import plain_text
from nanodistill_mcp.pipeline.test_sets import held_out_inputs
from nanodistill_mcp.runs.journal import Journal, JournalReading
from nanodistill_mcp.runs.records import EffectiveExample, Example, Rejected, Revision, RowChange
from nanodistill_mcp.runs.store import Run, now, read_records

MAX_CHANGES = 1000
"""Rows one call may touch: a call is one line in a file."""

_FIELDS = ("input", "thinking", "output")
_WAIT_S = 5.0
_LOOK_S = 0.05
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True)
class Wish:
    """What a caller wants of the rows."""

    drop: list[str]
    edit: list[dict[str, Any]]
    approve: list[str]


@dataclass
class Revised:
    """What a call changed, and how many examples there are now."""

    number: int = 0
    changes: list[RowChange] = field(default_factory=list[RowChange])
    unchanged: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    examples: int = 0
    moves_data: bool = False


@dataclass(frozen=True)
class _Row:
    """A row that can be named in a call."""

    key: str
    example: Example
    where: Literal["accepted", "dropped", "rejected"]
    approved: bool = False


async def revise(run: Run, wish: Wish) -> Revised:
    """Check a call and write it to ``revisions.jsonl`` as one line.

    Raises:
        UserInputError: A part of it is not accepted; nothing was written.
        RunStateError: There are no examples yet, amplify is making them, or another server is writing.
    """
    run.check_writable()
    if not run.paths.traces_amplified.exists():
        raise RunStateError(
            f"Run {run.run_id!r} has no examples to revise yet.",
            next_step=f"Call amplify(run_id={run.run_id!r}) first.",
        )
    if (job := active_job(run)) and job.stage == "amplify":
        raise RunStateError(
            "amplify of this run is still making examples.",
            next_step=f"Call get_status(run_id={run.run_id!r}, wait_s=20), and revise when it is done.",
        )
    checked = _check(run, revisions_of(run), wish)
    if not checked.changes:
        return checked
    async with _alone(run) as journal:  # another server may have been first, so it is checked again
        before = revisions_in(JournalReading(journal.records, journal.damaged_lines))
        checked = _check(run, before, wish)
        if checked.changes:
            checked.number = before.number + 1
            revision = Revision(number=checked.number, at=now(), moves_data=checked.moves_data, changes=checked.changes)
            await journal.append_async(revision.model_dump())
    return checked


@asynccontextmanager
async def _alone(run: Run) -> AsyncGenerator[Journal]:
    """The file of revisions, opened for this process alone; another one has it for a moment only."""
    journal = None
    with anyio.move_on_after(_WAIT_S):
        while journal is None:
            try:
                journal = Journal.open(run.paths.revisions)
            except RunStateError:
                await anyio.sleep(_LOOK_S)
    if journal is None:
        raise RunStateError(
            "Another server is writing this run's revisions.",
            next_step="Call revise_examples again; nothing was changed.",
        )
    with journal:
        yield journal


def _check(run: Run, before: Revisions, wish: Wish) -> Revised:
    """What a call would change.

    Raises:
        UserInputError: A part of it is not accepted.
    """
    if not (wish.drop or wish.edit or wish.approve):
        raise UserInputError("There is nothing to change.", next_step=f"Give drop, edit or approve. {_listing(run)}")
    if len(wish.drop) + len(wish.edit) + len(wish.approve) > MAX_CHANGES:
        raise UserInputError(f"One call changes at most {MAX_CHANGES} rows.", next_step="Make several calls.")
    rows = _rows(run, before)
    edits = _edits(wish.edit)
    for name, ids in (("drop", wish.drop), ("edit", list(edits)), ("approve", wish.approve)):
        for number, row_id in enumerate(ids, 1):
            if row_id not in rows:
                named = f"'{row_id}'" if _ID.match(row_id) else f"(number {number} of {name})"
                raise UserInputError(
                    f"There is no row {named} in this run; nothing was changed.", next_step=_listing(run)
                )
    if both := set(wish.drop) & {*edits, *wish.approve}:
        raise UserInputError(
            f"Row '{min(both)}' is to be dropped and kept at once; nothing was changed.",
            next_step="Name it in drop, or in edit and approve.",
        )
    found, form = Revised(), _Form(run)
    _edit(form, rows, edits, set(wish.approve), found)
    _approve(form, rows, dict.fromkeys(wish.approve), found)
    for row_id in dict.fromkeys(wish.drop):
        row = rows[row_id]
        if row.where == "accepted":
            found.changes.append(RowChange(action="drop", key=row.key, row=row.example))
        else:
            found.unchanged.append(row_id)
    _check_whole(run, before, found)
    return found


def _rows(run: Run, before: Revisions) -> dict[str, _Row]:
    """Every row that can be named: accepted, dropped before, rejected."""
    rows: dict[str, _Row] = {}
    seed_ids = {seed.id for seed in run.seeds()}
    for rejected in read_records(run.paths.rejected, Rejected):
        key = key_of(rejected.input)
        rows[rejected.id] = _Row(key, _candidate(rejected, seed_ids), "rejected")
    for key, state in before.states.items():
        if state.dropped:
            rows[state.row.id] = _Row(key, state.row, "dropped")
    for key, row in before.keyed(read_records(run.paths.traces_amplified, Example)):
        example = Example.model_validate(row.model_dump())
        rows[row.id] = _Row(key, example, "accepted", row.approved)
    return rows


def _candidate(rejected: Rejected, seed_ids: set[str]) -> Example:
    """A rejected row as the example it would be. Its reasoning is left out: it led to another answer, or to none."""
    known = {name: value for name, value in rejected.model_dump().items() if name in Example.model_fields}
    is_seed = rejected.id in seed_ids
    made = {"thinking": "", "confidence": 0.0, "origin": "seed" if is_seed else "synthetic"}
    return Example.model_validate({"parents": [rejected.id] if is_seed else [], **known, **made})


def _edits(asked: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The fields each row is to get."""
    edits: dict[str, dict[str, str]] = {}
    accepted = ("id", *_FIELDS)
    for number, item in enumerate(asked, 1):
        where = f"Number {number} of edit"
        if unknown := [name for name in item if name not in accepted]:
            near = difflib.get_close_matches(unknown[0], accepted, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserInputError(f"{where} has a field that is not accepted.{hint}", next_step=_EDIT_SHAPE)
        if not isinstance(item.get("id"), str) or len(item) == 1:
            raise UserInputError(f"{where} needs an id and at least one field to replace.", next_step=_EDIT_SHAPE)
        if item["id"] in edits:
            raise UserInputError(f"{where} edits a row that is edited before it.", next_step="Give each row once.")
        fields = {name: plain_text(item[name]) for name in _FIELDS if name in item}
        for name, text in fields.items():
            if not text and name != "thinking":
                raise UserInputError(f"{where} leaves the {name} empty.", next_step="Fill it in, or drop the row.")
            if len(text) > MAX_CHARS:
                raise UserInputError(
                    f"{where}: the {name} has more than {MAX_CHARS} characters.", next_step="Shorten it."
                )
        edits[item["id"]] = fields
    return edits


_EDIT_SHAPE = "Each edit is {id, and what to replace of input, thinking, output}."


def _edit(
    form: "_Form", rows: dict[str, _Row], edits: dict[str, dict[str, str]], approved: set[str], found: Revised
) -> None:
    for row_id, fields in edits.items():
        row = rows[row_id]
        if row.where != "accepted" and row_id not in approved:
            raise UserInputError(
                f"Row '{row_id}' was {row.where}, so an edit alone changes nothing.",
                next_step=f"Name it in approve too: approve=['{row_id}'].",
            )
        after = row.example.model_copy(update=fields)
        if after == row.example:
            found.unchanged.append(row_id)
            continue
        if "output" in fields and "thinking" not in fields and after.thinking and not form.agree(row.example, after):
            after = after.model_copy(update={"thinking": ""})
            found.warnings.append(
                f"{row_id}: its reasoning led to the former output and was removed; edit thinking to teach one."
            )
        if set(fields) == {"input"}:
            found.warnings.append(f"{row_id}: output and reasoning are still those of the former input.")
        form.check_output(row_id, after)
        if after.input != row.example.input:
            form.check_input(row_id, after.input)
        rows[row_id] = _Row(row.key, after, row.where, row.approved)
        changed = [name for name in _FIELDS if getattr(after, name) != getattr(row.example, name)]
        found.changes.append(RowChange(action="edit", key=row.key, row=after, fields=changed))


def _approve(form: "_Form", rows: dict[str, _Row], wanted: dict[str, None], found: Revised) -> None:
    for row_id in wanted:
        row = rows[row_id]
        if row.approved and row.where == "accepted":
            found.unchanged.append(row_id)
            continue
        if row.where == "rejected":
            if not row.example.output:
                raise UserInputError(
                    f"Row '{row_id}' was rejected before it had an output.",
                    next_step=f"Give one in the same call: edit=[{{'id': '{row_id}', 'output': '...'}}].",
                )
            form.check_output(row_id, row.example)
            if row.example.origin != "seed":
                form.check_input(row_id, row.example.input)
            if not row.example.thinking:
                found.warnings.append(
                    f"{row_id}: it has no reasoning and teaches the answer alone; edit thinking to give one."
                )
        found.changes.append(RowChange(action="approve", key=row.key, row=row.example))


def _check_whole(run: Run, before: Revisions, found: Revised) -> None:
    """What only the rows together can break, and what must be remembered of where the changed ones stood."""
    written = list(read_records(run.paths.traces_amplified, Example))
    standing = before.keyed(written)
    beside = NearDuplicates()
    for _, row in standing:
        beside.add(row.input, row.output)
    for change in found.changes:
        change.beside = sorted({standing[place][0] for place in beside.near(change.row.input)} - {change.key})
    rows = before.plus(found.changes).keyed(written)
    found.examples = len(rows)
    found.moves_data = _taught(rows) != _taught(standing)
    if found.changes and not rows:
        raise UserInputError(
            "No example would be left to train on; nothing was changed.", next_step="Leave some, or call amplify again."
        )
    touched = {change.key for change in found.changes}
    held: dict[str, str] = {}
    for key, row in rows:
        other = held.setdefault(answers.normalize(row.input), key)
        if other != key and touched & {other, key}:
            named = row.id if key in touched else next(row.id for known, row in rows if known == other)
            raise UserInputError(
                f"Row '{named}' would have the same input as another row; nothing was changed.",
                next_step="Drop one of the two, or edit it to be another example.",
            )


def _taught(rows: list[tuple[str, EffectiveExample]]) -> list[tuple[str, ...]]:
    """What training sees of the rows."""
    return [(row.id, row.input, row.thinking, row.output) for _, row in rows]


_CORRECT = "Correct it with edit, or change the policy with extract_policy first."


class _Form:
    """What an output and an input must be like in this run."""

    def __init__(self, run: Run) -> None:
        self._checking = checking_of(run)
        self._held_out = HeldOut(held_out_inputs(run))

    def agree(self, one: Example, other: Example) -> bool:
        return self._checking.agree(one.output, other.output)

    def check_output(self, row_id: str, row: Example) -> None:
        match self._checking.fault(row.output):
            case "":
                return
            case "schema":
                what, step = "does not keep the answers' JSON Schema", "Correct it with edit."
            case "not_a_choice":
                what, step = "is not one of the policy's choices", _CORRECT
            case "unfit":
                what, step = f"is not an answer of the form {self._checking.checker}", _CORRECT
        raise UserInputError(f"The output of row '{row_id}' {what}; nothing was changed.", next_step=step)

    def check_input(self, row_id: str, text: str) -> None:
        if self._held_out.contaminates(text):
            raise UserInputError(
                f"The input of row '{row_id}' gives a held-out example away; nothing was changed.",
                next_step="Write another input: a model that was trained on the test proves nothing.",
            )


def _listing(run: Run) -> str:
    return (
        f"Rows are listed by read_artifact(run_id={run.run_id!r}, artifact='examples.jsonl'), "
        "rejected ones by artifact='rejected.jsonl'."
    )
