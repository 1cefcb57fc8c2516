"""The same prompts, answered side by side by base, student, GGUF file and teacher."""

from typing import Any

import anyio

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, thinking
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.evaluate import answer_tokens
from nanodistill_mcp.pipeline.export import LLAMA_CPP_SILENT_S, llama_cpp_died
from nanodistill_mcp.pipeline.teaching import run_options, solve, teacher_of
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.runs.records import ModelName
from nanodistill_mcp.runs.store import read_records
from nanodistill_mcp.student.requests import AskGgufRequest, Done, Generated, GenerateRequest, Variant


async def compare_models(job: Job) -> dict[str, Any]:
    """Write ``comparison.json``."""
    run = job.run
    prompts: list[str] = job.arguments["prompts"]
    models: list[ModelName] = job.arguments["models"]
    if "gguf" in models and not run.paths.gguf.exists():
        raise UserInputError(
            "This run has no GGUF file yet.", next_step="Call export_gguf first, or leave gguf out of models."
        )
    prompts_path, output_path = job.paths.root / "prompts.jsonl", job.paths.root / "generated.jsonl"
    ids = [f"p{number}" for number in range(len(prompts))]
    instruction = run.manifest.spec.instruction
    write_lines(
        prompts_path,
        [
            {"id": i, "messages": dataset.prompt_messages(instruction, text)}
            for i, text in zip(ids, prompts, strict=True)
        ],
    )
    max_tokens = answer_tokens(run, run_options(job).max_new_tokens)
    job.progress(0, len(prompts) * len(models), "answering")
    variants = [
        Variant(name=m, adapter_dir=run.paths.adapters if m == "student" else None)
        for m in models
        if m in ("base", "student")
    ]
    if variants:
        request = GenerateRequest(
            student=job.arguments["student"],
            variants=variants,
            prompts_path=prompts_path,
            output_path=output_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "generate.json",
            max_tokens=max_tokens,
        )
        await job.run_student(request, Done)
    if "gguf" in models:
        asked = AskGgufRequest(
            gguf_path=run.paths.gguf,
            prompts_path=prompts_path,
            output_path=output_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "ask.json",
            max_tokens=max_tokens,
        )
        await job.run_student(asked, Done, silent_s=LLAMA_CPP_SILENT_S, died=llama_cpp_died)
    form = thinking.format_of(run.manifest)
    rows: list[dict[str, Any]] = [{"prompt": text} for text in prompts]
    index = dict(zip(ids, rows, strict=True))
    for generated in read_records(output_path, Generated):
        thought, answer = thinking.part(generated.text, form)
        index[generated.id][generated.variant] = {"thinking": thought, "answer": answer}
    if "teacher" in models:
        await _ask_teacher(job, rows)
    result = {"models": models, "rows": rows}
    write_json(run.paths.comparison, {"arguments": {"prompts": prompts, "models": models}, **result})
    return result


async def _ask_teacher(job: Job, rows: list[dict[str, Any]]) -> None:
    task = checking_of(job.run).task

    async with teacher_of(job) as teacher, anyio.create_task_group() as tasks:

        async def one(row: dict[str, Any]) -> None:
            solved = await solve(teacher, task, row["prompt"])
            row["teacher"] = {"thinking": solved.solution, "answer": solved.answer or f"({solved.declined})"}

        for row in rows:
            tasks.start_soon(one, row)
