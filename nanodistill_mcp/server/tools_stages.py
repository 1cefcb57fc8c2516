"""The tools that carry out a stage of a run, and the one that steers the job."""

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from nanodistill_mcp.errors import RunStateError, UserInputError
from nanodistill_mcp.jobs.launch import active_job
from nanodistill_mcp.pipeline import plan, spending
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.policy_versions import content, given_policy
from nanodistill_mcp.pipeline.revisions import count_examples
from nanodistill_mcp.pipeline.test_sets import asked_for, take_test_rows
from nanodistill_mcp.pipeline.thinking import check_mode
from nanodistill_mcp.runs.records import MAX_PROMPTS, AskedMode, ModelName
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.runs.tags import check_tags, write_tags
from nanodistill_mcp.server import stages
from nanodistill_mcp.server.arguments import BudgetUsd, Ctx, NewCaps, Restart, RunId, Wait, app_of
from nanodistill_mcp.server.consent import MayAmplify, MayExtract, MaySynthesize, check_price
from nanodistill_mcp.server.next_steps import current_stage, next_step
from nanodistill_mcp.server.pictures import with_picture
from nanodistill_mcp.server.replies import ControlReply, StageReply
from nanodistill_mcp.settings import HOST_TEACHER, MLX_TEACHER
from nanodistill_mcp.student.form_names import FORMS, forms_named
from nanodistill_mcp.student.gguf_quantizations import DEFAULT_QUANTIZATION, QUANTIZATIONS, quantization_named


async def synthesize_cot(
    run_id: RunId,
    ctx: Ctx,
    word: MaySynthesize,
    budget_usd: BudgetUsd = 0,
    caps: NewCaps = {},
    wait_s: Wait = 20,
    restart: Restart = False,
) -> StageReply:
    """Let the teacher solve each example without seeing its answer, as a background job that pays the teacher.

    Its agreement with the given outputs is the traces' measured confidence; the held-out examples are solved too and give
    the teacher's ceiling. Needs create_run; next: extract_policy.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    check_price(word, app, run, "synthesize_cot")
    spending.change_budget(run, app.settings.budget, budget_usd, caps)
    return await stages.run_stage(app, ctx, run_id, "synthesize_cot", {}, wait_s=wait_s, restart=restart)


async def extract_policy(
    run_id: RunId,
    ctx: Ctx,
    word: MayExtract,
    feedback: Annotated[
        str, Field(description="What to change in the policy; makes a new version.", max_length=20_000)
    ] = "",
    policy: Annotated[
        dict[str, Any],
        Field(description="Fields that replace those of the current policy, or all; {version: N} restores version N."),
    ] = {},
    budget_usd: BudgetUsd = 0,
    caps: NewCaps = {},
    wait_s: Wait = 20,
    restart: Restart = False,
) -> StageReply:
    """Let the teacher write down the task's policy in ten fields, and how answers are compared; one paid call.

    feedback refines it, policy changes, replaces or restores it without a call. Each makes a new version, kept as
    policies/policy.vN.json; the reply says what changed, policies/compare/1..3 compares any two. Show it to the user; needs
    synthesize_cot, next: amplify.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    arguments: dict[str, Any] = {}
    again = False
    if policy and feedback:
        raise UserInputError("feedback and policy are two ways to a new version.", next_step="Give one of them.")
    if policy:
        wanted, current = given_policy(run, policy), run.policy()
        arguments = {"policy": wanted.model_dump(exclude={"version"})}
        again = current is None or content(wanted) != content(current)
    elif feedback:
        arguments = {"feedback": feedback}
        again = not states.was_asked(run, "extract_policy", arguments)
    check_price(word, app, run, "extract_policy")
    spending.change_budget(run, app.settings.budget, budget_usd, caps)
    return await stages.run_stage(
        app, ctx, run_id, "extract_policy", arguments, wait_s=wait_s, restart=restart, again=again
    )


async def amplify(
    run_id: RunId,
    ctx: Ctx,
    word: MayAmplify,
    target_size: Annotated[
        int, Field(description="Training examples wanted in all; 0 is the plan's number.", ge=0, le=1_000_000)
    ] = 0,
    mode: Annotated[
        Literal["auto", "live", "batch"],
        Field(
            description="batch: half the price, hours instead of minutes, up to a day. live: at once; stops a batch that is out. "
            "auto: as last time, at first live."
        ),
    ] = "auto",
    budget_usd: BudgetUsd = 0,
    caps: NewCaps = {},
    wait_s: Wait = 20,
    restart: Restart = False,
) -> StageReply:
    """Generate new examples under the policy until the target or the budget, as a background job that pays the teacher.

    Each is screened for copies, solved again without its answer, and kept only if both answers agree. Minutes. Needs
    extract_policy; next: train.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    if mode == "batch" and run.manifest.teacher_model.startswith((HOST_TEACHER, MLX_TEACHER)):
        raise UserInputError(
            "This run's teacher takes no batches: it is the calling agent, or a model on this machine.",
            next_step=f"Call amplify(run_id={run_id!r}).",
        )
    check_price(word, app, run, "amplify")
    spending.change_budget(run, app.settings.budget, budget_usd, caps)
    target_size = target_size or stages.target_missed(app, run)
    again = count_examples(run) < target_size and not stages.is_still_capped(app, run, target_size)
    last = states.last_arguments(run, "amplify") or {}
    arguments: dict[str, Any] = {"mode": last.get("mode", "live") if mode == "auto" else mode}
    if target_size:
        arguments["target_size"] = target_size
    return await stages.run_stage(app, ctx, run_id, "amplify", arguments, wait_s=wait_s, restart=restart, again=again)


async def train(
    run_id: RunId,
    ctx: Ctx,
    options: Annotated[dict[str, Any], Field(description="Training options over the run's own, by name.")] = {},
    dry_run: Annotated[
        bool, Field(description="Only plan: rows, options with reasons, memory and hours from two real steps.")
    ] = False,
    wait_s: Wait = 20,
    restart: Restart = False,
) -> Annotated[CallToolResult, StageReply]:
    """Train the student's LoRA adapter on this machine, as a tracked background job; free, minutes to hours.

    It survives the end of this chat and keeps checkpoints and the best one. Needs amplify; next: evaluate.
    """
    app = app_of(ctx)
    plan.check_training_options(options)
    if dry_run:
        reply = await stages.plan_training(app, ctx, run_id, options, wait_s=wait_s, again=restart)
    else:
        asked = stages.training_arguments(app, app.store.open(run_id), options) | stages.training_surroundings(app)
        reply = await stages.run_stage(app, ctx, run_id, "train", asked, wait_s=wait_s, restart=restart)
    return with_picture(app.store.open(run_id), reply)


async def evaluate(
    run_id: RunId,
    ctx: Ctx,
    test_path: Annotated[
        str, Field(description="A file of further {input, output} examples to prove it on, in an allowed directory.")
    ] = "",
    teacher_rows: Annotated[
        int, Field(description="How many of those the teacher answers too, for a comparison; paid.", ge=0, le=10_000)
    ] = 0,
    wait_s: Wait = 20,
    restart: Restart = False,
) -> Annotated[CallToolResult, StageReply]:
    """Compare student, base and teacher on examples the student never saw, with intervals and a verdict in words.

    Says where it fails, and whether it forgot other things; report.md tells it all on a page to pass on. A background job on
    this machine, free unless teacher_rows or a judge asks the teacher; minutes. Needs train; next: export_gguf, or refine.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    if test_path:
        if (job := active_job(run)) is not None:
            raise RunStateError(
                f"{job.stage} of this run is still running, and an evaluation keeps the rows it began with.",
                next_step=f"Call get_status(run_id={run_id!r}, wait_s=20), then evaluate with test_path.",
            )
        take_test_rows(run, test_path, app.settings.readable_dirs())
    asked = asked_for(run, teacher_rows)
    before: dict[str, Any] = states.stage_result(run, "evaluate") or {}
    again = bool(before) and (bool(test_path) or teacher_rows > 0) and before.get("asked") != asked
    arguments = {"teacher_rows": teacher_rows}
    reply = await stages.run_stage(app, ctx, run_id, "evaluate", arguments, wait_s=wait_s, restart=restart, again=again)
    return with_picture(run, reply)


async def export_gguf(
    run_id: RunId,
    ctx: Ctx,
    quantization: Annotated[
        str,
        Field(
            description=f"One of: {', '.join(QUANTIZATIONS)}. Left out: as last time, at first {DEFAULT_QUANTIZATION}."
        ),
    ] = "",
    also: Annotated[list[str], Field(description=f"Further forms: {', '.join(FORMS)}.", max_length=20)] = [],
    wait_s: Wait = 20,
    restart: Restart = False,
) -> StageReply:
    """Fuse the adapter, write model.gguf and a Modelfile for Ollama, and hold the file against what was trained.

    The held-out examples are answered by llama.cpp from the file itself, and scored beside MLX; if the quantization loses
    too much, next_step is the next larger. A background job; free, minutes. Needs train; next: compare_models.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    before: dict[str, Any] = states.stage_result(run, "export_gguf") or {}
    chosen = quantization or before.get("quantization", DEFAULT_QUANTIZATION)
    arguments = {"quantization": quantization_named(chosen).name, "also": forms_named(also)}
    other = bool(before) and before["quantization"] != arguments["quantization"]
    further = not set(arguments["also"]) <= {*before.get("forms", {}), *before.get("forms_left_out", {})}
    return await stages.run_stage(
        app, ctx, run_id, "export_gguf", arguments, wait_s=wait_s, restart=restart or other, again=further
    )


async def compare_models(
    run_id: RunId,
    prompts: Annotated[list[str], Field(description="Inputs to answer.", min_length=1, max_length=MAX_PROMPTS)],
    ctx: Ctx,
    models: Annotated[
        list[ModelName], Field(description="Which to ask. teacher is paid; gguf needs export_gguf.", min_length=1)
    ] = ["base", "student"],
    mode: Annotated[
        AskedMode,
        Field(
            description="trained: as each was made. direct: the answer alone. reasoning: reasoning, then the answer."
        ),
    ] = "trained",
    wait_s: Wait = 45,
) -> StageReply:
    """Answer prompts side by side with base, student, the GGUF file or the teacher: reasoning, answer, seconds and tokens apart.

    Seconds on this machine, free unless the teacher is asked; killed, it goes on where it was. Needs train.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    check_mode(run.manifest.spec, mode, models)
    arguments: dict[str, Any] = {"prompts": prompts, "models": list(dict.fromkeys(models)), "mode": mode}
    before: dict[str, Any] = (states.stage_result(run, "compare_models") or {}).get("arguments", {})
    again = {"mode": "trained", **before} != arguments
    return await stages.run_stage(
        app, ctx, run_id, "compare_models", arguments, wait_s=wait_s, restart=False, again=again
    )


async def control_job(
    run_id: RunId,
    action: Annotated[
        Literal["pause", "resume", "stop", "cancel", "tag"],
        Field(
            description="What the running job is to do; stop ends a training now and keeps what it learnt. tag needs no job."
        ),
    ],
    ctx: Ctx,
    tags: Annotated[list[str], Field(description="With tag: the run's tags from now on; none takes them away.")] = [],
) -> ControlReply:
    """Pause, resume, stop or cancel the run's job. What it has finished is kept, and calling its stage again continues it.

    Takes effect within seconds, between two paid calls or two training steps. tag sets the words the user finds the run by.
    """
    app = app_of(ctx)
    run = app.store.open(run_id)
    if action == "tag":
        return _tagged(run, tags)
    if tags:
        raise UserInputError("tags go with action='tag'.", next_step="Leave them out, or give action='tag'.")
    found = await stages.control(run, action)
    return ControlReply(
        run_id=run_id,
        stage=found.stage,
        state=found.state,
        message=f"{action}: {found.stage} is {found.state}.",
        next_step=next_step(run, found),
        poll_after_s=5 if found.state.active else 0,
    )


def _tagged(run: Run, tags: list[str]) -> ControlReply:
    kept = check_tags(tags)
    run.check_writable()
    if kept != run.tags():
        write_tags(run.paths, kept)
    found = current_stage(run, states.pipeline_status(run))
    return ControlReply(
        run_id=run.run_id,
        stage=found.stage,
        state=found.state,
        message=f"The run's tags are {', '.join(kept)}." if kept else "The run has no tags.",
        next_step=next_step(run, found),
        poll_after_s=0,
    )
