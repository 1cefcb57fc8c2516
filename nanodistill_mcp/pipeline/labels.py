"""Answers that the teacher gives where nobody did, or over what was given: kept when its solutions agree with each other.

A seed without an output, and with ``relabel`` any training seed, is solved several times. The rule for answers is known only
afterwards when no output was given at all: then it is the one that the teacher's own answers show.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset
from nanodistill_mcp.pipeline.answers import normalize
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.teaching import Solved, all_done, run_options, solve, trace_of
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Seed, Trace
from nanodistill_mcp.teacher.client import Teacher

LABEL_SOLUTIONS = 2
"""Solutions of a seed that all have to agree before their answer counts as its output."""

EXAMPLES_SHOWN = 6

Opinions = dict[str, list[Solved]]
"""By seed id, the teacher's solutions."""


def is_labelled_by_teacher(seed: Seed, options: Options) -> bool:
    """Whether the teacher's answer is to be the seed's. A held-out seed keeps its person's answer whatever was asked."""
    return seed.split == "train" and (not seed.labelled or bool(options.relabel))


async def opinions_on(
    teacher: Teacher, task: str, seeds: list[Seed], job: Job, done: Callable[[int], None]
) -> Opinions:
    """Have seeds solved as often as they need, without any answer to them being shown.

    Where a person answered other seeds, some of those are shown: they say more of the form than a list of the answers that
    happen to be among them.

    Args:
        teacher: Who solves them.
        task: The instruction as the teacher reads it.
        seeds: The seeds that the teacher labels.
        job: The job that labels them.
        done: Told how many seeds have all their solutions.
    """
    spec, options = job.run.manifest.spec, run_options(job)
    answered = [seed for seed in job.run.seeds() if seed.split == "train" and seed.labelled and not options.relabel]
    shown = [{"input": seed.input, "output": seed.output} for seed in answered[:EXAMPLES_SHOWN]]
    wanted = max(LABEL_SOLUTIONS, options.solutions_per_example or 0)
    found: Opinions = {}

    async def one(seed: Seed) -> None:
        mode = dataset.mode_of(seed.input, spec)
        tokens = options.teacher_max_tokens
        found[seed.id] = [
            await solve(teacher, task, seed.input, mode=mode, examples=shown, sample=sample, max_tokens=tokens)
            for sample in range(wanted)
        ]
        done(len(found))

    units: list[Callable[[], Awaitable[None]]] = [partial(one, seed) for seed in seeds]
    await all_done(units)
    return found


def shown_answers(opinions: Opinions) -> list[str]:
    """What the teacher's answers show of the rule: those it gave each time, or one of each seed when no two are alike."""
    tries = [[solved.answer for solved in opinions[seed_id] if solved.answer] for seed_id in sorted(opinions)]
    given = [answers for answers in tries if answers]
    alike = [answers[0] for answers in given if len(answers) > 1 and len(set(map(normalize, answers))) == 1]
    return alike or [answers[0] for answers in given]


def answers_in(traces: list[Trace]) -> list[str]:
    """The outputs that the teacher gave to seeds without one."""
    return [trace.output for trace in traces if trace.labelled_by == "teacher" and trace.output]


async def labelled(teacher: Teacher, checking: Checking, seed: Seed, opinions: list[Solved]) -> Trace:
    """The trace of a seed that the teacher labels: with its answer when all solutions agree, set aside when they do not.

    A given answer stays where it is one of several; where all solutions agree on another, that one takes its place.
    """
    call_ids = [solved.call_id for solved in opinions]
    usable = [solved for solved in opinions if not solved.declined and not checking.fault(solved.answer)]
    best = usable[0] if usable else next((solved for solved in opinions if solved.answer), opinions[0])
    matching = 1 if usable else 0
    other = ""
    for solved in usable[1:]:
        same, judged = await checking.same(teacher, seed.input, best.answer, solved.answer)
        call_ids += judged
        matching += same
        other = other or ("" if same else solved.answer)
    agrees, share = matching == len(opinions), matching / len(opinions)
    trace = trace_of(seed, best, agrees=agrees, share=share, call_ids=call_ids)
    trace = trace.model_copy(update={"other_output": other, "labelled_by": "user" if seed.labelled else "teacher"})
    if seed.labelled:
        right: list[Solved] = []
        for solved in usable:
            same, judged = await checking.same(teacher, seed.input, seed.output, solved.answer)
            trace.call_ids += judged
            right += [solved] if same else []
        if right:
            found = {"thinking": right[0].solution, "teacher_output": right[0].answer, "other_output": ""}
            share = round(len(right) / len(opinions), 3)
            return trace.model_copy(update={**found, "agrees": True, "confidence": share})
    if not trace.agrees:
        return trace
    label = {"output": checking.canonical(best.answer), "given_output": seed.output, "labelled_by": "teacher"}
    return trace.model_copy(update=label)
