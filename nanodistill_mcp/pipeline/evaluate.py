"""Student against base against teacher, on examples the student never saw."""

from collections import defaultdict
from functools import partial
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import answers, dataset, thinking
from nanodistill_mcp.pipeline.checking import Checking, checking_of
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.pipeline.statistics import paired, wilson
from nanodistill_mcp.pipeline.teaching import all_done, run_options, teacher_of
from nanodistill_mcp.pipeline.verdicts import judged
from nanodistill_mcp.runs.files import read_lines, write_json, write_lines
from nanodistill_mcp.runs.records import Trace
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.settings import HOST_TEACHER
from nanodistill_mcp.student.requests import Done, Generated, GenerateRequest, Variant

Rows = list[tuple[str, str, str]]
"""(id, input, expected output)."""

_SHOWN = 5


async def evaluate(job: Job) -> dict[str, Any]:
    """Write ``answers.jsonl``, then ``evaluation.json``."""
    run = job.run
    checking = checking_of(run)
    sets = test_sets(run)
    if not sets:
        raise UserInputError(
            "There is nothing to evaluate on: no seed was held out and the synthetic set is too small.",
            next_step="Create a run with five seeds or more, or with options.test_path.",
        )
    prompts_path = job.paths.root / "prompts.jsonl"
    instruction = run.manifest.spec.instruction
    rows = [
        {"id": i, "messages": dataset.prompt_messages(instruction, text)}
        for part in sets.values()
        for i, text, _ in part
    ]
    write_lines(prompts_path, rows)
    generated_path = job.paths.root / "generated.jsonl"
    job.progress(0, 2 * len(rows), "answering the held-out examples")
    await job.run_student(
        GenerateRequest(
            student=job.arguments["student"],
            variants=[Variant(name="base"), Variant(name="student", adapter_dir=run.paths.adapters)],
            prompts_path=prompts_path,
            output_path=generated_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "generate.json",
            max_tokens=answer_tokens(run, run_options(job).max_new_tokens),
        ),
        Done,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "rows" else None,
    )
    given: dict[str, dict[str, Generated]] = defaultdict(dict)
    for record in read_records(generated_path, Generated):
        given[record.variant][record.id] = record
    asked = [row for part in sets.values() for row in part]
    form = thinking.format_of(run.manifest)
    parts = {variant: {i: thinking.part(row.text, form) for i, row in rows.items()} for variant, rows in given.items()}
    right = {
        variant: await right_ids(job, checking, asked, {i: answer for i, (_, answer) in mine.items()})
        for variant, mine in parts.items()
    }
    traces = [trace for trace in read_records(run.paths.traces_cot, Trace) if trace.split == "held_out"]
    right["teacher"] = await right_ids(job, checking, asked, {trace.id: trace.teacher_output for trace in traces})
    scored = {
        name: _score_set(name, checking, part, given, parts, right, {trace.id for trace in traces})
        for name, part in sets.items()
    }
    if run.manifest.teacher_model == HOST_TEACHER:
        for part in scored.values():
            if "teacher" in part:
                part["teacher"]["may_have_seen_answers"] = True
    write_lines(run.paths.answers, [row for part in scored.values() for row in part["rows"]])
    summary = {name: {key: value for key, value in part.items() if key != "rows"} for name, part in scored.items()}
    found = judged(summary)
    result = {"checker": checking.checker, **summary, "decision": found.decision, "verdict": found.words}
    write_json(run.paths.evaluation, result)
    return result


async def right_ids(job: Job, checking: Checking, rows: Rows, given: dict[str, str]) -> set[str]:
    """The rows that were answered rightly. With the checker ``judge`` the teacher compares, within the run's budget."""
    if checking.checker != "judge":
        return {i for i, _, expected in rows if answers.agree(checking.checker, expected, given.get(i, ""))}
    right: set[str] = set()

    async with teacher_of(job) as teacher:

        async def one(row_id: str, text: str, expected: str) -> None:
            same, _ = await checking.same(teacher, text, expected, given.get(row_id, ""))
            if same:
                right.add(row_id)

        await all_done(partial(one, *row) for row in rows)
    return right


def test_sets(run: Run) -> dict[str, Rows]:
    """The user's held-out examples, and apart from them the synthetic test split."""
    held_out = [(seed.id, seed.input, seed.output) for seed in run.seeds() if seed.split == "held_out"]
    by_id = {example.id: example for example in effective_examples(run)}
    synthetic = [
        (row["id"], by_id[row["id"]].input, by_id[row["id"]].output)
        for row in read_lines(run.paths.dataset / "test.jsonl")
        if row["id"] in by_id  # dropped by the user since
    ]
    return {name: rows for name, rows in (("held_out", held_out), ("synthetic", synthetic)) if rows}


def answer_tokens(run: Run, wanted: int | None) -> int:
    """How long a student's answer may get: twice the longest target it was taught, and room to spare.

    Counted in bytes, because no tokenizer here makes more tokens than that.
    """
    if wanted is not None:
        return wanted
    longest = max(
        (len(row["messages"][-1]["content"].encode()) for row in read_lines(run.paths.dataset / "train.jsonl")),
        default=512,
    )
    return min(2 * longest + 32, 2048)


def score(rows: Rows, right: set[str]) -> dict[str, Any]:
    """Accuracy with its 95 % interval. A row that was not answered is wrong."""
    correct = sum(i in right for i, _, _ in rows)
    low, high = wilson(correct, len(rows))
    return {
        "rows": len(rows),
        "correct": correct,
        "accuracy": round(correct / len(rows), 4),
        "interval_95": [round(low, 4), round(high, 4)],
    }


def compared(right: dict[str, set[str]], other: str, rows: list[str]) -> dict[str, Any]:
    """The student against another model, row by row."""
    pair = paired(right["student"], right[other], rows)
    low, high = pair.interval()
    return {
        "rows": pair.rows,
        "only_student": pair.only_first,
        f"only_{other}": pair.only_second,
        "difference": round(pair.difference, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "p_value": round(pair.p_value, 6),
    }


def _score_set(
    name: str,
    checking: Checking,
    rows: Rows,
    given: dict[str, dict[str, Generated]],
    parts: dict[str, dict[str, tuple[str, str]]],
    right: dict[str, set[str]],
    solved: set[str],
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    table: list[dict[str, Any]] = [
        {"set": name, "id": i, "input": text, "expected": expected} for i, text, expected in rows
    ]
    for variant in ("base", "student"):
        said = parts[variant]
        mine = [given[variant][i] for i, _, _ in rows]
        tokens, seconds = sum(row.completion_tokens for row in mine), sum(row.elapsed_s for row in mine)
        result[variant] = {
            **score(rows, right[variant]),
            "well_formed": round(sum(not checking.fault(said[i][1]) for i, _, _ in rows) / len(rows), 4),
            "finished": round(sum(row.finish_reason == "stop" for row in mine) / len(rows), 4),
            "mean_tokens": round(tokens / len(rows), 1),
            "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        }
        for line in table:
            thought, answer = said[line["id"]]
            line[variant] = {
                "thinking": thought,
                "answer": answer,
                "correct": line["id"] in right[variant],
            }
    result["student_against_base"] = compared(right, "base", [i for i, _, _ in rows])
    if asked := [row for row in rows if row[0] in solved]:
        result["teacher"] = score(asked, right["teacher"])
        result["student_against_teacher"] = compared(right, "teacher", [i for i, _, _ in asked])
    wrong = [line for line in table if not line["student"]["correct"]]
    result["failures"] = [
        {
            "id": line["id"],
            "input": line["input"][:300],
            "expected": line["expected"],
            "answer": line["student"]["answer"][:200],
        }
        for line in wrong[:_SHOWN]
    ]
    return {**result, "rows": table}
