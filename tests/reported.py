"""A finished run made by hand, file by file: what a report is written from, without a teacher or a training."""

import json
import random
from pathlib import Path
from typing import Any

from nanodistill_mcp.runs.files import append_line, write_json, write_lines
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Exit, RunSpec, Seed, Trace
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.student.requests import Recipe, TrainResult
from tests.runs.made import manifest

RECIPE = Recipe(
    iters=40,
    batch_size=8,
    grad_accumulation_steps=1,
    learning_rate=1e-4,
    lr_schedule="cosine",
    warmup_updates=2,
    final_lr_ratio=0.1,
    optimizer="adamw",
    weight_decay=0.01,
    lora_rank=16,
    lora_scale=2.0,
    lora_dropout=0.0,
    lora_keys=None,
    num_layers=-1,
    max_seq_length=96,
    grad_checkpoint=False,
    steps_per_eval=10,
    steps_per_checkpoint=10,
    patience=3,
    seed=7,
)


def created_run(home: Path, **spec: Any) -> Run:
    """A run of which nothing was done yet."""
    seeds = [Seed(id=f"s{i:04d}", input=f"question {i}", output=f"answer {i}", split="train") for i in range(1, 6)]
    made = manifest("tickets", **spec)
    run, _ = RunStore(home).create(made, seeds)
    return run


def put_in(run: Run, **fields: str) -> None:
    """Replace what the manifest says."""
    value = json.loads(run.paths.manifest.read_bytes())
    for name, text in fields.items():
        (value["spec"] if name in RunSpec.model_fields else value)[name] = text
    write_json(run.paths.manifest, value)


def solved(run: Run, *rows: tuple[str, str, str]) -> None:
    """Traces and accepted examples: input, reasoning and output of each; the teacher differed on the last seed."""
    traces = [
        Trace(
            id=f"s{number:04d}",
            input=text,
            thinking=thinking,
            output=output,
            teacher_output=output if number < len(rows) else f"not {output}",
            agrees=number < len(rows),
            confidence=float(number < len(rows)),
            split="train",
            call_ids=[],
        )
        for number, (text, thinking, output) in enumerate(rows, 1)
    ]
    write_lines(run.paths.traces_cot, [trace.model_dump() for trace in traces])
    examples: list[dict[str, Any]] = [
        {"id": f"g{i}", "input": text, "thinking": thinking, "output": output, "confidence": 1.0}
        | {"origin": "seed" if not i else "synthetic", "parents": [], "call_ids": []}
        for i, (text, thinking, output) in enumerate(rows)
    ]
    write_lines(run.paths.traces_amplified, examples)
    rejected = [{"id": "r1", "input": "x", "reason": "near_duplicate"}, {"id": "r2", "input": "y", "reason": "refused"}]
    write_lines(run.paths.rejected, rejected)


def trained(run: Run, *, stopped: str = "finished", best: int = 30, losses: list[float] | None = None) -> None:
    """A training of forty updates."""
    noise = random.Random(0)
    losses = losses or [3.0 * 0.9**i + 0.2 * noise.random() for i in range(40)]
    job = next_job(run, "train")
    for i, loss in enumerate(losses):
        if i % 10 == 0:
            append_line(job.metrics, {"event": "valid", "iteration": i, "valid_loss": loss + 0.1})
        append_line(
            job.metrics, {"event": "step", "iteration": i + 1, "train_loss": loss, "learning_rate": 1e-4 / (i + 1)}
        )
    result = TrainResult.model_validate(
        {"stopped": stopped, "why": "The loss ran away." if stopped == "diverged" else "", "device": "the CPU"}
        | {"iterations": len(losses), "best_iteration": best, "first_train_loss": losses[0]}
        | {"final_train_loss": 0.05, "best_valid_loss": losses[best] + 0.1, "trained_tokens": 1234}
        | {"trainable_parameters": 3456, "peak_memory_gb": 1.5, "elapsed_s": 75.0, "rows_trained": 90}
        | {"rows_dropped": 1, "adapter_sha256": "ad" * 32}
    )
    run.paths.adapters.mkdir(parents=True, exist_ok=True)
    reasons = {"learning_rate": "as it was"}
    write_json(run.paths.training, {**result.model_dump(), "recipe": RECIPE.model_dump(), "reasons": reasons})


def next_job(run: Run, stage: str) -> JobPaths:
    """The folder of a job that ended well."""
    job = JobPaths(run.paths.jobs / f"{len(run.paths.job_list()) + 1:03d}-{stage}")
    job.root.mkdir(parents=True)
    ended = Exit(outcome="done", ended_at="2026-11-21T12:00:00+00:00", elapsed_s=80.0)
    write_json(job.exit, ended.model_dump())
    return job


def score(correct: int, rows: int, **further: Any) -> dict[str, Any]:
    """A score as evaluate writes it; the interval is wide enough to be told from the share."""
    share = correct / rows
    low, high = max(0.0, round(share - 0.11, 4)), min(1.0, round(share + 0.07, 4))
    return {"rows": rows, "correct": correct, "accuracy": round(share, 4), "interval_95": [low, high], **further}


def evaluated(
    run: Run, *, answer: str = "wrong", student: int = 33, further: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An evaluation: base, student and teacher on held-out examples, base and student on synthetic ones."""
    base, told = score(12, 40, well_formed=0.5, mean_tokens=9.0), score(student, 40, well_formed=1.0, mean_tokens=21.0)
    pair = {
        "rows": 40,
        "only_student": student - 12,
        "difference": 0.53,
        "interval_95": [0.31, 0.71],
        "p_value": 0.0004,
    }
    failure = {"id": "s0009", "input": "a message", "expected": "right", "answer": answer}
    result: dict[str, Any] = {
        "checker": "choice",
        "decision": "ship",
        "verdict": "The student is better than its base.",
        "held_out": {
            "base": base,
            "student": told,
            "teacher": score(38, 40),
            "student_against_base": {**pair, "only_base": 0},
            "student_against_teacher": {**pair, "only_teacher": 5},
            "failures": [failure],
        },
        "synthetic": {
            "base": score(3, 30),
            "student": score(29, 30),
            "student_against_base": {**pair, "only_base": 0},
            "failures": [],
        },
        **(further or {}),
    }
    write_json(run.paths.evaluation, result)
    return result


def exported(run: Run) -> dict[str, Any]:
    """An export whose file answered the held-out examples."""
    accuracy = {"set": "held_out", **score(31, 40), "mlx": score(33, 40), "same_texts": 28, "lost": False}
    accuracy["verdict"] = "The file answers 31 of 40 rightly."
    result = {"gguf_bytes": 209_472, "gguf_sha256": "9f" * 32, "quantization": "Q4_K_M", "accuracy": accuracy}
    write_json(run.paths.export, result)
    return result


def finished_run(home: Path, **spec: Any) -> Run:
    """A run that went the whole path."""
    run = created_run(home, **spec)
    solved(
        run, ("Where is my parcel?", "parcel, so delivery", "delivery"), ("Two fees!", "fees, so billing", "billing")
    )
    trained(run)
    evaluated(run)
    exported(run)
    return run
