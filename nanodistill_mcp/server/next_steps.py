"""The call that moves a run on: for whatever state it is in, one tool with its arguments and the reason."""

from typing import Any

from nanodistill_mcp.errors import BudgetError, RunStateError
from nanodistill_mcp.pipeline import spending
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.revisions import moved_since_dataset
from nanodistill_mcp.pipeline.status import StageStatus
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import PIPELINE, Heartbeat, Stage, State
from nanodistill_mcp.runs.store import Run, read_record
from nanodistill_mcp.server.replies import NextStep


def current_stage(run: Run, stages: list[StageStatus]) -> StageStatus:
    """The stage that matters now: the one that runs, else the first that is not done."""
    living = next((found for found in stages if found.state.active), None)
    for beside in ("compare_models", "plan_training"):
        if living is None and (found := states.stage_status(run, beside)).state.active:
            living = found
    return living or next((found for found in stages if found.state is not State.DONE), stages[-1])


def _after_plan(run: Run, current: StageStatus) -> NextStep:
    """Look again while it is made; train by it when it is there."""
    options = (states.last_arguments(run, "plan_training") or {}).get("options", {})
    arguments: dict[str, Any] = {"run_id": run.run_id, **({"options": options} if options else {})}
    if current.state is State.DONE:
        if states.stage_status(run, "train").state is State.DONE:
            arguments["restart"] = True
        return NextStep(tool="train", arguments=arguments, why="It carries out this plan. Show it to the user first.")
    why = "The plan is being made." if current.state.active else "It was not finished."
    return NextStep(tool="train", arguments={**arguments, "dry_run": True}, why=why)


def next_step(run: Run, current: StageStatus) -> NextStep:
    """The call that moves the run on, given the stage that matters now."""
    if current.stage == "plan_training" and current.state is not State.PAUSED:
        return _after_plan(run, current)
    return _after_stage(run, current)


def _after_stage(run: Run, current: StageStatus) -> NextStep:
    run_id = run.run_id
    if current.questions is not None:
        return NextStep(
            tool="next_teacher_tasks",
            arguments={"run_id": run_id},
            why=f"{current.stage} asks you, the teacher: it goes on with every answer, and keeps what was answered.",
        )
    if current.state is State.PAUSED and not current.held:
        return NextStep(
            tool="control_job",
            arguments={"run_id": run_id, "action": "resume"},
            why=f"{current.stage} is paused; what it finished is kept.",
        )
    if current.state.active:
        return NextStep(
            tool="get_status",
            arguments={"run_id": run_id, "wait_s": 20},
            why=f"{current.stage} is {current.state}; it goes on by itself, also when this chat ends.",
        )
    match current.state:
        case State.FAILED if current.exit and current.exit.error_kind == BudgetError.kind:
            why = "It stopped at the run's budget, and what was paid for is kept. Ask the user first: this is the new total."
            return NextStep(tool=current.stage, arguments=_with_further_budget(run, current), why=why)
        case State.FAILED | State.CANCELLED | State.INTERRUPTED:
            why = "What was finished is kept and paid for once: the stage continues where it stopped."
            return NextStep(tool=current.stage, arguments={"run_id": run_id}, why=why)
        case _:
            pass
    return _next_of_pipeline(run)


def _next_of_pipeline(run: Run) -> NextStep:
    """The first stage that is not done, or not of what lies before it by now."""
    for stage in PIPELINE:
        if stage == "extract_policy" and (warning := _ceiling_says_stop(run)):
            return warning
        if states.stage_status(run, stage).state is not State.DONE:
            if stage == "export_gguf" and (child := _refine_first(run)):
                return child
            return NextStep(tool=stage, arguments={"run_id": run.run_id}, why=_WHY[stage])
        if states.is_outdated(run, stage):
            why = _why_outdated(run, stage)
            return NextStep(tool=stage, arguments={"run_id": run.run_id, "restart": True}, why=why)
    return _after_export(run)


def _refine_first(run: Run) -> NextStep | None:
    """A child that learns where this student fails, when its verdict asks for one."""
    evaluation = states.stage_result(run, "evaluate") or {}
    if evaluation.get("decision") != "iterate":
        return None
    name = f"{run.run_id[:60]}-{run.manifest.generation + 2}"
    return NextStep(
        tool="refine",
        arguments={"run_id": run.run_id, "name": name},
        why="Generates where it fails and trains on; ask the user first, because it is paid. export_gguf takes the student as it is.",
    )


def _after_export(run: Run) -> NextStep:
    """The next larger quantization when this one lost too much, else a look at the model's answers."""
    export: dict[str, Any] = states.stage_result(run, "export_gguf") or {}
    if larger := export.get("larger"):
        return NextStep(
            tool="export_gguf",
            arguments={"run_id": run.run_id, "quantization": larger},
            why=f"{export['accuracy']['verdict']} Ask the user first.",
        )
    prompts = [seed.input for seed in run.seeds()[:1]]
    return NextStep(
        tool="compare_models",
        arguments={"run_id": run.run_id, "prompts": prompts, "models": ["base", "gguf"]},
        why="The model is ready: ask it something. In the run's folder: ollama create NAME -f Modelfile.",
    )


def _why_outdated(run: Run, stage: Stage) -> str:
    if stage == "train" and moved_since_dataset(run):
        return "Examples were revised since: the student was trained on what they were before."
    return f"{states.BUILDS_ON[stage]} was done again since: what {stage} made is of before."


def _ceiling_says_stop(run: Run) -> NextStep | None:
    """What to do instead of paying on, when the teacher itself cannot do the task as it is described."""
    if states.stage_status(run, "extract_policy").state is not State.NEW:
        return None  # the user went on
    found = states.stage_status(run, "synthesize_cot")
    ceiling: dict[str, Any] = (found.exit.summary if found.exit else {}).get("ceiling", {})
    if ceiling.get("decision") != "stop":
        return None
    return NextStep(
        tool="read_artifact",
        arguments={"run_id": run.run_id, "artifact": "traces_cot.jsonl"},
        why=f"{ceiling['why']} Look at the rows with the user; extract_policy goes on all the same.",
    )


def _with_further_budget(run: Run, current: StageStatus) -> dict[str, Any]:
    """The arguments that let a stage go on that stopped at the run's budget."""
    beat = read_record(current.job.heartbeat, Heartbeat) if current.job else None
    done, total = (beat.done, beat.total) if beat else (0, 0)
    records = read_journal(run.paths.calls).records
    left = spending.left_of(run, records, current.stage, done, total - done)
    return {"run_id": run.run_id, **spending.further_budget(run, records, left)}


_WHY: dict[Stage, str] = {
    "synthesize_cot": "The teacher solves the examples, which shows whether it can do the task at all.",
    "extract_policy": "The policy says what new examples must look like.",
    "amplify": "The teacher generates and verifies new examples until the target or the budget.",
    "train": "The student learns from the accepted examples, on this machine.",
    "evaluate": "Student, base and teacher on examples the student never saw.",
    "export_gguf": "One file for Ollama, LM Studio and llama.cpp.",
    "compare_models": "Answers side by side.",
    "plan_training": "What training will take.",
}


def check_order(run: Run, stage: Stage) -> None:
    """Refuse a stage whose input is not there yet.

    Raises:
        RunStateError: Names the stage to call first.
    """
    needed = states.BUILDS_ON.get(stage)
    if needed and (found := states.stage_status(run, needed)).state is not State.DONE:
        raise RunStateError(
            f"{stage} builds on {needed}, which is {found.state}.",
            next_step=f"Call get_status(run_id={run.run_id!r}, wait_s=20)."
            if found.state.active
            else f"Call {needed}(run_id={run.run_id!r}) first.",
        )
