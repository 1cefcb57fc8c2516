"""The tools that make a run and put one away."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from nanodistill_mcp.jobs.launch import trash
from nanodistill_mcp.pipeline import estimate, plan, recipe
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.clone import CHANGEABLE, asking_nobody, carried, check_clone
from nanodistill_mcp.pipeline.refine import amplify_alone, check_refine
from nanodistill_mcp.runs.files import write_lines
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Reasoning, RunManifest
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.runs.tags import write_tags
from nanodistill_mcp.server.app import spend_reply
from nanodistill_mcp.server.arguments import Ctx, RunId, app_of
from nanodistill_mcp.server.artifacts import artifact_list
from nanodistill_mcp.server.consent import MayDelete, MayHoldOut, check, check_held_out
from nanodistill_mcp.server.next_steps import current_stage, next_step
from nanodistill_mcp.server.preflight import inspect_both
from nanodistill_mcp.server.recall import Recall
from nanodistill_mcp.server.replies import CloneReply, CreateReply, DeleteReply, NextStep, RefineReply
from nanodistill_mcp.server.revised import clone_reply, refine_reply


async def create_run(
    name: Annotated[str, Field(description="The run's id: letters, digits, '.', '_', '-'; at most 64.")],
    instruction: Annotated[
        str,
        Field(
            description="What the model is to do with an input, in a sentence or two; empty: what the examples' own column instruction says.",
            max_length=20_000,
        ),
    ],
    ctx: Ctx,
    held_out: MayHoldOut,
    seed: Annotated[
        list[dict[str, Any]],
        Field(
            description="The examples: a list of {input, output}, the output left out where the teacher is to answer. Ten are a good start."
        ),
    ] = [],
    seed_path: Annotated[
        str, Field(description="Instead of seed: a .json, .jsonl or .csv file in an allowed directory.")
    ] = "",
    teacher: Annotated[
        str,
        Field(
            description="A LiteLLM model id, a configured endpoint's name, mlx/ and a student's name: that model on this machine, or host: you answer. Left out: the server's default."
        ),
    ] = "",
    student: Annotated[
        str, Field(description="A hub id (org/name) or an allowed local folder. Left out: the server's default.")
    ] = "",
    augment_factor: Annotated[int, Field(description="Training examples wanted per seed.", ge=1, le=1000)] = 50,
    reasoning: Annotated[
        Reasoning, Field(description="Teach worked reasoning, the answer alone, or half of each.")
    ] = "cot",
    response_schema: Annotated[
        dict[str, Any], Field(description="A JSON Schema every output keeps, when outputs are JSON.")
    ] = {},
    preset: Annotated[str, Field(description=f"One of: {', '.join(recipe.PRESETS)}.")] = "recommended",
    options: Annotated[
        dict[str, Any],
        Field(
            description="Further options by name, such as test_path or num_train_epochs; an unknown one is refused with the list."
        ),
    ] = {},
    budget_usd: Annotated[
        float, Field(description="The most this run may pay the teacher, in dollars. Never exceeded.", ge=0)
    ] = 5.0,
) -> CreateReply:
    """Check everything, set held-out examples aside and store a new run; spends nothing.

    Answers with the plan and an estimate of calls, dollars, updates and disk to show the user before going on. Takes a few
    seconds. Next: synthesize_cot.
    """
    check_held_out(held_out)
    request = plan.check_request(
        app_of(ctx).settings,
        name=name,
        instruction=instruction,
        seed=seed,
        seed_path=seed_path,
        teacher=teacher,
        student=student,
        augment_factor=augment_factor,
        reasoning=reasoning,
        response_schema=response_schema,
        preset=preset,
        options=options,
        budget_usd=budget_usd,
    )
    run, created = await _store(ctx, request)
    return _created(request, run, created)


async def clone_run(
    run_id: RunId,
    name: Annotated[str, Field(description="The new run's id: letters, digits, '.', '_', '-'; at most 64.")],
    ctx: Ctx,
    changes: Annotated[
        dict[str, Any],
        Field(description=f"What is to differ: {', '.join(CHANGEABLE)}. options are put over the other run's."),
    ] = {},
) -> CloneReply:
    """Make a new run of another's examples, split as they are, with some settings changed; spends nothing.

    Its stages are called again and answered, without paying, from what the other run paid for wherever a question is still the
    same; its spend counts only what it pays itself. The user's own policy and revisions of examples go along, models do not.
    Next: synthesize_cot.
    """
    app = app_of(ctx)
    source = app.store.open(run_id)
    request = check_clone(app.settings, source, name, changes)

    along = carried(source, request)

    def cloned(manifest: RunManifest) -> RunManifest:
        plan = asking_nobody(manifest.plan) if along.given else manifest.plan
        return manifest.model_copy(update={"cloned_from": source.run_id, "plan": plan})

    run, created = await _store(ctx, request, carry=along.write, made=cloned, asks_teacher=not along.given)
    return clone_reply(_created(request, run, created), run, source)


async def refine(
    run_id: RunId,
    name: Annotated[str, Field(description="The child's id: letters, digits, '.', '_', '-'; at most 64.")],
    ctx: Ctx,
    examples: Annotated[
        int, Field(description="New examples wanted; 0 is half as many as there are.", ge=0, le=100_000)
    ] = 0,
    budget_usd: Annotated[float, Field(description="The most the child may pay the teacher, in dollars.", ge=0)] = 5.0,
) -> RefineReply:
    """Make a child of an evaluated run: new examples only where its student fails, and training from its best checkpoint on.

    Spends nothing yet; the child's amplify does, then train and evaluate prove it on the same held-out examples, on what the
    parent had right, and against the parent. Needs evaluate; next: amplify of the child.
    """
    app = app_of(ctx)
    refinement = check_refine(app.settings, app.store.open(run_id), name, examples, budget_usd)
    parent = refinement.parent

    def refined(manifest: RunManifest) -> RunManifest:
        return manifest.model_copy(
            update={
                "refined_from": parent.run_id,
                "generation": parent.manifest.generation + 1,
                "plan": amplify_alone(manifest.plan, refinement),
            }
        )

    run, created = await _store(ctx, refinement.request, carry=refinement.write, made=refined)
    return refine_reply(_created(refinement.request, run, created), run)


async def _store(
    ctx: Ctx,
    request: plan.Request,
    carry: Callable[[RunPaths], None] | None = None,
    made: Callable[[RunManifest], RunManifest] = lambda manifest: manifest,
    *,
    asks_teacher: bool = True,
) -> tuple[Run, bool]:
    """The run a checked request asks for, made now unless it is there; ``carry`` puts in what it takes along of another run."""
    app = app_of(ctx)

    def fill(paths: RunPaths) -> None:
        if carry:
            carry(paths)
        if request.tags:
            write_tags(paths, request.tags)
        if request.set_aside:
            write_lines(paths.set_aside, request.set_aside)

    existing = app.store.find(request.run_id)
    if existing is not None and existing.manifest.spec == request.spec:
        run, created = existing, False
    else:
        await ctx.report_progress(0, 2, "checking teacher and student")
        if existing is None:
            check = partial(
                plan.check_teacher,
                endpoint=request.endpoint,
                options=request.options,
                ceilings=app.settings.budget,
            )
            texts = estimate.texts_to_count(request)
            teacher_facts, student_facts = await inspect_both(
                request.endpoint,
                request.student,
                texts,
                check if asks_teacher else lambda _: None,
                request.local_teacher,
                recall=Recall(app.checks_path),
            )
            estimated = estimate.make_plan(request, teacher_facts, student_facts)
            manifest = made(plan.make_manifest(request, teacher_facts, student_facts, estimated))
        else:  # refused by the store, which shows the difference
            manifest = existing.manifest.model_copy(update={"spec": request.spec})
        run, created = app.store.create(
            manifest, request.seeds, inputs=request.inputs, wordings=request.wordings, fill=fill
        )
        await ctx.report_progress(2, 2, "stored")
    return run, created


def _created(request: plan.Request, run: Run, created: bool) -> CreateReply:  # noqa: FBT001 - what the store answered
    manifest = run.manifest
    return CreateReply(
        run_id=run.run_id,
        created=created,
        folder=str(run.paths.root),
        plan=manifest.plan,
        teacher="host (you: the agent that calls these tools)"
        if request.endpoint.is_host
        else f"{manifest.spec.teacher} ({manifest.teacher_model} at {manifest.teacher_host or 'its provider'})",
        student=manifest.spec.student,
        spend=spend_reply(run),
        artifacts=artifact_list(run),
        next_step=next_step(run, current_stage(run, states.pipeline_status(run))),
    )


async def delete_run(
    run_id: RunId,
    ctx: Ctx,
    word: MayDelete,
    confirm_name: Annotated[
        str, Field(description="The run's id once more, as the user confirmed it. Left out, the client asks if it can.")
    ] = "",
) -> DeleteReply:
    """Move a run to the trash, after the user said so; nothing is erased. Refused while a job runs."""
    app = app_of(ctx)
    run = app.store.open(run_id)
    if confirm_name and confirm_name != run_id:
        what = "confirm_name is not the run's id."
    else:
        what = "A run is deleted on the user's word alone."
    check(word, what, f"Ask the user, then call delete_run(run_id={run_id!r}, confirm_name={run_id!r}).")
    moved = await trash(app.store, run)
    return DeleteReply(
        run_id=run_id,
        moved_to=str(moved),
        message="Moved to the trash; nanodistill-mcp clean in a terminal frees the space.",
        next_step=NextStep(tool="get_status", arguments={}, why="See the runs that are left."),
    )
