"""What the tools share: the settings, the store, and the replies on a run and on a stage."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.report import NOT_WRITTEN
from nanodistill_mcp.pipeline.revisions import count_examples, revisions_of
from nanodistill_mcp.pipeline.status import StageStatus
from nanodistill_mcp.runs.records import Stage, State
from nanodistill_mcp.runs.store import Run, RunStore, saying_what_is_damaged
from nanodistill_mcp.server.artifacts import artifact_list
from nanodistill_mcp.server.next_steps import current_stage, next_step
from nanodistill_mcp.server.replies import SpendReply, StageLine, StageReply, StatusReply
from nanodistill_mcp.server.words import in_words
from nanodistill_mcp.settings import Settings

POLL_S = 5
BATCH_POLL_S = 60


@dataclass(frozen=True)
class App:
    """One server process. It holds no state of any run."""

    settings: Settings
    store: RunStore

    @property
    def capabilities_path(self) -> Path:
        return self.store.home / "capabilities.json"

    @property
    def checks_path(self) -> Path:
        """Where the answers of checks are kept that would be the same again."""
        return self.store.home / "checks"

    @property
    def training_lock_path(self) -> Path:
        return self.store.home / "training.lock"

    def keys_for(self, run: Run) -> dict[str, str]:
        """The variables the teacher's worker needs, from this server's environment."""
        names = [*run.manifest.key_variables, *self.settings.pass_environment]
        return {name: os.environ[name] for name in names if os.environ.get(name)}


def spend_reply(run: Run) -> SpendReply:
    """What the run paid so far."""
    spend = states.spend(run)
    return SpendReply(
        cost_usd=round(spend.usd, 6),
        budget_usd=run.budget().usd,
        calls=spend.calls,
        failed_calls=spend.failed_calls,
        input_tokens=spend.input_tokens,
        output_tokens=spend.output_tokens,
        in_doubt_calls=spend.in_doubt_calls,
        in_doubt_usd=round(spend.in_doubt_usd, 6),
    )


def stage_reply(run: Run, stage: Stage) -> StageReply:
    """Everything an agent needs to know of a stage."""
    with saying_what_is_damaged(run.run_id):
        return _stage_reply(run, stage)


def _stage_reply(run: Run, stage: Stage) -> StageReply:
    found = states.stage_status(run, stage)
    result = result_of(run, found) if found.state is State.DONE else {}
    return StageReply(
        run_id=run.run_id,
        stage=stage,
        state=found.state,
        done=found.done,
        total=found.total,
        message=message_of(found, result),
        live=found.live if found.state.active else {},
        result=result,
        spend=spend_reply(run),
        artifacts=artifact_list(run),
        next_step=next_step(run, found),
        poll_after_s=_poll_after_s(found) if found.state.active else 0,
    )


def message_of(found: StageStatus, result: dict[str, Any]) -> str:
    """What there is to say of a stage: what it found, else how far it is or how it ended."""
    if not result:
        return found.message
    told = in_words(found.stage, result) + _unwritten(found)
    return told if found.message in ("", "done") else f"{told} {found.message}"


def _unwritten(found: StageStatus) -> str:
    """What the stage's report lacks; nothing, as a rule."""
    missing: dict[str, str] = found.exit.summary.get(NOT_WRITTEN, {}) if found.exit else {}
    return "".join(f" {name} is missing or as it was before: {why}" for name, why in missing.items())


def result_of(run: Run, found: StageStatus) -> dict[str, Any]:
    """What a finished stage found."""
    match found.stage:
        case "plan_training":
            return {"dry_run": True, **(states.stage_result(run, found.stage) or {})}
        case "train" | "evaluate" | "export_gguf" | "compare_models":
            return states.stage_result(run, found.stage) or {}
        case "amplify":
            return {**found.exit.summary, **_revised(run)} if found.exit else {}
        case "synthesize_cot" | "extract_policy":
            return found.exit.summary if found.exit else {}


def _revised(run: Run) -> dict[str, Any]:
    """What the user's revisions left of the examples, once there are any."""
    revisions = revisions_of(run)
    return {"revised": {**revisions.counts(), "examples": count_examples(run)}} if revisions.number else {}


def _poll_after_s(found: StageStatus) -> int:
    """A batch takes minutes at best: looking more often would show nothing new."""
    return BATCH_POLL_S if found.live.get("batch") else POLL_S


def status_reply(run: Run, *, detail: bool) -> StatusReply:
    """A run at a glance."""
    with saying_what_is_damaged(run.run_id):
        return _status_reply(run, detail=detail)


def _status_reply(run: Run, *, detail: bool) -> StatusReply:
    stages = states.pipeline_status(run)
    current = current_stage(run, stages)
    living = current if current.state.active else None
    return StatusReply(
        run_id=run.run_id,
        folder=str(run.paths.root),
        stages=[_line(found) for found in stages],
        running=living.stage if living else "",
        spend=spend_reply(run),
        artifacts=artifact_list(run),
        detail={found.stage: result_of(run, found) for found in stages if found.state is State.DONE} if detail else {},
        next_step=next_step(run, current),
        poll_after_s=_poll_after_s(living) if living else 0,
    )


def _line(found: StageStatus) -> StageLine:
    message = found.message if found.message != "done" else ""
    live = found.live if found.state.active else {}
    return StageLine(
        stage=found.stage, state=found.state, done=found.done, total=found.total, message=message, live=live
    )
