"""The task's policy: what the teacher makes of the solved seeds, refined by feedback or replaced by the user."""

import json
from typing import Any

from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import answers, plan
from nanodistill_mcp.pipeline.policy_versions import ABOUT_THE_VERSION, carried_policy, changes, numbered
from nanodistill_mcp.pipeline.teaching import run_options, teacher_of
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.records import TaskPolicy, Trace
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import PolicyDraft
from nanodistill_mcp.teacher.client import RowDeclined

EXAMPLES_SHOWN = 20


async def extract_policy(job: Job) -> dict[str, Any]:
    """Write ``policy.json``, and every version beside it."""
    run, current, carried = job.run, job.run.policy(), carried_policy(job.run)
    feedback = str(job.arguments.get("feedback", ""))
    if given := job.arguments.get("policy"):
        policy = TaskPolicy.model_validate(given)
    elif carried and not current and not feedback:
        policy = carried
    else:
        policy = await _ask(job, feedback, current or carried)
    policy = numbered(run, policy)
    run.paths.policies.mkdir(mode=0o700, exist_ok=True)
    write_json(run.paths.policies / f"policy.v{policy.version}.json", policy.model_dump())
    write_json(run.paths.policy, policy.model_dump())
    return {
        "version": policy.version,
        "source": policy.source,
        "restored_from": policy.restored_from,
        "changes": changes(current, policy) if current else {},
        "task_description": policy.task_description[:600],
        "checker": policy.checker,
        "choices": policy.choices[:50],
    }


def for_teacher(policy: TaskPolicy) -> str:
    """The policy as the teacher reads it."""
    return json.dumps(policy.model_dump(exclude=set(ABOUT_THE_VERSION)), ensure_ascii=False, indent=1)


def training_traces(run: Run) -> list[Trace]:
    """The traces of the training seeds. Held-out ones are never shown to the teacher."""
    return [trace for trace in read_records(run.paths.traces_cot, Trace) if trace.split == "train"]


async def _ask(job: Job, feedback: str, before: TaskPolicy | None) -> TaskPolicy:
    job.progress(0, 1, "extracting the policy")
    traces = training_traces(job.run)
    seeds = job.run.seeds()
    checker, choices = plan.seed_checker(seeds)
    shown = [
        {"input": t.input, "thinking": t.thinking if t.agrees else "", "output": t.output}
        for t in traces[:EXAMPLES_SHOWN]
    ]
    prompt = prompts.extract_policy(
        plan.task_text(job.run.manifest.spec.instruction, choices),
        shown,
        feedback,
        for_teacher(before) if before and feedback else "",
    )
    async with teacher_of(job) as teacher:
        try:
            answer = await teacher.ask(prompt, PolicyDraft, max_tokens=run_options(job).teacher_max_tokens or 4096)
        except RowDeclined as declined:
            raise TeacherError(
                f"The teacher gave no policy ({declined.reason}).",
                next_step="Call extract_policy(policy=...) with a policy of your own, or create a run with another teacher.",
            ) from None
    job.progress(1, 1, "extracted the policy")
    draft = answer.value
    outputs = [seed.output for seed in seeds if seed.split == "train"]
    inputs = [len(seed.input) for seed in seeds if seed.split == "train"]
    proposed = draft.checker if _judges_all(draft, outputs) else checker
    return TaskPolicy(
        **draft.model_dump(exclude={"checker", "choices", "input_length_range", "output_length_range"}),
        input_length_range=_range(draft.input_length_range, inputs),
        output_length_range=_range(draft.output_length_range, [len(output) for output in outputs]),
        checker=proposed,
        choices=(draft.choices if proposed == draft.checker else choices) if proposed == "choice" else [],
        source="feedback" if feedback else "teacher",
    )


def _judges_all(draft: PolicyDraft, outputs: list[str]) -> bool:
    """A proposed checker that cannot judge the given outputs is not taken."""
    if draft.checker == "choice" and not draft.choices:
        return False
    return all(answers.fits(draft.checker, draft.choices, output) for output in outputs)


def _range(proposed: list[int], measured: list[int]) -> tuple[int, int]:
    """The proposed range, widened to what the seeds show."""
    both = [length for length in proposed if length >= 0] + measured
    return min(both), max(both)
