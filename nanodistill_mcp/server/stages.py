"""A stage tool in general: answer from what is there, attach to what runs, or start it; then wait a little."""

from itertools import islice
from typing import Any, Literal

import anyio
from mcp.server.mcpserver import Context

from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.jobs import launch
from nanodistill_mcp.jobs.launch import active_job, steer
from nanodistill_mcp.jobs.locks import is_held
from nanodistill_mcp.pipeline import spending
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.distilling import check_distilling
from nanodistill_mcp.pipeline.inherited import inherited
from nanodistill_mcp.pipeline.plan import check_endpoint, check_student
from nanodistill_mcp.pipeline.restart import archive_from
from nanodistill_mcp.pipeline.status import StageStatus
from nanodistill_mcp.pipeline.training_plan import is_planned, training_options
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Control, Stage, State
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.server.app import App, stage_reply
from nanodistill_mcp.server.next_steps import check_order
from nanodistill_mcp.server.replies import StageReply
from nanodistill_mcp.student.requests import without_commit

Action = Literal["pause", "resume", "stop", "cancel"]

MOST_JOBS = 20
"""Jobs of all runs at once. One of them trains; the others ask teachers, or wait their turn."""

_LOOK_S = 0.25
_EFFECT_S = 5.0


async def run_stage(
    app: App,
    ctx: Context[App],
    run_id: str,
    stage: Stage,
    arguments: dict[str, Any],
    *,
    wait_s: int,
    restart: bool,
    again: bool = False,
) -> StageReply:
    """Carry a stage out, once.

    Called on a finished stage it answers with its result and pays nothing; called while it runs it attaches; called after
    a failure or a crash it continues. ``restart`` archives and redoes; ``again`` runs a finished stage on new arguments.

    Raises:
        RunStateError: The stage before is not done, another job of this run runs, or too many of other runs do.
    """
    run = app.store.open(run_id)
    found = states.stage_status(run, stage)
    if not found.state.active and (found.state is not State.DONE or restart or again):
        run.check_writable()
        check_order(run, stage)
        _check_idle(run, stage)
        _check_room(app, run)
        _common(app, run)  # what it refuses is refused before anything is archived
        if restart and found.state is not State.NEW:
            archive_from(run, stage)
        job, _ = await launch.start(run, stage, {**_common(app, run), **arguments}, app.keys_for(run))
        if job.stage != stage:  # another server started it in the meantime
            _check_idle(run, stage)
    await wait_for_end(ctx, run, stage, wait_s)
    return stage_reply(run, stage)


def target_missed(app: App, run: Run) -> int:
    """How many examples amplify was to make when a cap ended it that has moved since; 0 when there is nothing to go on with."""
    ended = states.stage_status(run, "amplify").exit
    told = ended.summary.get("at_the_cap") if ended else None
    return int(ended.summary["target"]) if ended and told and spending.has_moved(told, run, app.settings.budget) else 0


def is_still_capped(app: App, run: Run, target: int) -> bool:
    """Did amplify end at a cap on its way to this target, and does the cap stand as it was?"""
    ended = states.stage_status(run, "amplify").exit
    told = ended.summary.get("at_the_cap") if ended else None
    if not ended or not told or ended.summary["target"] != target:
        return False
    return not spending.has_moved(told, run, app.settings.budget)


async def wait_for_end(ctx: Context[App], run: Run, stage: Stage, wait_s: int) -> None:
    """Wait until the stage ends or needs the caller, reporting progress; the job goes on either way."""
    reported = -1
    with anyio.move_on_after(wait_s):
        while (found := states.stage_status(run, stage)).state.active:
            if found.done > reported:  # progress must rise
                reported = found.done
                await ctx.report_progress(found.done, found.total or None, f"{stage}: {found.message}")
            await anyio.sleep(_LOOK_S)
            if _waits_for_caller(found):
                return


async def wait_for_change(ctx: Context[App], run: Run, wait_s: int) -> None:
    """Wait until any stage's state changes or one needs the caller, while a job runs."""
    job = launch.active_job(run)
    if job is None:
        return
    before = _states(run, job)
    reported = -1
    with anyio.move_on_after(wait_s):
        while _states(run, job) == before:
            found = states.stage_status(run, job.stage)  # pyright: ignore[reportArgumentType]
            if found.done > reported:
                reported = found.done
                await ctx.report_progress(found.done, found.total or None, f"{found.stage}: {found.message}")
            await anyio.sleep(_LOOK_S)
            if _waits_for_caller(found):
                return


def _waits_for_caller(found: StageStatus) -> bool:
    """Are there questions to the calling agent, and no agent at work on one? Then waiting would be for nothing."""
    return found.questions is not None and found.questions.free > 0 and not found.questions.leased


async def control(run: Run, action: Action) -> StageStatus:
    """Tell the run's job what is wanted of it, and wait a few seconds until it is so.

    Raises:
        RunStateError: No job runs.
        UserInputError: This stage cannot be stopped and kept.
    """
    job = active_job(run)
    if job is None:
        raise RunStateError(
            f"Run {run.run_id!r} has no running job.", next_step=f"Call get_status(run_id={run.run_id!r})."
        )
    if action == "stop" and job.stage != "train":
        raise UserInputError(
            f"Only a training can be stopped and kept; {job.stage} is running.",
            next_step="Accepted here: pause, resume, cancel. What a cancelled stage has finished is kept too.",
        )
    steer(job, Control(want="run" if action == "resume" else action))
    return await _wait_for_effect(run, job, action)


async def _wait_for_effect(run: Run, job: JobPaths, action: str) -> StageStatus:
    """Wait a few seconds until a job did what was asked of it."""
    wanted = {"pause": (State.PAUSED,), "resume": (State.RUNNING, State.QUEUED), "stop": (), "cancel": ()}[action]
    with anyio.move_on_after(_EFFECT_S):
        while True:
            found = states.stage_status(run, job.stage)  # pyright: ignore[reportArgumentType]
            if found.state in wanted or not found.state.active:
                break
            await anyio.sleep(_LOOK_S)
    return states.stage_status(run, job.stage)  # pyright: ignore[reportArgumentType]


async def plan_training(
    app: App, ctx: Context[App], run_id: str, options: dict[str, Any], *, wait_s: int, again: bool
) -> StageReply:
    """What train would do and take. Answered from the plan that is there when it is for the same; else found out by a job."""
    run = app.store.open(run_id)
    student = _pinned(app, run)
    new = not is_planned(run, training_options(run.manifest.spec, options)[0], student)
    arguments = {**training_arguments(app, run, options), "student": student}
    return await run_stage(
        app, ctx, run_id, "plan_training", arguments, wait_s=wait_s, restart=False, again=again or new
    )


def training_arguments(app: App, run: Run, options: dict[str, Any]) -> dict[str, Any]:
    """What a training's worker is told of its options, and where the local teacher they name lies.

    Raises:
        UserInputError: This server may not use that teacher, or the options make no sense together.
    """
    chosen = training_options(run.manifest.spec, options)[0]
    check_distilling(chosen)
    arguments: dict[str, Any] = {"options": options}
    if chosen.local_teacher:
        arguments["local_teacher"] = check_student(chosen.local_teacher, app.settings, "local teacher")
    return arguments


def training_surroundings(app: App) -> dict[str, Any]:
    """What the operator configured of trainings: who is told of one, and the machines it runs on.

    Raises:
        ConfigurationError: The host file is none.
    """
    arguments: dict[str, Any] = {"trackers": app.settings.trackers}
    if app.settings.hostfile:
        from nanodistill_mcp.pipeline.machines import read_hostfile  # noqa: PLC0415 - few servers have one

        arguments["hostfile"] = str(read_hostfile(app.settings.hostfile.expanduser()).hostfile)
    return arguments


def _common(app: App, run: Run) -> dict[str, Any]:
    """What every worker is told: where the teacher is, what it may cost, where the student is."""
    spec = run.manifest.spec
    return {
        "endpoint": check_endpoint(app.settings, spec.teacher).model_dump(mode="json"),
        "ceilings": app.settings.budget.model_dump(),
        "ledger_dir": str(app.store.home / "ledger"),
        "capabilities_path": str(app.capabilities_path),
        "training_lock_path": str(app.training_lock_path),
        "student": _student(app, run),
    }


def _student(app: App, run: Run) -> str:
    """Where the student lies: once trained, the very files it was trained from, wherever the hub has moved since."""
    before = inherited(run)
    trained = states.stage_result(run, "train") or (before.training if before else {})
    trained_from = trained.get("student_path")
    return trained_from or _pinned(app, run)


def _pinned(app: App, run: Run) -> str:
    """The run's student; one from the hub at the commit that was looked at when the run was made."""
    student, revision = check_student(run.manifest.spec.student, app.settings), run.manifest.student_revision
    return f"{without_commit(student)}@{revision}" if revision else student


def _check_idle(run: Run, stage: Stage) -> None:
    job = launch.active_job(run)
    if job is not None and job.stage != stage:
        raise RunStateError(
            f"{job.stage} of this run is still running, and a run does one thing at a time.",
            next_step=f"Call get_status(run_id={run.run_id!r}, wait_s=20), or control_job(run_id={run.run_id!r}, action='cancel').",
        )


def _check_room(app: App, run: Run) -> None:
    """Refuse to start a job beside too many others. Two servers that start one each at the same moment may make one more."""
    others = (other for other in app.store.all() if other.run_id != run.run_id)
    at_work = list(islice((other.run_id for other in others if is_held(other.paths.worker_lock)), MOST_JOBS))
    if len(at_work) >= MOST_JOBS:
        raise RunStateError(
            f"{MOST_JOBS} jobs of other runs are already at work or in the queue: {', '.join(at_work[:3])} and others.",
            next_step=f"Wait for one, for example with get_status(run_id={at_work[0]!r}, wait_s=20), or cancel one with control_job.",
        )


def _states(run: Run, job: JobPaths) -> tuple[object, ...]:
    return (*(found.state for found in states.pipeline_status(run)), launch.observe(run, job).__class__)
