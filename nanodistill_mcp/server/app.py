"""What the tools share: the settings, the store, and the words for a run's state."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import BudgetError, RunStateError
from nanodistill_mcp.pipeline import spending
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.report import NOT_WRITTEN
from nanodistill_mcp.pipeline.revisions import count_examples, moved_since_dataset, revisions_of
from nanodistill_mcp.pipeline.status import StageStatus
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import PIPELINE, Heartbeat, Stage, State
from nanodistill_mcp.runs.store import Run, RunStore, read_record
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.server.artifacts import artifact_list
from nanodistill_mcp.server.replies import NextStep, SpendReply, StageLine, StageReply, StatusReply
from nanodistill_mcp.settings import Settings

POLL_S = 5
BATCH_POLL_S = 60
_HOURS_FROM = 2.0
_PROMPTS_SHOWN = 3
_CHARS_QUOTED = 80


@dataclass(frozen=True)
class App:
    """One server process. It holds no state of any run."""

    settings: Settings
    store: RunStore

    @property
    def capabilities_path(self) -> Path:
        return self.store.home / "capabilities.json"

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
    found = states.stage_status(run, stage)
    result = result_of(run, found) if found.state is State.DONE else {}
    return StageReply(
        run_id=run.run_id,
        stage=stage,
        state=found.state,
        done=found.done,
        total=found.total,
        message=_message(found, result),
        live=found.live if found.state.active else {},
        result=result,
        spend=spend_reply(run),
        artifacts=artifact_list(run),
        next_step=next_step(run, found),
        poll_after_s=_poll_after_s(found) if found.state.active else 0,
    )


def _message(found: StageStatus, result: dict[str, Any]) -> str:
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


def in_words(stage: Stage, result: dict[str, Any]) -> str:  # noqa: C901 - one case a stage
    """What a finished stage found, in a sentence that can be passed on to the user."""
    match stage:
        case "synthesize_cot":
            held_out = (
                f", and on {result['held_out_agree']} of {result['held_out_solved']} held-out ones"
                if result["held_out_solved"]
                else ""
            )
            ceiling: dict[str, Any] = result.get("ceiling", {})  # runs of the first release have none
            told = ceiling.get("why", "")
            labels = [
                *([f"it answered {result['labelled']} that had no output"] if result.get("labelled") else []),
                *([f"replaced {result['relabelled']} given outputs"] if result.get("relabelled") else []),
                *([f"{result['set_aside']} are set aside, answered in two ways"] if result.get("set_aside") else []),
            ]
            labelled = f" ({'; '.join(labels)})" if labels else ""
            return f"The teacher agrees on {result['train_agree']} of {result['train_solved']} examples{held_out}{labelled}. {told}".strip()
        case "extract_policy":
            return f"Policy version {result['version']} is written; answers are compared by the checker {result['checker']}."
        case "amplify":
            missing = f", {result['missing']} missing: {_STOPPED[result['stopped_by']]}" if result["missing"] else ""
            if short := result.get("at_the_cap"):
                return f"Stopped by the budget: {short['what']} {short['next_step']}"
            told = f"{result['accepted']} examples are accepted{missing}; {sum(result['rejected'].values())} were rejected{_saved(result.get('batch'))}."
            if revised := result.get("revised"):
                changes = f"{revised['dropped']} dropped, {revised['edited']} edited, {revised['approved']} approved"
                return f"{told} With the user's revisions ({changes}), {revised['examples']} are trained on."
            return told
        case "train":
            losses = f"loss {result['first_train_loss']:.3f} to {result['final_train_loss']:.3f}"
            return f"Trained {result['iterations']} iterations in {result['elapsed_s']:.0f} s, {losses}; the best checkpoint is of iteration {result['best_iteration']}."
        case "plan_training":
            return _plan_in_words(result)
        case "evaluate":
            general = result.get("general", {})
            return f"{result['verdict']} {general['verdict']}" if general.get("forgot") else str(result["verdict"])
        case "export_gguf":
            return _export_in_words(result)
        case "compare_models":
            return _compared_in_words(result)


def _compared_in_words(result: dict[str, Any]) -> str:
    """Who answered, how fast, and the first answers; the rows hold them whole."""
    rows: list[dict[str, Any]] = result["rows"]
    how = {"direct": " without reasoning", "reasoning": " with reasoning"}.get(result.get("mode", ""), "")
    who: list[str] = []
    for model in result["models"]:
        took = [row[model]["seconds"] for row in rows if "seconds" in row[model]]  # older comparisons have none
        who.append(f"{model} ({sum(took) / len(took):.2g} s each)" if any(took) else model)
    shown = [
        f"To {_quoted(row['prompt'])}: " + "; ".join(f"{m} says {_quoted(row[m]['answer'])}" for m in result["models"])
        for row in rows[:_PROMPTS_SHOWN]
    ]
    counted = "1 prompt is" if len(rows) == 1 else f"{len(rows)} prompts are"
    told = f"{counted} answered{how} by {', '.join(who)}."
    return " ".join([told, *result.get("notes", []), *(f"{each}." for each in shown)])


def _quoted(text: str) -> str:
    """What a user or a model wrote, as data: on one line, in quotes, cut."""
    line = clean(" ".join(text.split()))
    return json.dumps(line if len(line) <= _CHARS_QUOTED else f"{line[:_CHARS_QUOTED]}...", ensure_ascii=False)


def _export_in_words(result: dict[str, Any]) -> str:
    parity, accuracy = result["parity"], result.get("accuracy", {})
    checked = (
        f"llama.cpp loads it and agrees on {parity['strings_equal']} of {parity['strings_checked']} tokenized texts"
        if result.get("verified", True)
        else f"it is NOT checked: {parity['warnings'][0]}"
    )
    answered = f"; it answers {accuracy['correct']} of {accuracy['rows']} held-out examples rightly" if accuracy else ""
    forms = [f"{form} in {path}" for form, path in result.get("forms", {}).items()]
    without = [f"{form} is left out: {why}" for form, why in result.get("forms_left_out", {}).items()]
    told = [
        f"model.gguf is written ({result['gguf_bytes'] / 1e6:.1f} MB, {result['quantization']}); {checked}{answered}.",
        accuracy.get("verdict", ""),
        f"Also written: {', '.join(forms)}." if forms else "",
        *without,
        f"In the run's folder: {result['ollama']}",
    ]
    return " ".join(part for part in told if part)


def _poll_after_s(found: StageStatus) -> int:
    """A batch takes minutes at best: looking more often would show nothing new."""
    return BATCH_POLL_S if found.live.get("batch") else POLL_S


def _saved(batch: dict[str, Any] | None) -> str:
    return f"; {batch['answers']} answers at half price saved ${batch['saved_usd']:.2f}" if batch else ""


_STOPPED = {
    "target": "the target was met",
    "budget": "the budget came first",
    "inputs": "all given inputs were answered, and options.inputs_only allows no others",
    "novelty": "the teacher repeats itself, so more would be paid for copies; another policy or further seeds would help",
    "saturation": "nearly nothing new was accepted any more",
    "disagreement": "the teacher's solutions hardly ever agree; the policy or the instruction leaves too much open",
}


def status_reply(run: Run, *, detail: bool) -> StatusReply:
    """A run at a glance."""
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


def current_stage(run: Run, stages: list[StageStatus]) -> StageStatus:
    """The stage that matters now: the one that runs, else the first that is not done."""
    living = next((found for found in stages if found.state.active), None)
    for beside in ("compare_models", "plan_training"):
        if living is None and (found := states.stage_status(run, beside)).state.active:
            living = found
    return living or next((found for found in stages if found.state is not State.DONE), stages[-1])


def _plan_in_words(result: dict[str, Any]) -> str:
    rows, hours = result["rows"], result["hours"]
    dropped = f", {rows['too_long']} too long and dropped" if rows["too_long"] else ""
    took = f"{hours['low'] * 60:.1f}-{hours['high'] * 60:.1f} minutes"
    if hours["high"] > _HOURS_FROM:
        took = f"{hours['low']:.1f}-{hours['high']:.1f} hours"
    given_up = f" Given up to fit: {', '.join(result['changes'])}." if result["changes"] else ""
    return (
        f"Planned, nothing is trained: {rows['train']} rows{dropped}, {result['updates']} updates, about {took}, peak memory "
        f"{result['peak_memory_gb']:.3g} of {result['memory_limit_gb']:.3g} GB on the {result['device']}.{given_up}"
    )


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
    if current.state is State.PAUSED:
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


def _line(found: StageStatus) -> StageLine:
    message = found.message if found.message != "done" else ""
    live = found.live if found.state.active else {}
    return StageLine(
        stage=found.stage, state=found.state, done=found.done, total=found.total, message=message, live=live
    )
