"""The same prompts, answered side by side by base, student, GGUF file and teacher: as they do, or with or without reasoning."""

from typing import Any, Literal

import anyio

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, thinking
from nanodistill_mcp.pipeline.asking import BASE, STUDENT, Question, ask_file, ask_student
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.evaluate import answer_tokens
from nanodistill_mcp.pipeline.teaching import Solved, run_options, solve, teacher_of
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import AskedMode, ModelName
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.student.answer_requests import Generated

_GGUF: Literal["gguf"] = "gguf"


async def compare_models(job: Job) -> dict[str, Any]:
    """Write ``comparison.json``. What a model answered already is kept, so that after a kill only the rest is asked."""
    run = job.run
    prompts: list[str] = job.arguments["prompts"]
    models: list[ModelName] = job.arguments["models"]
    mode: AskedMode = job.arguments.get("mode", "trained")
    thinking.check_mode(run.manifest.spec, mode, models)
    if _GGUF in models and not run.paths.gguf.exists():
        raise UserInputError(
            "This run has no GGUF file yet.", next_step="Call export_gguf first, or leave gguf out of models."
        )
    job.progress(0, len(prompts) * len(models), "answering")
    rows: list[dict[str, Any]] = [{"prompt": text} for text in prompts]
    asked: dict[ModelName, list[Question]] = {
        model: _questions(job, prompts, mode, model) for model in models if model != "teacher"
    }
    given = await _answered(job, asked)
    for model, questions in asked.items():
        for row, question in zip(rows, questions, strict=True):
            row[model] = _said(run, given[model][question.key])
    if "teacher" in models:
        await _ask_teacher(job, rows, mode)
    result = {"mode": mode, "models": models, "notes": _notes(run, mode, models), "rows": rows}
    write_json(run.paths.comparison, {"arguments": {"prompts": prompts, "models": models, "mode": mode}, **result})
    return result


def _questions(job: Job, prompts: list[str], mode: AskedMode, model: ModelName) -> list[Question]:
    """The prompts as training builds them; direct or reasoning by how the answer is made to begin."""
    run = job.run
    limit = answer_tokens(run, run_options(job).max_new_tokens)
    begun = _opening(run, mode, model)
    instruction = run.manifest.spec.instruction
    return [Question(dataset.prompt_messages(instruction, text), limit, begun) for text in prompts]


def _opening(run: Run, mode: AskedMode, model: ModelName) -> str:
    """Empty where the model begins as it likes, and where it knows no reasoning that could be begun or left out."""
    if mode == "trained":
        return ""
    if model == BASE:
        natively = run.manifest.student_thinks_natively
        return thinking.opening("native", with_reasoning=mode == "reasoning") if natively else ""
    if run.manifest.spec.reasoning == "direct":
        return ""
    return thinking.opening(thinking.format_of(run.manifest), with_reasoning=mode == "reasoning")


def _notes(run: Run, mode: AskedMode, models: list[ModelName]) -> list[str]:
    """What has to be known to read the answers."""
    notes: list[str] = []
    if mode != "trained" and BASE in models and not run.manifest.student_thinks_natively:
        notes.append("The base has no reasoning of its own to begin or leave out: it is asked as always.")
    if mode == "direct" and run.manifest.spec.reasoning == "cot" and {STUDENT, _GGUF} & set(models):
        notes.append("The student was taught reasoning only: without it, it does what it was not taught.")
    return notes


async def _answered(job: Job, asked: dict[ModelName, list[Question]]) -> dict[ModelName, dict[str, Generated]]:
    """What base, student and file answer, by the question's key."""
    given: dict[ModelName, dict[str, Generated]] = {}
    local: list[ModelName] = [model for model in asked if model != _GGUF]
    together = len({asked[model][0].opening for model in local}) == 1
    groups: list[list[ModelName]] = [local] if together else [[model] for model in local]
    for group in groups:
        answers = await ask_student(job, asked[group[0]], group)
        for model in group:
            given[model] = answers[model]
    if _GGUF in asked:
        given[_GGUF] = await ask_file(job, asked[_GGUF])
    return given


def _said(run: Run, row: Generated) -> dict[str, Any]:
    thought, answer = thinking.part(row.text, thinking.format_of(run.manifest))
    took = {"seconds": round(row.elapsed_s, 3), "tokens": row.completion_tokens}
    return {"thinking": thought, "answer": answer, **took, "finished": row.finish_reason == "stop"}


async def _ask_teacher(job: Job, rows: list[dict[str, Any]], mode: AskedMode) -> None:
    task = checking_of(job.run).task
    solved: dict[int, Solved] = {}

    async with teacher_of(job) as teacher, anyio.create_task_group() as tasks:

        async def one(place: int, prompt: str) -> None:
            solved[place] = await solve(teacher, task, prompt, mode="direct" if mode == "direct" else "cot")

        for place, row in enumerate(rows):
            tasks.start_soon(one, place, row["prompt"])
    records = read_journal(job.run.paths.calls).records
    answers = {record["call_id"]: record for record in records if record["kind"] == "answer"}
    for place, found in solved.items():
        paid = answers.get(found.call_id, {})
        rows[place]["teacher"] = {
            "thinking": "" if mode == "direct" else found.solution,
            "answer": found.answer or f"({found.declined})",
            "seconds": round(paid.get("elapsed_s", 0.0), 3),
            "tokens": paid.get("output_tokens", 0),
            "finished": not found.declined,
        }
