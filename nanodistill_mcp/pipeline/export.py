"""The student leaves: fused, quantized to GGUF, held against what was trained, and described for Ollama.

The GGUF file has its name only from when llama.cpp agreed with it: what failed its check is never handed over.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import dataset, thinking
from nanodistill_mcp.pipeline.asking import LLAMA_CPP_SILENT_S, Question, kept_of_file, llama_cpp_died
from nanodistill_mcp.pipeline.bundle import write_bundle
from nanodistill_mcp.pipeline.evaluate import answer_tokens
from nanodistill_mcp.pipeline.export_score import Scored, score_beside_mlx
from nanodistill_mcp.pipeline.teaching import run_options
from nanodistill_mcp.pipeline.test_sets import Rows, test_sets
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir, read_object, write_atomic, write_json, write_lines
from nanodistill_mcp.runs.store import Run, read_records
from nanodistill_mcp.student.answer_requests import Generated
from nanodistill_mcp.student.export_requests import (
    ExportRequest,
    ExportResult,
    FormsRequest,
    FormsResult,
    VerifyRequest,
    VerifyResult,
)
from nanodistill_mcp.student.modelfile import modelfile

_ASKED = 200
"""Held-out examples the GGUF file answers, at most."""

_PUBLISHER = "nanodistill"


async def export_gguf(job: Job) -> dict[str, Any]:
    """Write ``model/``, ``model.gguf``, ``Modelfile``, the further forms below ``exports/`` and, last, ``export.json``.

    With a file of this training and quantization already there, only forms that are missing are made.
    """
    result = _earlier(job) or await _export(job)
    wanted = [form for form in job.arguments.get("also", []) if form not in result["forms"]]
    if wanted:
        job.progress(0, len(wanted), "writing further forms")
        written, left_out = await _write_forms(job, result, wanted)
        result = {
            **result,
            "forms": {**result["forms"], **written},
            "forms_left_out": {**result.get("forms_left_out", {}), **left_out},
        }
    write_json(job.run.paths.export, result)
    return result


def _earlier(job: Job) -> dict[str, Any] | None:
    """The result of an export that still holds: of this adapter, in this quantization, its file in place."""
    paths = job.run.paths
    found, trained = read_object(paths.export), read_object(paths.training) or {}
    if found is None or not paths.gguf.exists():
        return None
    is_same = (
        found["quantization"] == job.arguments["quantization"]
        and found.get("adapter_sha256") == trained.get("adapter_sha256")
        and "forms" in found
    )
    return found if is_same else None


async def _export(job: Job) -> dict[str, Any]:
    run = job.run
    unproved_path = run.paths.root / f".unproved-{run.paths.gguf.name}"
    try:
        exported, verified, scored = await _write_and_check(job, unproved_path)
        fault("export.rename")
        os.replace(unproved_path, run.paths.gguf)
        fault("export.fsync_dir")
        fsync_dir(run.paths.root)
        fault("export.done")
    finally:
        unproved_path.unlink(missing_ok=True)
    form = thinking.format_of(run.manifest)
    note = "" if run.manifest.spec.reasoning == "direct" else f"Its texts hold {thinking.described(form)}."
    write_atomic(
        run.paths.modelfile, modelfile(run.paths.gguf.name, exported, run.manifest.spec.instruction, note).encode()
    )
    return {
        **exported.model_dump(),
        "verified": verified.loads,
        "parity": verified.model_dump(),
        "student": job.arguments["student"],
        "adapter_sha256": (read_object(run.paths.training) or {}).get("adapter_sha256"),
        "thinking_format": form,
        "ollama": f"ollama create {run.run_id.lower()} -f Modelfile && ollama run {run.run_id.lower()}",
        "forms": {},
        **({"accuracy": scored.record(), "larger": scored.larger} if scored else {}),
    }


async def _write_and_check(job: Job, gguf_path: Path) -> tuple[ExportResult, VerifyResult, Scored | None]:
    run = job.run
    job.progress(0, 0, "fusing and quantizing")
    exported = await job.run_student(
        ExportRequest(
            student=job.arguments["student"],
            adapter_dir=run.paths.adapters,
            fused_dir=run.paths.model,
            gguf_path=gguf_path,
            quantization=job.arguments["quantization"],
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "export.json",
        ),
        ExportResult,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "tensors" else None,
    )
    asked, rows = _held_out(run)
    instruction, max_tokens = run.manifest.spec.instruction, answer_tokens(run, run_options(job).max_new_tokens)
    questions = {i: Question(dataset.prompt_messages(instruction, text), max_tokens) for i, text, _ in rows}
    prompts_path, kept_path = job.paths.root / "prompts-gguf.jsonl", kept_of_file(run, exported.gguf_sha256)
    write_lines(prompts_path, [question.row() for question in {q.key: q for q in questions.values()}.values()])
    job.progress(0, len(rows), "answering in llama.cpp")
    verified = await job.run_student(
        VerifyRequest(
            gguf_path=gguf_path,
            fused_dir=run.paths.model,
            student=job.arguments["student"],
            adapter_dir=run.paths.adapters,
            prompts_path=prompts_path,
            output_path=kept_path,
            metrics_path=job.paths.metrics,
            result_path=job.paths.root / "verify.json",
            max_tokens=max_tokens,
        ),
        VerifyResult,
        on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "rows" else None,
        silent_s=LLAMA_CPP_SILENT_S,
        died=llama_cpp_died,
    )
    if not rows or not verified.loads:
        return exported, verified, None
    given = {row.id: row for row in read_records(kept_path, Generated, appended=True)}
    return exported, verified, await score_beside_mlx(job, asked, rows, questions, given)


def _held_out(run: Run) -> tuple[str, Rows]:
    sets = test_sets(run).by_name
    name = next(iter(sets), "")
    return name, sets[name][:_ASKED] if name else []


async def _write_forms(job: Job, result: dict[str, Any], wanted: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Where each form lies, below the run's folder, and why others could not be written."""
    run = job.run
    written: dict[str, str] = {}
    left_out: dict[str, str] = {}
    if forms := [form for form in wanted if form not in ("lm_studio", "bundle")]:
        told = await job.run_student(
            FormsRequest(
                base_name=run.manifest.spec.student,
                adapter_dir=run.paths.adapters,
                fused_dir=run.paths.model,
                out_dir=run.paths.exports,
                forms=forms,
                metrics_path=job.paths.metrics,
                result_path=job.paths.root / "forms.json",
            ),
            FormsResult,
            on_metric=lambda line: job.progress(line["done"], line["total"]) if line.get("event") == "forms" else None,
        )
        written |= {form: os.path.relpath(path, run.paths.root) for form, path in told.written.items()}
        left_out |= told.left_out
    if "lm_studio" in wanted:
        written["lm_studio"] = os.path.relpath(_lay_out_for_lm_studio(run, result["quantization"]), run.paths.root)
    if "bundle" in wanted:
        target = run.paths.exports / "bundle" / f"{run.run_id}.tar.gz"
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_bundle(run, target, instead={"export.json": result})
        except UserInputError as error:
            left_out["bundle"] = f"{error.what} {error.next_step}"
        else:
            written["bundle"] = os.path.relpath(target, run.paths.root)
    return written, left_out


def _lay_out_for_lm_studio(run: Run, quantization: str) -> Path:
    """Put the GGUF file under publisher/model/file, as LM Studio keeps its models; a link, not a second copy."""
    name = run.run_id.lower()
    folder = run.paths.exports / "lm-studio" / _PUBLISHER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    target = folder / f"{name}-{quantization}.gguf"
    try:
        os.link(run.paths.gguf, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(run.paths.gguf, target)
    return target
