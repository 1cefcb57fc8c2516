"""The student leaves: fused, quantized to GGUF, held against what was trained, and described for Ollama."""

from typing import Any

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, thinking
from nanodistill_mcp.pipeline.checking import checking_of
from nanodistill_mcp.pipeline.evaluate import answer_tokens, right_ids, score, test_sets
from nanodistill_mcp.pipeline.teaching import run_options
from nanodistill_mcp.runs.files import write_atomic, write_json, write_lines
from nanodistill_mcp.runs.store import read_records
from nanodistill_mcp.student.modelfile import modelfile
from nanodistill_mcp.student.requests import ExportRequest, ExportResult, Generated, VerifyRequest, VerifyResult

_ASKED = 200
"""Held-out examples the GGUF file answers, at most."""


async def export_gguf(job: Job) -> dict[str, Any]:
    """Write ``model/``, ``model.gguf``, ``Modelfile`` and, last, ``export.json``."""
    run = job.run
    options = run_options(job)
    job.progress(0, 0, "fusing and quantizing")
    exported = await job.run_student(
        ExportRequest(
            student=job.arguments["student"],
            adapter_dir=run.paths.adapters,
            fused_dir=run.paths.model,
            gguf_path=run.paths.gguf,
            quantization=job.arguments["quantization"],
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "export.json",
        ),
        ExportResult,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "tensors" else None,
    )
    sets = test_sets(run)
    asked = next(iter(sets), "")
    rows = sets[asked][:_ASKED] if asked else []
    prompts_path, answers_path = job.paths.root / "prompts.jsonl", job.paths.root / "answers.jsonl"
    instruction = run.manifest.spec.instruction
    write_lines(
        prompts_path, [{"id": i, "messages": dataset.prompt_messages(instruction, text)} for i, text, _ in rows]
    )
    job.progress(0, len(rows), "answering in llama.cpp")
    verified = await job.run_student(
        VerifyRequest(
            gguf_path=run.paths.gguf,
            fused_dir=run.paths.model,
            prompts_path=prompts_path,
            output_path=answers_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "verify.json",
            max_tokens=answer_tokens(run, options.max_new_tokens),
        ),
        VerifyResult,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "rows" else None,
    )
    form = thinking.format_of(run.manifest)
    given = {row.id: thinking.part(row.text, form)[1] for row in read_records(answers_path, Generated)}
    note = "" if run.manifest.spec.reasoning == "direct" else f"Its texts hold {thinking.described(form)}."
    write_atomic(run.paths.modelfile, modelfile(run.paths.gguf.name, exported, note).encode())
    result: dict[str, Any] = {
        **exported.model_dump(),
        "parity": verified.model_dump(),
        "student": job.arguments["student"],
        "thinking_format": form,
        "ollama": f"ollama create {run.run_id.lower()} -f Modelfile && ollama run {run.run_id.lower()}",
    }
    if rows:
        result["accuracy"] = {"set": asked, **score(rows, await right_ids(job, checking_of(run), rows, given))}
    write_json(run.paths.export, result)
    return result
