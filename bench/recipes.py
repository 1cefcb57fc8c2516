"""Which preset teaches better: trained for real on the demo's task, several seeds each, scored on held-out messages.

Every preset sees the same rows, written by the demo's grammar and answered by its solver with the reasoning; the held-out
messages are the demo's sixty, half of them written by hand, and more from sentences that are kept out of all training. The
rows are split as a run splits them, so the best checkpoint is chosen on rows that are trained on by none. Nothing is tuned
per preset: each is resolved as ``train`` resolves it, from the rows and the student.

    python bench/recipes.py [--presets recommended,nanodistill] [--seeds 3] [--rows 300]
"""

import argparse
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline import recipe, thinking
from nanodistill_mcp.pipeline.dataset import prompt_messages
from nanodistill_mcp.pipeline.statistics import wilson
from nanodistill_mcp.runs.files import read_lines, write_lines
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.student import blas
from nanodistill_mcp.student.answer_requests import GenerateRequest, Variant
from nanodistill_mcp.student.requests import InspectRequest, StudentFacts, TrainRequest

MORE_HELD_OUT = 140
MAX_TOKENS = 60


def training_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Messages with their worked solutions, as a run's dataset holds them."""
    rng = random.Random(f"recipes {seed}")
    rows: list[dict[str, Any]] = []
    for number in range(count):
        message = task.write_message(rng, task.QUEUES[number % len(task.QUEUES)])
        solution, queue = task.solve(message.text)
        answer = {"role": "assistant", "content": thinking.join(solution, queue, "xml")}
        rows.append({"id": f"r{number}", "messages": [*prompt_messages(task.INSTRUCTION, message.text), answer]})
    rng.shuffle(rows)
    return rows


def held_out() -> list[tuple[str, str]]:
    """Messages and their queues, from sentences that no training row holds."""
    rng = random.Random("recipes held out")
    written = [task.write_message(rng, rng.choice(task.QUEUES), reserved=True).text for _ in range(MORE_HELD_OUT)]
    return [(row["input"], row["output"]) for row in task.held_out()] + [
        (text, task.solve(text)[1]) for text in written
    ]


def score(folder: Path, adapter_dir: Path | None) -> tuple[int, int]:
    """How many of the held-out messages the student sorts rightly."""
    from nanodistill_mcp.student.generate import generate

    asked = held_out()
    write_lines(
        folder / "prompts.jsonl",
        [{"id": str(i), "messages": prompt_messages(task.INSTRUCTION, text)} for i, (text, _) in enumerate(asked)],
    )
    generate(
        GenerateRequest(
            student=str(student_path()),
            variants=[Variant(name="student", adapter_dir=adapter_dir)],
            prompts_path=folder / "prompts.jsonl",
            output_path=folder / "answers.jsonl",
            metrics_path=folder / "generation.jsonl",
            result_path=folder / "generated.json",
            max_tokens=MAX_TOKENS,
            batch_size=50,
        )
    )
    right = sum(
        thinking.part(row["text"], "xml")[1].strip().lower() == asked[int(row["id"])][1]
        for row in read_lines(folder / "answers.jsonl")
    )
    return right, len(asked)


@dataclass(frozen=True)
class Trained:
    """One training, and its score."""

    updates: int
    losses: str
    right: int
    asked: int


def train_once(folder: Path, facts: StudentFacts, preset: str, seed: int, rows: int) -> Trained:
    """Train with one preset on one seed's rows, and score the adapter."""
    from nanodistill_mcp.student.lora import train

    options = Options(seed=seed)
    written = training_rows(rows, seed)
    kept = round(rows * (recipe.preset_options(preset, options).val_split or 0))
    write_lines(folder / "dataset" / "valid.jsonl", written[:kept])
    write_lines(folder / "dataset" / "train.jsonl", written[kept:])
    resolved, _ = recipe.resolve(preset, options, rows=rows - kept, layers=facts.layers, student=facts)
    result = train(
        TrainRequest(
            student=str(student_path()),
            dataset_dir=folder / "dataset",
            checkpoints_dir=folder / "checkpoints",
            adapter_dir=folder / "adapters",
            metrics_path=folder / "metrics.jsonl",
            control_path=folder / "control.json",
            result_path=folder / "result.json",
            recipe=resolved,
        )
    )
    right, asked = score(folder, folder / "adapters")
    losses = f"{result.first_train_loss or 0:.2f} to {result.final_train_loss or 0:.2f}"
    return Trained(result.iterations // resolved.grad_accumulation_steps, losses, right, asked)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="recommended,nanodistill")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=300)
    chosen = parser.parse_args()
    blas.prepare()
    from nanodistill_mcp.student.models import inspect

    facts = inspect(InspectRequest(student=str(student_path()), result_path=Path("unused.json")))
    print("| preset | seed | updates | training loss | right | share, 95 % interval | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="nanodistill-bench-") as name:
        right, asked = score(_folder(Path(name) / "before"), None)
        print(f"| (not trained) | | | | {right} of {asked} | {_share(right, asked)} | |", flush=True)
        for preset in chosen.presets.split(","):
            scores: list[tuple[int, int]] = []
            for seed in range(chosen.seeds):
                began = time.monotonic()
                trained = train_once(_folder(Path(name) / f"{preset}-{seed}"), facts, preset, seed, chosen.rows)
                scores.append((trained.right, trained.asked))
                took_s = time.monotonic() - began
                share = _share(trained.right, trained.asked)
                print(
                    f"| {preset} | {seed} | {trained.updates} | {trained.losses} | {trained.right} of {trained.asked} "
                    f"| {share} | {took_s:.0f} |",
                    flush=True,
                )
            right, asked = (sum(part) for part in zip(*scores, strict=True))
            print(f"| **{preset}** | all | | | {right} of {asked} | **{_share(right, asked)}** | |", flush=True)


def _folder(path: Path) -> Path:
    (path / "dataset").mkdir(parents=True)
    return path


def _share(right: int, asked: int) -> str:
    low, high = wilson(right, asked)
    return f"{right / asked:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
