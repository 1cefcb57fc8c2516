"""What the teacher's stages share: the teacher opened for a job, and a seed or a new input solved."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio

from nanodistill_mcp.errors import BudgetError, NanodistillError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import recipe, spending
from nanodistill_mcp.pipeline.local_teacher import AT_ONCE, within_reach
from nanodistill_mcp.runs.journal import Journal, read_journal, spend_of
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.questions import Questions
from nanodistill_mcp.runs.records import Seed, Trace
from nanodistill_mcp.settings import BudgetSettings, TeacherEndpoint
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import Derivation, DirectAnswer, WorkedSolution
from nanodistill_mcp.teacher.batch_book import batch_summary, open_batches
from nanodistill_mcp.teacher.batch_terms import AtProvider, BatchTerms
from nanodistill_mcp.teacher.budget import Budget
from nanodistill_mcp.teacher.capabilities import Capabilities
from nanodistill_mcp.teacher.client import Reason, RowDeclined, Teacher
from nanodistill_mcp.teacher.ledger import DayLedger
from nanodistill_mcp.teacher.wording import stored_wordings

DEFAULT_CONCURRENCY = 32
DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True)
class Solved:
    """One input as the teacher solved it, or the reason it did not."""

    solution: str = ""
    answer: str = ""
    call_id: str = ""
    cost_usd: float = 0.0
    objection: str = ""
    declined: Reason | Literal[""] = ""


@asynccontextmanager
async def teacher_of(job: Job) -> AsyncGenerator[Teacher, None]:
    """The run's teacher, with the run's journal and what is left of its budget."""
    asked = TeacherEndpoint.model_validate(job.arguments["endpoint"])
    async with within_reach(job, asked) as endpoint, _opened(job, endpoint, is_kept_here=asked.is_mlx) as teacher:
        yield teacher


@asynccontextmanager
async def _opened(job: Job, endpoint: TeacherEndpoint, *, is_kept_here: bool) -> AsyncGenerator[Teacher, None]:
    manifest = job.run.manifest
    options = run_options(job)
    with Journal.open(job.run.paths.calls) as journal:
        ceilings = BudgetSettings.model_validate(job.arguments["ceilings"])
        day = DayLedger(Path(job.arguments["ledger_dir"]), spending.day_caps_of(ceilings))
        caps = spending.caps_of(job.run, ceilings)
        budget = Budget(caps, spend_of(journal.records), manifest.usd_per_mtok, day)
        teacher = Teacher(
            endpoint,
            journal=journal,
            budget=budget,
            capabilities=Capabilities(None if is_kept_here else Path(job.arguments["capabilities_path"])),
            stage=job.request.stage,
            concurrency=AT_ONCE if is_kept_here else options.teacher_concurrency or DEFAULT_CONCURRENCY,
            timeout_s=endpoint.timeout_s,
            before_call=job.checkpoint,
            wordings=stored_wordings(job.run.paths.prompts, manifest.prompts),
            sampling={
                **(options.litellm or {}),
                **({} if options.temperature is None else {"temperature": options.temperature}),
            },
            batch=_batch_terms(job, journal),
            host=(Questions(job.run.paths.host), job.paths.root.name) if endpoint.is_host else None,
        )
        try:
            yield teacher
        except BudgetError as error:
            stage, beat = job.request.stage, job.heartbeat
            raise spending.at_the_cap(
                error, job.run, journal.records, stage, done=beat.done, total=beat.total
            ) from None
        finally:
            with anyio.CancelScope(shield=True):  # what is in flight is paid for: it reaches the journal
                await teacher.aclose()


def batch_result(job: Job) -> dict[str, Any]:
    """What batches brought this stage, as a part of its summary; empty when there were none."""
    found = batch_summary(read_journal(job.run.paths.calls).records)
    return {"batch": found} if found["batches"] else {}


def _batch_terms(job: Job, journal: Journal) -> BatchTerms | None:
    """How this job hands its questions in; also live, while a batch of an earlier job is still out."""
    if job.request.stage != "amplify":
        return None
    mode = job.arguments.get("mode", "live")
    if mode == "live" and not open_batches(journal.records):
        return None
    return BatchTerms(mode, on_change=partial(_tell_of_batches, job))


def _tell_of_batches(job: Job, out: Sequence[AtProvider]) -> None:
    questions = sum(batch.questions for batch in out)
    finished = sum(batch.finished for batch in out)
    minutes = int(max((batch.age_s for batch in out), default=0) // 60)
    batches = "a batch" if len(out) == 1 else f"{len(out)} batches"
    message = f"{batches} of {questions} questions at the provider since {minutes} min, {finished} finished"
    shown = {"batches": len(out), "questions": questions, "finished": finished, "minutes": minutes}
    job.note(message if out else "", batch=shown if out else {})


def run_options(job: Job) -> Options:
    """The run's options over its preset."""
    spec = job.run.manifest.spec
    return recipe.preset_options(spec.preset, Options.model_validate(spec.options))


async def solve(
    teacher: Teacher,
    task: str,
    text: str,
    *,
    mode: Literal["cot", "direct"] = "cot",
    policy_json: str = "",
    examples: Sequence[Mapping[str, str]] = (),
    sample: int = 0,
    max_tokens: int | None = None,
) -> Solved:
    """Let the teacher solve one input without seeing any answer to it.

    ``direct`` asks for the answer alone, unless a worked solution was paid for already, in a run that this one was cloned of:
    its answer is the same teacher's to the same input. What is taught says the run's mode, not what a row holds.
    """
    tokens = max_tokens or DEFAULT_MAX_TOKENS
    with_reasoning = prompts.solve(task, text, policy_json, examples)
    worked_before = teacher.has_answered(with_reasoning, WorkedSolution, sample=sample, max_tokens=tokens)
    try:
        if mode == "direct" and not worked_before:
            prompt = prompts.answer(task, text, policy_json, examples)
            direct = await teacher.ask(prompt, DirectAnswer, sample=sample, max_tokens=tokens)
            return Solved("", direct.value.answer, direct.call_id, direct.cost_usd)
        worked = await teacher.ask(with_reasoning, WorkedSolution, sample=sample, max_tokens=tokens)
    except RowDeclined as declined:
        return Solved(call_id=declined.call_id, cost_usd=declined.cost_usd, declined=declined.reason)
    return Solved(worked.value.solution, worked.value.answer, worked.call_id, worked.cost_usd)


async def derive(teacher: Teacher, task: str, text: str, given: str, *, max_tokens: int | None = None) -> Solved:
    """Let the teacher write a solution that leads to a given answer, and say what speaks against that answer."""
    prompt = prompts.derive(task, text, given)
    try:
        found = await teacher.ask(prompt, Derivation, max_tokens=max_tokens or DEFAULT_MAX_TOKENS)
    except RowDeclined as declined:
        return Solved(call_id=declined.call_id, cost_usd=declined.cost_usd, declined=declined.reason)
    return Solved(found.value.solution, found.value.answer, found.call_id, found.cost_usd, found.value.objection)


def trace_of(seed: Seed, solved: Solved, *, agrees: bool, share: float, call_ids: list[str]) -> Trace:
    """What is kept of a seed that the teacher solved: its solution, beside the answer that was given.

    Args:
        seed: The seed.
        solved: The solution that is kept.
        agrees: Whether it counts as right.
        share: Of the solutions there were, those that agree.
        call_ids: All calls that it took.
    """
    return Trace(
        id=seed.id,
        input=seed.input,
        thinking=solved.solution,
        output=seed.output,
        teacher_output=solved.answer,
        agrees=agrees,
        confidence=round(share, 3),
        split=seed.split,
        call_ids=call_ids,
    )


async def all_done(units: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run paid work side by side. When one unit fails, those in flight still end, because they are paid for.

    Raises:
        NanodistillError: The first failure, once nothing is in flight any more.
    """
    failures: list[NanodistillError] = []

    async def guarded(unit: Callable[[], Awaitable[None]]) -> None:
        try:
            await unit()
        except NanodistillError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for unit in units:
            tasks.start_soon(guarded, unit)
    if failures:
        raise failures[0]
