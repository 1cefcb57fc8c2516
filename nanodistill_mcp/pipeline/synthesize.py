"""The teacher solves each seed without seeing its answer; how often it agrees is measured, never self-reported.

A training seed it got wrong keeps the answer that was given: the solution that is taught is then written towards that answer,
and is marked so.
"""

from functools import partial
from typing import Any

from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, plan
from nanodistill_mcp.pipeline.ceiling import ceiling
from nanodistill_mcp.pipeline.checking import Checking, from_seeds
from nanodistill_mcp.pipeline.labels import is_labelled_by_teacher, labelled, opinions_on, shown_answers
from nanodistill_mcp.pipeline.teaching import Solved, all_done, derive, run_options, solve, teacher_of, trace_of
from nanodistill_mcp.runs.files import write_lines
from nanodistill_mcp.runs.records import RunSpec, Seed, Trace
from nanodistill_mcp.settings import HOST_TEACHER
from nanodistill_mcp.teacher.client import Teacher

SECOND_TRIES = 1
"""Further samples for a training seed the teacher got wrong: its confidence is the share that agrees."""


async def synthesize_cot(job: Job) -> dict[str, Any]:
    """Write ``traces_cot.jsonl``: one trace per training seed, and per held-out seed up to the ceiling's size."""
    seeds, spec = job.run.seeds(), job.run.manifest.spec
    held_out = [seed for seed in seeds if seed.split == "held_out"][: plan.CEILING_ROWS]
    work = [seed for seed in seeds if seed.split == "train"] + held_out
    options = run_options(job)
    for_teacher = [seed for seed in work if is_labelled_by_teacher(seed, options)]
    traces: dict[str, Trace] = {}
    first: dict[str, Any] = {}

    async with teacher_of(job) as teacher:

        def told(solved: int) -> None:
            job.progress(0, len(work), f"answering the examples twice ({solved} of {len(for_teacher)})")

        # Some given answers need not be all there are; those to be replaced are.
        known = seeds if options.relabel else []
        task = from_seeds(spec.instruction, known, spec.response_schema).task
        opinions = await opinions_on(teacher, task, for_teacher, job, told)
        checking = from_seeds(spec.instruction, seeds, spec.response_schema, shown_answers(opinions))

        async def one(seed: Seed) -> None:
            if seed.id in opinions:
                trace = await labelled(teacher, checking, seed, opinions[seed.id])
            else:
                trace = await _trace(teacher, checking, seed, spec, options.teacher_max_tokens)
            traces[seed.id] = trace
            if not first and trace.teacher_output:
                first.update(
                    {"input": trace.input[:400], "thinking": trace.thinking[:800], "output": trace.teacher_output[:400]}
                )
            job.progress(len(traces), len(work), "solving the examples", first_trace=first)

        job.progress(0, len(work), "solving the examples")
        await all_done(partial(one, seed) for seed in work)

    ordered = [traces[seed.id] for seed in work]
    if not any(trace.teacher_output for trace in ordered):
        raise TeacherError(
            "The teacher solved none of the examples: every answer was refused, cut off or unreadable.",
            next_step="Read calls with read_artifact(artifact='calls.jsonl'), then create a run with another teacher or a clearer instruction.",
        )
    if not any(trace.output for trace in ordered if trace.split == "train"):
        raise TeacherError(
            "The teacher answered each of the examples in two different ways, so none has an answer to learn from.",
            next_step="Create a run with an instruction that says what an answer looks like, and which answers there are if "
            "they are few, or give the outputs of three or more examples.",
        )
    write_lines(job.run.paths.traces_cot, [trace.model_dump() for trace in ordered])
    return {
        **_agreement(ordered),
        "ceiling": ceiling(ordered, may_have_seen_answers=job.run.manifest.teacher_model == HOST_TEACHER),
        "checker": checking.checker,
        "first_trace": first,
    }


async def _trace(teacher: Teacher, checking: Checking, seed: Seed, spec: RunSpec, max_tokens: int | None) -> Trace:
    mode = dataset.mode_of(seed.input, spec)
    tries: list[tuple[Solved, bool]] = []
    call_ids: list[str] = []
    for sample in range(1 + (SECOND_TRIES if seed.split == "train" else 0)):
        solved = await solve(teacher, checking.task, seed.input, mode=mode, sample=sample, max_tokens=max_tokens)
        agrees, judged = False, list[str]()
        if not solved.declined:
            agrees, judged = await checking.same(teacher, seed.input, seed.output, solved.answer)
        tries.append((solved, agrees))
        call_ids += [solved.call_id, *judged]
        if agrees or solved.declined:  # declined, it was put in other words already
            break
    best, agrees = max(tries, key=lambda attempt: (attempt[1], bool(attempt[0].answer)))
    share = sum(agreed for _, agreed in tries) / len(tries)
    trace = trace_of(seed, best, agrees=agrees, share=share, call_ids=call_ids)
    if agrees or seed.split == "held_out" or best.declined:
        return trace
    return await _towards_the_given_answer(teacher, checking, trace, max_tokens)


async def _towards_the_given_answer(
    teacher: Teacher, checking: Checking, trace: Trace, max_tokens: int | None
) -> Trace:
    """Have the solution rewritten so that it leads to the given answer; kept as it is when that fails."""
    derived = await derive(teacher, checking.task, trace.input, trace.output, max_tokens=max_tokens)
    call_ids = [*trace.call_ids, derived.call_id]
    arrived, judged = False, list[str]()
    if not derived.declined:
        arrived, judged = await checking.same(teacher, trace.input, trace.output, derived.answer)
    told = {"call_ids": call_ids + judged, "objection": derived.objection}
    if not arrived:
        return trace.model_copy(update=told)
    rewritten = {"thinking": derived.solution, "teacher_thinking": trace.thinking, "derived": True}
    return trace.model_copy(update={**told, **rewritten})


def _agreement(traces: list[Trace]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for side in ("train", "held_out"):
        mine = [trace for trace in traces if trace.split == side]
        summary[f"{side}_solved"] = len(mine)
        summary[f"{side}_agree"] = sum(trace.agrees for trace in mine)
    summary["disagreeing_ids"] = [trace.id for trace in traces if trace.split == "train" and not trace.agrees][:20]
    summary["derived"] = sum(trace.derived for trace in traces)
    by_teacher = [trace for trace in traces if trace.labelled_by == "teacher"]
    summary["labelled"] = sum(bool(trace.output) and not trace.given_output for trace in by_teacher)
    summary["relabelled"] = sum(bool(trace.given_output) for trace in by_teacher)
    summary["set_aside"] = sum(not trace.output for trace in by_teacher)
    return summary
