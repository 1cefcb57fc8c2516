"""New examples under the policy: generated in batches, screened, solved again without their answer, and kept if both agree.

The work goes in rounds whose prompts depend only on the answers before them, taken in order. So a worker that starts again
asks exactly the same questions, finds them in the journal, and pays for none of them twice.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nanodistill_mcp.errors import BudgetError, TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import answers, plan
from nanodistill_mcp.pipeline.policy import for_teacher, training_traces
from nanodistill_mcp.pipeline.quality import HeldOut, NearDuplicates
from nanodistill_mcp.pipeline.revisions import Revisions, revisions_of
from nanodistill_mcp.pipeline.teaching import Solved, all_done, batch_result, run_options, solve, teacher_of
from nanodistill_mcp.runs.files import write_lines
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Example, Rejected, TaskPolicy, Trace
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import NewExamples
from nanodistill_mcp.teacher.client import RowDeclined, Teacher

BATCHES_PER_ROUND = 6
EXEMPLARS_SHOWN = 6
AVOID_SHOWN = 12
BARREN_ROUNDS = 3
"""Rounds in a row with less than a tenth accepted, after which the teacher has nothing new to say."""


@dataclass(frozen=True)
class _Candidate:
    id: str
    input: str
    output: str
    parents: list[str]
    call_id: str


@dataclass
class _Pool:
    """What was accepted and rejected so far."""

    policy: TaskPolicy
    held_out: HeldOut
    keeps_schema: Callable[[str], bool]
    revisions: Revisions
    known: NearDuplicates = field(default_factory=NearDuplicates)
    examples: list[Example] = field(default_factory=list[Example])
    rejected: list[Rejected] = field(default_factory=list[Rejected])

    def accept(self, example: Example) -> None:
        self.examples.append(example)
        self.known.add(example.input, example.output)

    def reject(self, candidate: _Candidate, reason: Any, other: str = "", call_ids: list[str] | None = None) -> None:
        self.rejected.append(
            Rejected(
                id=candidate.id,
                input=candidate.input,
                output=candidate.output,
                other_output=other,
                reason=reason,
                call_ids=call_ids or [candidate.call_id],
            )
        )

    def screen(self, candidate: _Candidate) -> bool:
        """Keep a candidate out before it is solved, with the reason."""
        reason = ""
        if self.known.is_exact(candidate.input):
            reason = "duplicate"
        elif self.held_out.contaminates(candidate.input):
            reason = "held_out"
        elif self.known.is_near(candidate.input, candidate.output):
            reason = "near_duplicate"
        elif barred := self.revisions.bars(candidate.input, candidate.output):
            reason = barred
        elif not answers.fits(self.policy.checker, self.policy.choices, candidate.output):
            reason = "not_a_choice" if self.policy.checker == "choice" else "invalid"
        elif not self.keeps_schema(candidate.output):
            reason = "invalid"
        if reason:
            self.reject(candidate, reason)
        return not reason


async def amplify(job: Job) -> dict[str, Any]:
    """Write ``rejected.jsonl``, then ``traces_amplified.jsonl``."""
    run, options = job.run, run_options(job)
    policy = run.policy()
    if policy is None:  # the server checks the order; a file removed since then is not worth a paid call
        raise TeacherError("This run has no policy.", next_step="Call extract_policy first.")
    traces = training_traces(run)
    seeds = run.seeds()
    revisions = revisions_of(run)
    held_out = HeldOut(seed.input for seed in seeds if seed.split == "held_out")
    pool = _Pool(policy, held_out, plan.schema_check(run.manifest.spec.response_schema), revisions)
    for trace in traces:
        _take_seed(pool, trace)
    target = int(job.arguments.get("target_size") or run.manifest.plan.target_examples)
    stopped = ""
    if len(pool.examples) < revisions.needed(pool.examples, target):
        async with teacher_of(job) as teacher:
            try:
                stopped = await _fill(job, teacher, pool, traces, target, options)
            except BudgetError as error:
                stopped = "budget"
                job.event("budget", what=error.what)
    kept = pool.examples[: revisions.needed(pool.examples, target)]
    left = len(revisions.effective(kept))
    if not kept:
        raise TeacherError(
            "No example was accepted: the teacher agreed with none of the seeds and no generated example was verified.",
            next_step="Look at the disagreements with read_artifact(artifact='traces_cot.jsonl'), correct the seeds or the instruction, and create a new run.",
        )
    write_lines(run.paths.rejected, [rejected.model_dump() for rejected in pool.rejected])
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in kept])
    reasons: dict[str, int] = {}
    for rejected in pool.rejected:
        reasons[rejected.reason] = reasons.get(rejected.reason, 0) + 1
    return {
        "accepted": left,
        "synthetic": sum(example.origin == "synthetic" for example in kept),
        "target": target,
        "missing": max(0, target - left),
        "stopped_by": stopped or "target",
        "rejected": reasons,
        "yield": round(len(pool.examples) / (len(pool.examples) + len(pool.rejected)), 3),
        **batch_result(job),
    }


async def _fill(job: Job, teacher: Teacher, pool: _Pool, traces: list[Trace], target: int, options: Options) -> str:
    """Run rounds until the target is reached. Returns what stopped it early, if anything did."""
    barren = 0
    next_batch = 0
    per_call = options.examples_per_call or plan.EXAMPLES_PER_CALL
    while len(pool.examples) < (goal := pool.revisions.needed(pool.examples, target)):
        await job.checkpoint()
        before = len(pool.examples)
        batches = min(BATCHES_PER_ROUND, math.ceil((goal - before) / per_call))
        candidates = await _generate_round(job, teacher, pool, traces, range(next_batch, next_batch + batches), options)
        next_batch += batches
        fresh = [candidate for candidate in candidates if pool.screen(candidate)]
        fresh = _without_repeats(pool, fresh)
        await _verify(job, teacher, pool, fresh, target, options)
        gained = len(pool.examples) - before
        job.event("round", batches=batches, candidates=len(candidates), solved=len(fresh), accepted=gained)
        job.progress(
            min(len(pool.examples), target), target, "generating and verifying examples", rejected=len(pool.rejected)
        )
        barren = barren + 1 if gained < math.ceil(0.1 * max(1, len(candidates))) else 0
        if barren >= BARREN_ROUNDS:
            return "saturation"
    return ""


async def _generate_round(
    job: Job, teacher: Teacher, pool: _Pool, traces: list[Trace], numbers: range, options: Options
) -> list[_Candidate]:
    task = job.run.manifest.spec.instruction
    policy_json = for_teacher(pool.policy)
    per_call = options.examples_per_call or plan.EXAMPLES_PER_CALL
    avoid = [example.input for example in pool.examples[-AVOID_SHOWN:] if example.origin == "synthetic"]
    batches: dict[int, list[_Candidate]] = {}

    async def one(number: int) -> None:
        shown = _exemplars(traces, number)
        prompt = prompts.generate(
            task, policy_json, [{"input": t.input, "output": t.output} for t in shown], avoid, per_call
        )
        try:
            answer = await teacher.ask(
                prompt, NewExamples, sample=number, max_tokens=options.teacher_max_tokens or 4096
            )
        except RowDeclined as declined:
            job.event("batch_declined", batch=number, reason=declined.reason)
            batches[number] = []
            return
        batches[number] = [
            _Candidate(f"g{number:04d}-{i}", item.input, item.output, [t.id for t in shown], answer.call_id)
            for i, item in enumerate(answer.value.examples)
        ]

    await all_done(partial(one, number) for number in numbers)
    return [candidate for number in sorted(batches) for candidate in batches[number]]


async def _verify(
    job: Job, teacher: Teacher, pool: _Pool, fresh: list[_Candidate], target: int, options: Options
) -> None:
    """Solve each candidate without its answer and accept those on which both agree, in the candidates' order."""
    task = plan.task_text(job.run.manifest.spec.instruction, pool.policy.choices)
    policy_json = for_teacher(pool.policy)
    solved: dict[str, Solved] = {}
    seen = len(pool.examples)

    async def one(candidate: _Candidate) -> None:
        solved[candidate.id] = await solve(
            teacher, task, candidate.input, policy_json=policy_json, max_tokens=options.teacher_max_tokens
        )
        job.progress(min(seen + len(solved), target), target, "verifying examples", rejected=len(pool.rejected))

    try:
        await all_done(partial(one, candidate) for candidate in fresh)
    finally:  # what was solved before a cap or a stop is kept
        for candidate in fresh:
            if (solution := solved.get(candidate.id)) is not None:
                _judge(pool, candidate, solution)


def _judge(pool: _Pool, candidate: _Candidate, solution: Solved) -> None:
    calls = [candidate.call_id, solution.call_id]
    if solution.declined:
        pool.reject(candidate, solution.declined, call_ids=calls)
    elif not answers.agree(pool.policy.checker, candidate.output, solution.answer):
        pool.reject(candidate, "disagreement", solution.answer, calls)
    else:
        pool.accept(
            Example(
                id=candidate.id,
                input=candidate.input,
                thinking=solution.solution,
                output=candidate.output,
                confidence=1.0,
                origin="synthetic",
                parents=candidate.parents,
                call_ids=calls,
            )
        )


def _take_seed(pool: _Pool, trace: Trace) -> None:
    if trace.agrees:
        pool.accept(
            Example(
                id=trace.id,
                input=trace.input,
                thinking=trace.thinking,
                output=trace.output,
                confidence=trace.confidence,
                origin="seed",
                parents=[trace.id],
                call_ids=trace.call_ids,
            )
        )
    else:
        candidate = _Candidate(trace.id, trace.input, trace.output, [trace.id], "")
        pool.reject(candidate, "disagreement", trace.teacher_output, trace.call_ids)


def _without_repeats(pool: _Pool, candidates: list[_Candidate]) -> list[_Candidate]:
    """Leave out near copies among the candidates of one round."""
    among = NearDuplicates()
    kept: list[_Candidate] = []
    for candidate in candidates:
        if among.is_exact(candidate.input) or among.is_near(candidate.input, candidate.output):
            pool.reject(candidate, "near_duplicate")
            continue
        among.add(candidate.input, candidate.output)
        kept.append(candidate)
    return kept


def _exemplars(traces: list[Trace], batch: int) -> list[Trace]:
    """Seeds to show in one batch: another selection for each, the same for the same batch."""
    good = [trace for trace in traces if trace.agrees] or traces
    ordered = sorted(good, key=lambda t: hashlib.sha256(json.dumps([batch, t.id]).encode()).digest())
    return ordered[:EXEMPLARS_SHOWN]
