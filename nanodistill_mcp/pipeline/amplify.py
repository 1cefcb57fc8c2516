"""New examples under the policy: inputs are generated over a grid, screened, solved several times, and kept if all agree.

The work goes in rounds whose prompts depend only on the answers before them, taken in order. So a worker that starts again
asks exactly the same questions, finds them in the journal, and pays for none of them twice.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from nanodistill_mcp.errors import BudgetError, TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, plan, spending
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.inherited import BATCHES_APART, Focus, focused, inherited
from nanodistill_mcp.pipeline.policy import for_teacher, training_traces
from nanodistill_mcp.pipeline.pool import Candidate, Pool
from nanodistill_mcp.pipeline.quality import HeldOut, NearDuplicates
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.pipeline.teaching import Solved, all_done, batch_result, run_options, solve, teacher_of
from nanodistill_mcp.pipeline.test_sets import held_out_inputs
from nanodistill_mcp.runs.files import write_lines
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Example, Trace
from nanodistill_mcp.settings import BudgetSettings
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import NewInputs
from nanodistill_mcp.teacher.client import RowDeclined, Teacher

DEFAULT_SOLUTIONS = 2
BATCHES_PER_ROUND = 8
BATCHES_PER_PROVIDER_BATCH = 500
EXEMPLARS_SHOWN = 6
SOLVED_SHOWN = 3
AVOID_SHOWN = 12
BARREN_ROUNDS = 3
"""Rounds in a row that gain next to nothing, after which the stage stops and says why."""

_BARREN_SHARE = 0.1
_NOVEL_SHARE = 0.2


async def amplify(job: Job) -> dict[str, Any]:
    """Write ``rejected.jsonl``, then ``traces_amplified.jsonl``."""
    run = job.run
    policy = run.policy()
    if policy is None:  # the server checks the order; a file removed since then is not worth a paid call
        raise TeacherError("This run has no policy.", next_step="Call extract_policy first.")
    held_out = HeldOut(held_out_inputs(run))
    revisions = revisions_of(run)
    pool = Pool(policy, checking_of(run), held_out, revisions)
    traces = training_traces(run)
    for trace in traces:
        pool.take_seed(trace)
    traces = [trace for trace in traces if trace.output]
    before = inherited(run)
    if before:
        pool.take_over(before.examples)
    target = int(job.arguments.get("target_size") or run.manifest.plan.target_examples)
    stopped = ""
    short: BudgetError | None = None
    if len(pool.examples) < revisions.needed(pool.examples, target):
        async with teacher_of(job) as teacher:
            try:
                focus = before.focus if before else []
                stopped = await _Amplifier(job, teacher, pool, traces, run_options(job), focus).fill(target)
            except BudgetError as error:
                stopped = "budget"
                job.event("budget", what=error.what)
                short = spending.at_the_cap(
                    error,
                    run,
                    read_journal(run.paths.calls).records,
                    "amplify",
                    done=min(len(revisions.effective(pool.examples)), target),
                    total=target,
                    free=sum(example.origin == "seed" for example in pool.examples),
                )
    pool.cut(revisions.needed(pool.examples, target))
    kept = pool.examples
    left = len(revisions.effective(kept))
    if short and not kept:
        raise short
    if not kept:
        raise TeacherError(
            "No example was accepted: the teacher agreed with none of the seeds and no generated example was verified.",
            next_step="Look at the disagreements with read_artifact(artifact='traces_cot.jsonl'), correct the seeds or the instruction, and create a new run.",
        )
    write_lines(run.paths.rejected, [rejected.model_dump() for rejected in pool.rejected])
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in kept])
    ceilings = BudgetSettings.model_validate(job.arguments["ceilings"])
    told = {"at_the_cap": spending.told_of(short, run, ceilings, "Or train on what there is.")} if short else {}
    return {**_summary(pool, kept, left, target, stopped), **batch_result(job), **told}


def _summary(pool: Pool, kept: list[Example], left: int, target: int, stopped: str) -> dict[str, Any]:
    synthetic = [example for example in kept if example.origin == "synthetic"]
    yields = pool.yields()
    made = yields[0]["in"]
    summary: dict[str, Any] = {
        "accepted": left,
        "synthetic": len(synthetic),
        "labelled": sum(example.origin == "labelled" for example in kept),
        "target": target,
        "missing": max(0, target - left),
        "stopped_by": stopped or "target",
        "rejected": dict(Counter(rejected.reason for rejected in pool.rejected)),
        "yield": round(yields[-1]["in"] / made, 3) if made else None,
        "yield_by_filter": yields,
        "diversity": pool.diversity.summary(),
    }
    if pool.checking.checker == "choice":
        summary["answers"] = dict(Counter(example.output for example in kept).most_common(50))
        summary["off_target"] = sum(
            example.cell.get("answer", example.output) != example.output for example in synthetic
        )
    return summary


@dataclass(frozen=True)
class _Amplifier:
    """One amplify job at work."""

    job: Job
    teacher: Teacher
    pool: Pool
    traces: list[Trace]
    options: Options
    focus: list[Focus]
    """Where new examples are wanted; empty spreads them over all the policy varies."""

    @property
    def per_call(self) -> int:
        """Inputs asked for in one call."""
        return self.options.examples_per_call or plan.EXAMPLES_PER_CALL

    @property
    def batches_per_round(self) -> int:
        """How many batches of inputs are asked for before they are solved.

        Small rounds let each keep off what the last one brought. But a batch at a provider takes hours, so there all go at once.
        """
        return BATCHES_PER_PROVIDER_BATCH if self.job.arguments.get("mode") == "batch" else BATCHES_PER_ROUND

    async def fill(self, target: int) -> str:
        """Run rounds until the target is reached. Returns what stopped it early, if anything did."""
        pool = self.pool
        await self.answer_inputs(target)
        if self.options.inputs_only:
            return "inputs" if len(pool.examples) < pool.revisions.needed(pool.examples, target) else ""
        barren, stale, next_batch = 0, 0, BATCHES_APART * self.job.run.manifest.generation
        while len(pool.examples) < (goal := pool.revisions.needed(pool.examples, target)):
            await self.job.checkpoint()
            before = len(pool.examples)
            batches = min(self.batches_per_round, math.ceil((goal - before) / self.per_call))
            candidates = await self.generate(range(next_batch, next_batch + batches))
            next_batch += batches
            novel = self.screened(candidates)
            await self.verify(novel, target)
            gained = len(pool.examples) - before
            self.job.event("round", batches=batches, candidates=len(candidates), novel=len(novel), accepted=gained)
            self.show(len(pool.examples), target, "generating and verifying examples")
            stale = stale + 1 if len(novel) < math.ceil(_NOVEL_SHARE * max(1, len(candidates))) else 0
            barren = barren + 1 if gained < math.ceil(_BARREN_SHARE * max(1, len(candidates))) else 0
            if stale >= BARREN_ROUNDS:
                return "novelty"
            if barren >= BARREN_ROUNDS:
                return "disagreement"
        return ""

    async def answer_inputs(self, target: int) -> None:
        """Have the user's own inputs answered, before any are written: as many as are wanted, in their order."""
        pool, job = self.pool, self.job
        waiting = [
            Candidate(f"i{number:05d}", text, [], {}, [], 0.0, "labelled")
            for number, text in enumerate(job.run.inputs(), 1)
        ]
        while waiting and (room := pool.revisions.needed(pool.examples, target) - len(pool.examples)) > 0:
            await job.checkpoint()
            size = min(room, BATCHES_PER_ROUND * self.per_call)
            batch, waiting = waiting[:size], waiting[size:]
            before = len(pool.examples)
            novel = self.screened(batch)
            await self.verify(novel, target)
            gained = len(pool.examples) - before
            job.event("inputs", candidates=len(batch), novel=len(novel), accepted=gained, left=len(waiting))
            self.show(len(pool.examples), target, "answering the given inputs")

    def show(self, accepted: int, target: int, message: str) -> None:
        """Say how far the stage is."""
        self.job.progress(min(accepted, target), target, message, rejected=len(self.pool.rejected))

    async def generate(self, numbers: range) -> list[Candidate]:
        """Ask for batches of new inputs, side by side."""
        policy_json = for_teacher(self.pool.policy)
        avoid = [example.input for example in self.pool.synthetic()[-AVOID_SHOWN:]]
        overused = self.pool.diversity.overused()
        batches: dict[int, list[Candidate]] = {}

        async def one(number: int) -> None:
            cells = [focused(self.pool.policy, number * self.per_call + i, self.focus) for i in range(self.per_call)]
            shown = self.exemplars(str(number))[:EXEMPLARS_SHOWN]
            prompt = prompts.generate(
                self.pool.checking.task,
                policy_json,
                [{"input": trace.input, "output": trace.output} for trace in shown],
                cells,
                avoid,
                overused,
            )
            tokens = self.options.teacher_max_tokens or 4096
            try:
                answer = await self.teacher.ask(prompt, NewInputs, sample=number, max_tokens=tokens)
            except RowDeclined as declined:
                self.job.event("batch_declined", batch=number, reason=declined.reason)
                batches[number] = []
                return
            made = answer.value.inputs[: self.per_call]
            share = answer.cost_usd / max(1, len(made))
            parents = [trace.id for trace in shown]
            batches[number] = [
                Candidate(f"g{number:04d}-{i}", text.strip(), parents, cells[i], [answer.call_id], share)
                for i, text in enumerate(made)
            ]

        await all_done(partial(one, number) for number in numbers)
        return [candidate for number in sorted(batches) for candidate in batches[number]]

    def screened(self, candidates: list[Candidate]) -> list[Candidate]:
        """Leave out copies: of what there is, of held-out seeds, and of each other."""
        among = NearDuplicates()
        kept: list[Candidate] = []
        for candidate in candidates:
            if not self.pool.screen(candidate):
                continue
            intended = candidate.cell.get("answer", "")
            if among.is_exact(candidate.input):
                self.pool.reject(candidate, "duplicate", output=intended)
            elif intended and among.is_near(candidate.input, intended):
                self.pool.reject(candidate, "near_duplicate", output=intended)
            else:
                among.add(candidate.input, intended)
                kept.append(candidate)
        return kept

    async def verify(self, fresh: list[Candidate], target: int) -> None:
        """Solve each candidate independently, and accept those on which all solutions agree, in the candidates' order."""
        verdicts: dict[str, _Verdict] = {}
        before = len(self.pool.examples)

        async def one(candidate: Candidate) -> None:
            verdicts[candidate.id] = await self.solutions(candidate)
            self.show(before + len(verdicts), target, "verifying examples")

        try:
            await all_done(partial(one, candidate) for candidate in fresh)
        finally:  # what was solved before a cap or a stop is kept
            for candidate in fresh:
                if (verdict := verdicts.get(candidate.id)) is not None:
                    self.settle(candidate, verdict)
                else:  # its paid answers are in the journal: a later call goes on from them
                    self.pool.reject(candidate, "unfinished", output=candidate.cell.get("answer", ""))

    async def solutions(self, candidate: Candidate) -> "_Verdict":
        """Solve one candidate until as many solutions agree as are wanted, or one does not.

        The first solution sees the policy alone; each further one also sees other solved seeds, so that a misreading of the
        policy is less likely to be made twice.
        """
        pool, wanted = self.pool, self.options.solutions_per_example or DEFAULT_SOLUTIONS
        mode = dataset.mode_of(candidate.input, self.job.run.manifest.spec)
        first: Solved | None = None
        for sample in range(wanted):
            solved = await solve(
                self.teacher,
                pool.checking.task,
                candidate.input,
                mode=mode,
                policy_json=for_teacher(pool.policy),
                examples=self.solved_seeds(candidate.input, sample) if sample else (),
                sample=sample,
                max_tokens=self.options.teacher_max_tokens,
            )
            candidate.paid(solved)
            if solved.declined:
                return _Verdict(solved.declined, first or solved)
            if fault := pool.checking.fault(solved.answer):
                return _Verdict(fault, solved)
            if first is None:
                first = solved
                if pool.known.is_near(candidate.input, solved.answer):
                    return _Verdict("near_duplicate", solved)
                continue
            same, judged = await pool.checking.same(self.teacher, candidate.input, first.answer, solved.answer)
            candidate.call_ids += judged
            if not same:
                return _Verdict("disagreement", first, solved.answer)
        assert first is not None  # noqa: S101 - at least one solution is wanted
        return _Verdict("", first, solutions=wanted)

    def settle(self, candidate: Candidate, verdict: "_Verdict") -> None:
        """Accept or reject a candidate. Another one of its round may have been accepted in the meantime."""
        pool = self.pool
        output = pool.checking.canonical(verdict.solution.answer)
        reason = verdict.reason
        if not reason and pool.known.is_near(candidate.input, output):
            reason = "near_duplicate"
        reason = reason or pool.revisions.bars(candidate.input, output)
        if reason:
            pool.reject(candidate, reason, output=output, other=verdict.other)
        else:
            checks = {"checker": pool.checking.checker, "solutions": verdict.solutions, "agreeing": verdict.solutions}
            pool.accept(candidate, verdict.solution, output, checks)

    def exemplars(self, occasion: str) -> list[Trace]:
        """The seeds in another order for each occasion, the same for the same one; those the teacher got right first."""
        good = [trace for trace in self.traces if trace.agrees] or self.traces
        return sorted(good, key=lambda t: hashlib.sha256(json.dumps([occasion, t.id]).encode()).digest())

    def solved_seeds(self, text: str, sample: int) -> list[dict[str, str]]:
        """Solved seeds to show beside one input."""
        shown = self.exemplars(f"{sample}\0{text}")[:SOLVED_SHOWN]
        return [
            {"input": t.input, **({"thinking": t.thinking} if t.thinking else {}), "output": t.output} for t in shown
        ]


@dataclass(frozen=True)
class _Verdict:
    """What the solutions of one candidate came to."""

    reason: str
    solution: Solved
    other: str = ""
    solutions: int = 0
