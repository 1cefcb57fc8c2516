"""A run up to its accepted examples, written by hand: what a paid path of a minute leaves, in a moment."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.seeds import digest, split
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.journal import Journal
from nanodistill_mcp.runs.records import Example, Rejected, TaskPolicy, Trace
from nanodistill_mcp.runs.store import Run, RunStore, now
from nanodistill_mcp.teacher import prompts
from tests.conftest import Bench
from tests.runs.made import manifest

RUN = "made"
TEXTS = (
    "The parcel with my lamp has still not come",
    "You charged my card twice for one pair of shoes",
    "I cannot sign in since I changed my password",
    "The kettle arrived with a crack in its handle",
)


def amplified_run(bench: Bench, student: Path | None = None) -> str:
    """A run of the demo's task with four synthetic examples of one call, and one rejected; its id."""
    rows = [(row["input"], row["output"]) for row in task.seeds()]
    seeds = split(rows, None, 0)
    asked = {"teacher": "local", "student": str(student or student_path()), "instruction": task.INSTRUCTION}
    run, _ = RunStore(bench.home).create(manifest(RUN, **asked, seeds_sha256=digest(seeds)), seeds)
    outputs = sorted({seed.output for seed in seeds})
    traces = [
        Trace(
            id=seed.id, input=seed.input, thinking="Clues.", output=seed.output, teacher_output=seed.output,
            agrees=True, confidence=1.0, split=seed.split, call_ids=[f"solve-{seed.id}"],
        )
        for seed in seeds
    ]  # fmt: skip
    write_lines(run.paths.traces_cot, [trace.model_dump() for trace in traces])
    with Journal.open(run.paths.calls) as journal:
        for trace in traces:
            _call(journal, "synthesize_cot", trace.call_ids[0], 0.01)
        generated = _call(journal, "amplify", "generated", 0.05, template="generate")
        _policy(run, outputs)
        answers = [_call(journal, "amplify", f"answer-{number}", 0.01) for number in range(5)]
    train = [trace for trace in traces if trace.split == "train"]
    examples = [
        Example(
            id=trace.id, input=trace.input, thinking=trace.thinking, output=trace.output, confidence=1.0,
            origin="seed", parents=[trace.id], call_ids=trace.call_ids,
        )
        for trace in train
    ]  # fmt: skip
    examples += [
        Example(
            id=f"g0000-{number}", input=text, thinking="Clues.", output=outputs[number], confidence=1.0,
            origin="synthetic", parents=[train[0].id, train[1].id], call_ids=[generated, answers[number]],
        )
        for number, text in enumerate(TEXTS)
    ]  # fmt: skip
    rejected = Rejected(
        id="g0000-4",
        input="My voucher is refused at the till",
        output=outputs[0],
        other_output=outputs[1],
        reason="disagreement",
        call_ids=[generated, answers[4]],
    )
    write_lines(run.paths.rejected, [rejected.model_dump()])
    write_lines(run.paths.traces_amplified, [example.model_dump() for example in examples])
    return RUN


def _policy(run: Run, choices: list[str]) -> None:
    """The first version of the policy, on disk before anything is asked under it."""
    policy = TaskPolicy(
        task_description="Sort messages.",
        input_format="A message.",
        output_format="A queue.",
        reasoning_style="Clues.",
        key_constraints=["One queue."],
        difficulty_level="easy",
        reasoning_patterns=["clues"],
        examples_summary="Messages.",
        input_length_range=(10, 200),
        output_length_range=(3, 20),
        checker="choice",
        choices=choices,
    )
    run.paths.policies.mkdir(mode=0o700)
    write_json(run.paths.policies / "policy.v1.json", policy.model_dump())
    write_json(run.paths.policy, policy.model_dump())


def _call(journal: Journal, stage: str, call_id: str, cost_usd: float, *, template: str = "solve") -> str:
    """A call as the gate notes it."""
    key: dict[str, Any] = {"call_id": call_id, "attempt": 1, "at": now()}
    sha = prompts.solve("", "").sha
    intent = {"stage": stage, "model": "openai/desk", "template": template, "prompt_sha": sha}
    journal.append({"kind": "intent", **key, **intent, "max_usd": 1.0, "max_tokens": 100})
    used = {"input_tokens": 10, "output_tokens": 5, "cost_usd": cost_usd}
    journal.append({"kind": "answer", **key, "text": "{}", "finish_reason": "stop", **used})
    journal.append({"kind": "verdict", **key, "verdict": "valid", "why": ""})
    return call_id
