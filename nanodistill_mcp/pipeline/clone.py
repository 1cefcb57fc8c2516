"""A new run of another's examples with something changed: what was paid for and what the user decided goes along.

Stages are not copied. They are done again in the clone, where each question that is still the same finds its answer in the
journal: borrowed, at no cost, from the run that paid for it.

Examples that were given to a run, as import-data and adopt give them, were asked of nobody here, and there is no journal to find
them in: these go along as they are, and the clone begins where training does.
"""

import difflib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanodistill_mcp.errors import UserInputError, refused_values
from nanodistill_mcp.pipeline import plan, recipe
from nanodistill_mcp.pipeline.plan import Request
from nanodistill_mcp.pipeline.response_schemas import schema_check
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.runs.files import write_atomic, write_json
from nanodistill_mcp.runs.journal import Record, encode, read_journal
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Plan, Range, Revision, RunSpec
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import Settings

CHANGEABLE = tuple(name for name in RunSpec.model_fields if name != "seeds_sha256")
MOST_PER_SEED = 1000

_OF_GIVEN_ROWS = ("teacher", "augment_factor", "reasoning", "response_schema")
_OF_THE_EXAMPLES = ("test_path", "inputs_path", "held_out_split", "held_out", "malformed")
_IN_EVERY_QUESTION = ("temperature", "litellm", "teacher_max_tokens")


@dataclass(frozen=True)
class Carried:
    """What goes along into a clone."""

    calls: list[Record]
    revisions: list[Revision]
    policy: dict[str, Any] | None
    given: RunPaths | None = None
    """The run whose examples were given, and are this one's too."""

    @property
    def answers(self) -> int:
        """Questions whose outcome is at hand."""
        return len({record["call_id"] for record in self.calls if record["kind"] != "intent"})

    def write(self, paths: RunPaths) -> None:
        """Put it into a run's folder."""
        if self.calls:
            write_atomic(paths.calls, b"".join(map(encode, self.calls)))
        if self.revisions:
            write_atomic(paths.revisions, b"".join(encode(revision.model_dump()) for revision in self.revisions))
        if self.policy:
            paths.policies.mkdir(mode=0o700)
            write_json(paths.policies / "policy.v0.json", self.policy)
        if self.given:
            self._write_given(self.given, paths)

    def _write_given(self, theirs: RunPaths, ours: RunPaths) -> None:
        """Copy what the other run was given; its last file last."""
        shutil.copytree(theirs.policies, ours.policies)
        for source, target in zip(_given_files(theirs), _given_files(ours), strict=True):
            if source.exists():
                shutil.copyfile(source, target)


def _given_files(paths: RunPaths) -> list[Path]:
    return [paths.imported, paths.traces_cot, paths.policy, paths.rejected, paths.traces_amplified]


def has_given_examples(run: Run) -> bool:
    """Whether a run's examples came with it: it has them, and asked no teacher."""
    return run.paths.traces_amplified.exists() and not run.paths.calls.exists()


def asking_nobody(plan: Plan) -> Plan:
    """A plan whose examples are there already."""
    none = Range(low=0, high=0)
    return plan.model_copy(
        update={
            "teacher_calls": none,
            "teacher_tokens": none,
            "cost_usd": none,
            "by_stage": {},
            "teacher_minutes": None,
            "warnings": [told for told in plan.warnings if not told.startswith("The high estimate")],
        }
    )


def check_clone(settings: Settings, source: Run, name: str, changes: dict[str, Any]) -> Request:
    """Check what a clone is to be like.

    Raises:
        UserInputError: Names what is not accepted and says what is.
    """
    if name.casefold() == source.run_id.casefold():
        raise UserInputError(
            "A clone needs a name of its own.", next_step=f"For example name='{source.run_id[:60]}-2'."
        )
    if unknown := [key for key in changes if key not in CHANGEABLE]:
        near = difflib.get_close_matches(unknown[0], CHANGEABLE, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserInputError(
            f"One of the changes is not of a clone's settings.{hint}",
            next_step=f"A clone can change: {', '.join(CHANGEABLE)}. For other examples call create_run.",
        )
    spec = source.manifest.spec
    if has_given_examples(source):
        _check_given(spec, changes)
    options: Any = changes.get("options", {})
    if isinstance(options, dict):
        changes = {**changes, "options": _options(spec.options, options)}  # pyright: ignore[reportUnknownArgumentType]
    try:
        asked = RunSpec.model_validate({**spec.model_dump(), **changes})
    except ValidationError as error:
        raise UserInputError(
            f"The changes are not accepted: {refused_values(error)}.",
            next_step="Give each setting as create_run takes it.",
        ) from None
    if not 1 <= asked.augment_factor <= MOST_PER_SEED or asked.budget_usd < 0:
        raise UserInputError(
            f"augment_factor must lie between 1 and {MOST_PER_SEED}, and budget_usd not below 0.",
            next_step="Correct it and call clone_run again.",
        )
    request = plan.check_request(
        settings,
        name=name,
        seed=[],
        seed_path="",
        kept=(source.seeds(), source.inputs()),
        **asked.model_dump(exclude={"seeds_sha256"}),
    )
    return replace(request, wordings=_wordings(source))


def _check_given(spec: RunSpec, changes: dict[str, Any]) -> None:
    theirs, without_reasoning = spec.model_dump(), ("reasoning", "direct")
    changed = [
        name
        for name in _OF_GIVEN_ROWS
        if name in changes and changes[name] != theirs[name] and (name, changes[name]) != without_reasoning
    ]
    if changed:
        raise UserInputError(
            f"{', '.join(changed)}: the examples of this run were given to it, no teacher was asked for them, and a clone keeps them.",
            next_step="Leave it out; a clone can take another student, preset or options. For examples of a teacher call create_run "
            "with some of these as its seed.",
        )


def _wordings(source: Run) -> dict[str, str]:
    """The prompts the other run was made with, whatever the configuration says by now: else none of its answers would fit."""
    if not source.manifest.prompts:
        return {}
    from nanodistill_mcp.teacher.wording import stored_wordings  # noqa: PLC0415 - builds the shapes of all answers

    return stored_wordings(source.paths.prompts, source.manifest.prompts)


def _options(theirs: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The other run's options with the changed ones over them; None gives one back to the preset."""
    if of_examples := [name for name in _OF_THE_EXAMPLES if name in changes and changes[name] != theirs.get(name)]:
        raise UserInputError(
            f"{', '.join(of_examples)}: a clone keeps the other run's examples and its held-out ones.",
            next_step="Leave it out, or call create_run.",
        )
    return {name: value for name, value in {**theirs, **changes}.items() if value is not None}


def carried(source: Run, request: Request) -> Carried:
    """What a clone takes along. A job of the source may be running: its journal only grows, and what is there is whole."""
    spec = source.manifest.spec
    fits = (
        request.endpoint.model == source.manifest.teacher_model
        and request.spec.instruction == spec.instruction
        and _asked_with(request.spec) == _asked_with(spec)
    )
    keeps = schema_check(request.spec.response_schema)
    revisions: list[Revision] = []
    for revision in revisions_of(source).all:
        kept = [change for change in revision.changes if change.action == "drop" or keeps(change.row.output)]
        revisions.append(revision.model_copy(update={"changes": kept}))
    policy = source.policy()
    given = has_given_examples(source)
    own = policy if policy and policy.source != "teacher" and not given else None
    return Carried(
        calls=borrowed(source) if fits else [],
        revisions=revisions,
        policy=own.model_copy(update={"version": 0, "restored_from": -1}).model_dump() if own else None,
        given=source.paths if given else None,
    )


def _asked_with(spec: RunSpec) -> list[Any]:
    """What every question of a run holds beside its text, as its preset and options say."""
    options = recipe.preset_options(spec.preset, Options.model_validate(spec.options))
    return [getattr(options, name) for name in _IN_EVERY_QUESTION]


def borrowed(source: Run) -> list[Record]:
    """The records of every answered attempt, as another run's journal takes them: free, with who paid.

    Attempts that failed are left out, and so are those still in flight.
    """
    records = read_journal(source.paths.calls).records
    answered = {(record["call_id"], record["attempt"]) for record in records if record["kind"] == "answer"}
    taken: list[Record] = []
    for record in records:
        if (record.get("call_id"), record.get("attempt")) not in answered or record["kind"] == "error":
            continue
        lender = {"borrowed_from": record.get("borrowed_from", source.run_id)}
        paid = (
            {"cost_usd": 0.0, "lender_usd": record.get("lender_usd", record["cost_usd"])}
            if "cost_usd" in record
            else {}
        )
        taken.append({**record, **paid, **lender})
    return taken
