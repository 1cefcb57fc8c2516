"""Student against base against teacher, on examples the student never saw."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, failures, thinking
from nanodistill_mcp.pipeline.asking import BASE, STUDENT, Given, Question, ask_student
from nanodistill_mcp.pipeline.checking import Checking, checking_of
from nanodistill_mcp.pipeline.forgetting import forgetting, general_questions
from nanodistill_mcp.pipeline.inherited import Inherited, inherited
from nanodistill_mcp.pipeline.judging import judge_agreement, right_ids
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.pipeline.scoring import Said, compared, model_score, score
from nanodistill_mcp.pipeline.teaching import all_done, run_options, solve, teacher_of
from nanodistill_mcp.pipeline.test_sets import Rows, Sets, asked_for, test_sets
from nanodistill_mcp.pipeline.verdicts import judged
from nanodistill_mcp.runs.files import read_lines, write_json, write_lines
from nanodistill_mcp.runs.records import Trace
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.settings import HOST_TEACHER

TEACHER = "teacher"


async def evaluate(job: Job) -> dict[str, Any]:
    """Write ``answers.jsonl``, then ``evaluation.json``. Killed at any moment, it goes on from what was answered."""
    run, checking = job.run, checking_of(job.run)
    sets = test_sets(run)
    if not sets.by_name:
        raise UserInputError(
            "There is nothing to evaluate on: no seed was held out and the synthetic set is too small.",
            next_step=f"Call evaluate(run_id={run.run_id!r}, test_path=...) with a file of examples that have an output.",
        )
    instruction, limit = run.manifest.spec.instruction, answer_tokens(run, run_options(job).max_new_tokens)
    questions = {i: Question(dataset.prompt_messages(instruction, text), limit) for i, text, _ in sets.rows}
    given = await ask_student(job, [*questions.values(), *general_questions(run.manifest)])
    said = {model: _parted(run, questions, given, model) for model in (BASE, STUDENT)}
    said[TEACHER] = await _teacher_said(job, checking, sets)
    asked = {model: [row for row in sets.rows if row[0] in answers] for model, answers in said.items()}
    right = {
        model: await right_ids(job, checking, asked[model], {i: each.answer for i, each in answers.items()})
        for model, answers in said.items()
    }
    before = inherited(run)
    cells = failures.cells_of(sets.rows, effective_examples(run))
    summary: dict[str, Any] = {}
    for name, rows in sets.by_name.items():
        summary[name] = _summary(checking, rows, said, right)
        wrong = [i for i, _, _ in rows if i not in right[STUDENT]]
        summary[name]["failures"] = failures.shown(rows, said[STUDENT], wrong)
        summary[name]["failure_groups"] = failures.failure_groups(checking, rows, said[STUDENT], right[STUDENT], cells)
        answers = {i: said[STUDENT][i].answer for i, _, _ in rows}
        summary[name][STUDENT] |= await judge_agreement(job, checking, rows, answers, right[STUDENT])
        summary[name] |= _against_parent(before, rows, said[STUDENT], right[STUDENT]) if before else {}
        if run.manifest.teacher_model == HOST_TEACHER and TEACHER in summary[name]:
            summary[name][TEACHER]["may_have_seen_answers"] = True
    write_lines(run.paths.answers, _table(sets, said, right, cells))
    found = judged(summary)
    result = {
        "checker": checking.checker,
        **summary,
        "general": forgetting(run.manifest, given),
        **({"seen_rows_left_out": sets.seen} if sets.seen else {}),
        "asked": asked_for(run, int(job.arguments.get("teacher_rows", 0))),
        "decision": found.decision,
        "verdict": found.words,
    }
    write_json(run.paths.evaluation, result)
    return result


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


def _parted(run: Run, questions: Mapping[str, Question], given: Given, model: str) -> dict[str, Said]:
    form = thinking.format_of(run.manifest)
    said: dict[str, Said] = {}
    for i, question in questions.items():
        row = given[model][question.key]
        thought, answer = thinking.part(row.text, form)
        said[i] = Said(thought, answer, row.completion_tokens, row.elapsed_s, row.finish_reason == "stop")
    return said


async def _teacher_said(job: Job, checking: Checking, sets: Sets) -> dict[str, Said]:
    """What the teacher answered to held-out seeds when it solved them, and to as many further rows as are paid for now."""
    traces = [trace for trace in read_records(job.run.paths.traces_cot, Trace) if trace.split == "held_out"]
    said = {trace.id: Said(trace.teacher_thinking or trace.thinking, trace.teacher_output) for trace in traces}
    wanted = int(job.arguments.get("teacher_rows", 0))
    left = [row for row in sets.by_name.get("held_out", []) if row[0] not in said][:wanted]
    if not left:
        return said
    limit = run_options(job).teacher_max_tokens

    async with teacher_of(job) as teacher:

        async def one(row_id: str, text: str, _: str) -> None:
            mode = dataset.mode_of(text, job.run.manifest.spec)  # as it solved the held-out seeds
            solved = await solve(teacher, checking.task, text, mode=mode, max_tokens=limit)
            said[row_id] = Said(solved.solution, solved.answer)
            job.progress(sum(row[0] in said for row in left), len(left), "the teacher answers")

        await all_done(partial(one, *row) for row in left)
    return said


def _summary(
    checking: Checking, rows: Rows, said: Mapping[str, Mapping[str, Said]], right: Mapping[str, set[str]]
) -> dict[str, Any]:
    ids = [i for i, _, _ in rows]
    result: dict[str, Any] = {
        model: model_score(checking, rows, said[model], right[model]) for model in (BASE, STUDENT)
    }
    result["student_against_base"] = compared(dict(right), BASE, ids)
    if solved := [row for row in rows if row[0] in said[TEACHER]]:
        result[TEACHER] = score(solved, right[TEACHER])
        result["student_against_teacher"] = compared(dict(right), TEACHER, [i for i, _, _ in solved])
    return result


def _against_parent(before: Inherited, rows: Rows, said: Mapping[str, Said], right: set[str]) -> dict[str, Any]:
    """The student against the parent's, on the rows both were asked; and what the parent had right that it has no longer."""
    parents = {(row["input"], row["expected"]): bool(row[STUDENT]["correct"]) for row in before.answers}
    common = [row for row in rows if (row[1], row[2]) in parents]
    if not common:
        return {}
    passed = {i for i, text, expected in common if parents[text, expected]}
    lost = [i for i, _, _ in common if i in passed and i not in right]
    ids = [i for i, _, _ in common]
    return {
        "student_against_parent": compared({STUDENT: right, "parent": passed}, "parent", ids),
        "passed_before": {
            "rows": len(passed),
            "still": len(passed) - len(lost),
            "lost": failures.shown(rows, said, lost),
        },
    }


def _table(
    sets: Sets,
    said: Mapping[str, Mapping[str, Said]],
    right: Mapping[str, set[str]],
    cells: Mapping[str, Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Every row with every answer to it."""
    return [
        {
            "set": name,
            "id": i,
            "input": text,
            "expected": expected,
            **({"cell": cells[i]} if cells.get(i) else {}),
            **{
                model: {
                    "thinking": said[model][i].thinking,
                    "answer": said[model][i].answer,
                    "correct": i in right[model],
                }
                for model in (BASE, STUDENT, TEACHER)
                if i in said[model]
            },
        }
        for name, rows in sets.by_name.items()
        for i, text, expected in rows
    ]
