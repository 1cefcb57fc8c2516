"""A run's state, derived each time it is asked for: from what lies in the folder, and from who holds its locks."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_never

from nanodistill_mcp.jobs.launch import Alive, Finished, Lost, observe
from nanodistill_mcp.jobs.memory import free_disk_bytes
from nanodistill_mcp.jobs.processes import is_same
from nanodistill_mcp.pipeline.revisions import moved_since_dataset
from nanodistill_mcp.runs.files import read_object
from nanodistill_mcp.runs.journal import FollowedSpend, read_journal
from nanodistill_mcp.runs.paths import JobPaths, RunPaths
from nanodistill_mcp.runs.questions import Open, Questions
from nanodistill_mcp.runs.records import PIPELINE, Control, Exit, Heartbeat, JobRequest, Paid, Spend, Stage, State
from nanodistill_mcp.runs.store import Run, read_record
from nanodistill_mcp.settings import HOST_TEACHER
from nanodistill_mcp.teacher.batch_book import open_batches

COSTS: frozenset[Stage] = frozenset(("synthesize_cot", "extract_policy", "amplify"))
"""Stages that pay the teacher."""

_SILENT_FROM_S = 30.0
"""A busy machine delays a heartbeat by seconds."""

_FOLLOWED = FollowedSpend()
"""A running stage is asked about every few seconds, and its journal only grows."""

_FULL_BYTES = 1 << 20
"""With less room than this nothing of a run can be written."""


BUILDS_ON: dict[Stage, Stage] = {
    "extract_policy": "synthesize_cot",
    "amplify": "extract_policy",
    "train": "amplify",
    "evaluate": "train",
    "export_gguf": "train",
    "compare_models": "train",
    "plan_training": "amplify",
}
"""The stage whose product each stage builds on."""


@dataclass(frozen=True)
class StageStatus:
    """How one stage of a run is."""

    stage: Stage
    state: State
    done: int = 0
    total: int = 0
    message: str = ""
    live: dict[str, Any] = field(default_factory=dict[str, Any])
    heartbeat_at: str = ""
    exit: Exit | None = None
    job: JobPaths | None = None
    held: str = ""
    """Why it rests although the user did not pause it; it goes on by itself."""
    questions: Open | None = None
    """What the stage asks the calling agent, when that is the teacher and the stage is one that asks it."""


def product_of(paths: RunPaths, stage: Stage) -> Path:
    """The file a stage writes last: it exists exactly when the stage is done."""
    match stage:
        case "synthesize_cot":
            return paths.traces_cot
        case "extract_policy":
            return paths.policy
        case "amplify":
            return paths.traces_amplified
        case "train":
            return paths.training
        case "evaluate":
            return paths.evaluation
        case "export_gguf":
            return paths.export
        case "compare_models":
            return paths.comparison
        case "plan_training":
            return paths.training_plan
        case _:
            assert_never(stage)


def stage_status(run: Run, stage: Stage) -> StageStatus:
    """The state of a stage: its living job, else its product, else how its last job ended."""
    jobs = [job for job in run.paths.job_list() if job.stage == stage]
    finished = product_of(run.paths, stage).exists()
    if not jobs:
        return StageStatus(stage, State.DONE, message="done") if finished else StageStatus(stage, State.NEW)
    newest = jobs[-1]
    match observe(run, newest):
        case Alive(heartbeat=beat):
            return _living(run, stage, newest, beat)
        case Finished(exit=ended) if finished:
            if ended.outcome == "done":
                return StageStatus(stage, State.DONE, message="done", exit=ended, job=newest)
            return StageStatus(stage, State.DONE, message=_another_try(ended), job=newest)
        case Finished(exit=ended):
            return _with_batches(run, _ended(stage, newest, ended))
        case Lost() if finished:
            return StageStatus(stage, State.DONE, message="done", job=newest)
        case Lost():
            beat = read_record(newest.heartbeat, Heartbeat) or Heartbeat(at="")
            message = "its worker ended before the stage was done; what it finished is kept"
            if free_disk_bytes(run.paths.root) < _FULL_BYTES:  # then its own last words could not be written either
                message = "the disk is full, so its worker ended; what it finished is kept. Free some space first"
            found = StageStatus(
                stage, State.INTERRUPTED, beat.done, beat.total, message, beat.live, beat.at, job=newest
            )
            return _with_batches(run, found)


def is_outdated(run: Run, stage: Stage) -> bool:
    """Was the stage this one builds on done again since this one was, or what it made revised?"""
    below = BUILDS_ON.get(stage)
    if below is None:
        return False
    ours, theirs = product_of(run.paths, stage), product_of(run.paths, below)
    if not ours.exists():
        return False
    redone = theirs.exists() and _is_later(run, below, stage, ours.stat().st_mtime_ns < theirs.stat().st_mtime_ns)
    return redone or (stage == "train" and moved_since_dataset(run))


def _is_later(run: Run, below: Stage, stage: Stage, by_the_clock: bool) -> bool:  # noqa: FBT001 - what else is known
    """Was one stage done after another? The numbers of their jobs say so, whatever happened to the clock in between."""
    if below == "extract_policy":  # a user's own policy has no job
        return by_the_clock
    theirs, ours = _last_done(run, below), _last_done(run, stage)
    return theirs > ours if theirs and ours else by_the_clock


def _last_done(run: Run, stage: Stage) -> int:
    """The number of the job that made a stage's product; 0 when that cannot be said for sure."""
    for job in reversed(run.paths.job_list()):
        if job.stage != stage:
            continue
        ended = read_record(job.exit, Exit)
        if ended is None:
            return 0
        if ended.outcome == "done":
            return job.number
    return 0


def was_asked(run: Run, stage: Stage, arguments: dict[str, Any]) -> bool:
    """Did the stage's newest job get these very arguments? Then a call that repeats them asks for nothing new."""
    before = last_arguments(run, stage)
    return before is not None and all(before.get(name) == value for name, value in arguments.items())


def last_arguments(run: Run, stage: Stage) -> dict[str, Any] | None:
    """What the stage's newest job was asked to do; None when it had none."""
    jobs = [job for job in run.paths.job_list() if job.stage == stage]
    request = read_record(jobs[-1].request, JobRequest) if jobs else None
    return request.arguments if request else None


def stage_result(run: Run, stage: Stage) -> dict[str, Any] | None:
    """What a stage found, as it wrote it; None while it is not done."""
    return read_object(product_of(run.paths, stage))


def pipeline_status(run: Run) -> list[StageStatus]:
    """Every stage of a run, in order."""
    return [stage_status(run, stage) for stage in PIPELINE]


def spend(run: Run, stages: list[StageStatus] | None = None) -> Spend:
    """What the run's journal says was paid. A worker's open calls are not in doubt while it lives.

    Args:
        run: The run.
        stages: Its :func:`pipeline_status`, where that is at hand.
    """
    ended = _paid_at_last_end(run)
    if ended and run.paths.calls.exists() and ended.journal_bytes == run.paths.calls.stat().st_size:
        total = ended.spend
    else:
        total = _FOLLOWED.of(run.paths.calls, ended)
    living = any(found.state.active for found in stages or pipeline_status(run) if found.stage in COSTS)
    return total.model_copy(update={"in_doubt_calls": 0, "in_doubt_usd": 0.0}) if living else total


def _paid_at_last_end(run: Run) -> Paid | None:
    """What the last job to end found the journal to say."""
    ended = next((exit_ for job in reversed(run.paths.job_list()) if (exit_ := read_record(job.exit, Exit))), None)
    return ended.paid if ended else None


def _with_batches(run: Run, found: StageStatus) -> StageStatus:
    """Say of a stage that ended early what it left with the provider."""
    if found.stage != "amplify" or found.state not in (State.CANCELLED, State.INTERRUPTED):
        return found
    left = sum(len(batch.intents) for batch in open_batches(read_journal(run.paths.calls).records))
    if not left:
        return found
    message = f"{found.message}; {left} questions stay in a batch at the provider, and amplify goes on with it"
    return replace(found, message=message)


def _living(run: Run, stage: Stage, job: JobPaths, beat: Heartbeat) -> StageStatus:
    match beat.phase:
        case "queued":
            state = State.QUEUED
        case "paused":
            state = State.PAUSED
        case "running":
            state = State.RUNNING
        case _:
            assert_never(beat.phase)
    control = read_record(job.control, Control)
    held = beat.held if control is None or control.want != "pause" else ""
    message = held or beat.message or "starting"
    if control and control.want == "cancel":
        message = "cancelling"
    if (silent_s := _silent_s(beat)) >= _SILENT_FROM_S:
        message = f"{message}; no sign of life for {silent_s:.0f} s, so its worker is stopped, or the machine slept"
    questions = _open_questions(run, stage, job) if state is State.RUNNING else None
    if questions and questions.total:
        others = f", {questions.leased} of them given to an agent" if questions.leased else ""
        message = f"{message}: waiting for {questions.total} answers from you, the teacher{others}"
    numbers = (beat.done, beat.total, message, beat.live, beat.at)
    return StageStatus(stage, state, *numbers, job=job, held=held, questions=questions)


def _silent_s(beat: Heartbeat) -> float:
    """Seconds since the worker last said anything. Told, and never taken for its death: that is the lock's to say."""
    return (datetime.now(UTC) - datetime.fromisoformat(beat.at)).total_seconds() if beat.at else 0.0


def _open_questions(run: Run, stage: Stage, job: JobPaths) -> Open | None:
    if run.manifest.teacher_model != HOST_TEACHER:
        return None
    if stage == "compare_models":
        request = read_record(job.request, JobRequest)
        asks = request is not None and "teacher" in request.arguments.get("models", [])
    else:
        asks = stage in COSTS
    return Questions(run.paths.host).open_for(job.root.name, is_same) if asks else None


def _another_try(ended: Exit) -> str:
    """What became of the newest attempt at a stage that was done before."""
    if ended.outcome == "cancelled":
        return "This is what was there before: the newest attempt was cancelled."
    return f"This is what was there before: the newest attempt failed. {ended.what} {ended.next_step}"


def _ended(stage: Stage, job: JobPaths, ended: Exit) -> StageStatus:
    match ended.outcome:
        case "done":  # its product was removed since, by restart or by hand
            return StageStatus(stage, State.NEW, job=job)
        case "failed":
            return StageStatus(stage, State.FAILED, message=f"{ended.what} {ended.next_step}", exit=ended, job=job)
        case "cancelled":
            return StageStatus(
                stage, State.CANCELLED, message="cancelled; what was finished is kept", exit=ended, job=job
            )
        case _:
            assert_never(ended.outcome)
