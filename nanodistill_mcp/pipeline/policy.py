"""The task's policy: what the teacher makes of the solved seeds, refined by feedback or replaced by the user."""

import json
from dataclasses import replace
from typing import Any

from nanodistill_mcp.errors import TeacherError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import answers
from nanodistill_mcp.pipeline.checking import Checking, from_seeds, policy_fields
from nanodistill_mcp.pipeline.labels import answers_in
from nanodistill_mcp.pipeline.policy_versions import ABOUT_THE_VERSION, carried_policy, changes, numbered
from nanodistill_mcp.pipeline.teaching import run_options, teacher_of
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.records import Checker, TaskPolicy, Trace
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.teacher import prompts
from nanodistill_mcp.teacher.answers import PolicyDraft
from nanodistill_mcp.teacher.client import RowDeclined

EXAMPLES_SHOWN = 20
_NAME_CHARS = 120
_MOST_VALUES = 24


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
    kept_back = {*ABOUT_THE_VERSION, "topics", "personas", "answer_schema"}
    return json.dumps(policy.model_dump(exclude=kept_back, exclude_defaults=True), ensure_ascii=False, indent=1)


def training_traces(run: Run) -> list[Trace]:
    """The traces of the training seeds. Held-out ones are never shown to the teacher."""
    return [trace for trace in read_records(run.paths.traces_cot, Trace) if trace.split == "train"]


async def _ask(job: Job, feedback: str, before: TaskPolicy | None) -> TaskPolicy:
    job.progress(0, 1, "extracting the policy")
    traces = [trace for trace in training_traces(job.run) if trace.output]
    seeds, spec = job.run.seeds(), job.run.manifest.spec
    shown_rule = from_seeds(spec.instruction, seeds, spec.response_schema, answers_in(traces))
    shown = [
        {"input": t.input, "thinking": t.thinking if t.agrees or t.derived else "", "output": t.output}
        for t in traces[:EXAMPLES_SHOWN]
    ]
    prompt = prompts.extract_policy(
        shown_rule.task, shown, feedback, for_teacher(before) if before and feedback else ""
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
    outputs = [trace.output for trace in traces]
    inputs = [len(trace.input) for trace in traces]
    ours = {"checker", "choices", "rubric", "topics", "personas", "input_length_range", "output_length_range"}
    return TaskPolicy(
        **draft.model_dump(exclude=ours),
        **policy_fields(_rule(draft, shown_rule, outputs)),
        input_length_range=_range(draft.input_length_range, inputs),
        output_length_range=_range(draft.output_length_range, [len(output) for output in outputs]),
        topics=_distinct(draft.topics),
        personas=_distinct(draft.personas),
        source="feedback" if feedback else "teacher",
    )


def _rule(draft: PolicyDraft, shown: Checking, outputs: list[str]) -> Checking:
    """The teacher's rule for answers, where it can judge the given ones and is no vaguer than what they show."""
    if draft.checker == "choice" and not draft.choices:
        return shown
    if not all(answers.fits(draft.checker, draft.choices, output) for output in outputs):
        return shown
    if _STRICTNESS[draft.checker] < _STRICTNESS[shown.checker]:
        return shown
    if draft.checker == "exact" and shown.checker == "judge":  # free text is never the same twice
        return shown
    choices = draft.choices if draft.checker == "choice" else []
    return replace(shown, checker=draft.checker, choices=choices, rubric=draft.rubric.strip())


_STRICTNESS: dict[Checker, int] = {
    "normalized": 0,
    "judge": 1,
    "rouge_l": 1,
    "exact": 1,
    "regex": 2,
    "json": 2,
    "numeric": 2,
    "choice": 2,
}
"""How much a checker knows of the form of answers."""


def _distinct(texts: list[str]) -> list[str]:
    """A list without empty entries and repetitions, and of a sensible length."""
    return list(dict.fromkeys(text.strip()[:_NAME_CHARS] for text in texts if text.strip()))[:_MOST_VALUES]


def _range(proposed: list[int], measured: list[int]) -> tuple[int, int]:
    """The proposed range, widened to what the seeds show."""
    both = [length for length in proposed if length >= 0] + measured
    return min(both), max(both)
