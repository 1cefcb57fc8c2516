"""The teacher solves each seed without seeing its answer; how often it agrees is measured, never self-reported."""

from functools import partial
from typing import Any

from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import answers, plan
from nanodistill_mcp.pipeline.teaching import Solved, all_done, run_options, solve, teacher_of
from nanodistill_mcp.runs.files import write_lines
from nanodistill_mcp.runs.records import Checker, Seed, Trace
from nanodistill_mcp.teacher.client import Teacher

SECOND_TRIES = 1
"""Further samples for a training seed the teacher got wrong: its confidence is the share that agrees."""


async def synthesize_cot(job: Job) -> dict[str, Any]:
    """Write ``traces_cot.jsonl``: one trace per training seed, and per held-out seed up to the ceiling's size."""
    seeds = job.run.seeds()
    held_out = [seed for seed in seeds if seed.split == "held_out"][: plan.CEILING_ROWS]
    work = [seed for seed in seeds if seed.split == "train"] + held_out
    checker, choices = plan.seed_checker(seeds)
    task = plan.task_text(job.run.manifest.spec.instruction, choices)
    max_tokens = run_options(job).teacher_max_tokens
    traces: dict[str, Trace] = {}
    first: dict[str, Any] = {}

    async with teacher_of(job) as teacher:

        async def one(seed: Seed) -> None:
            trace = await _trace(teacher, task, seed, checker, max_tokens)
            traces[seed.id] = trace
            if not first and trace.thinking:
                first.update(
                    {"input": trace.input[:400], "thinking": trace.thinking[:800], "output": trace.teacher_output[:400]}
                )
            job.progress(len(traces), len(work), "solving the examples", first_trace=first)

        job.progress(0, len(work), "solving the examples")
        await all_done(partial(one, seed) for seed in work)

    ordered = [traces[seed.id] for seed in work]
    if not any(trace.thinking for trace in ordered):
        raise TeacherError(
            "The teacher solved none of the examples: every answer was refused, cut off or unreadable.",
            next_step="Read calls with read_artifact(artifact='calls.jsonl'), then create a run with another teacher or a clearer instruction.",
        )
    write_lines(job.run.paths.traces_cot, [trace.model_dump() for trace in ordered])
    return {**_agreement(ordered), "checker": checker, "first_trace": first}


async def _trace(teacher: Teacher, task: str, seed: Seed, checker: Checker, max_tokens: int | None) -> Trace:
    tries: list[tuple[Solved, bool]] = []
    for sample in range(1 + (SECOND_TRIES if seed.split == "train" else 0)):
        solved = await solve(teacher, task, seed.input, sample=sample, max_tokens=max_tokens)
        agrees = not solved.declined and answers.agree(checker, seed.output, solved.answer)
        tries.append((solved, agrees))
        if agrees:
            break
    best, agrees = max(tries, key=lambda attempt: (attempt[1], bool(attempt[0].solution)))
    return Trace(
        id=seed.id,
        input=seed.input,
        thinking=best.solution,
        output=seed.output,
        teacher_output=best.answer,
        agrees=agrees,
        confidence=round(sum(agreed for _, agreed in tries) / len(tries), 3),
        split=seed.split,
        call_ids=[solved.call_id for solved, _ in tries],
    )


def _agreement(traces: list[Trace]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for side in ("train", "held_out"):
        mine = [trace for trace in traces if trace.split == side]
        summary[f"{side}_solved"] = len(mine)
        summary[f"{side}_agree"] = sum(trace.agrees for trace in mine)
    summary["disagreeing_ids"] = [trace.id for trace in traces if trace.split == "train" and not trace.agrees][:20]
    return summary
