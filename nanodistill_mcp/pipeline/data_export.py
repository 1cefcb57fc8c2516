"""A run's rows for another trainer: as its own student is taught them, on the sides they are on here, the held-out ones apart."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline import dataset, recipe, thinking
from nanodistill_mcp.pipeline.data_forms import COMMANDS, DataForm, Started, Taught, file_name, rows_as, starters
from nanodistill_mcp.pipeline.quality import HeldOut
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.pipeline.test_sets import held_out_inputs, test_sets
from nanodistill_mcp.pipeline.training import is_of_other_rows
from nanodistill_mcp.runs.files import read_lines, read_object, write_atomic
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.store import Run

_PARTS = {"train": "train", "valid": "validation", "test": "test"}
_RANK, _ALPHA, _LEARNING_RATE, _EPOCHS, _MAX_TOKENS, _BATCH = 16, 32.0, 2e-4, 3.0, 2048, 8
_MLX_ONLY = "mlx-community/"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    rows: dict[str, int]
    """By part."""
    left_out: int
    """Rows that would give a held-out example away."""
    command: str


def export_data(run: Run, form: DataForm, folder: Path, *, reasoning: bool = True, model: str = "") -> Exported:
    """Write a run's rows as another trainer reads them, and what starts it.

    The rows are those of ``dataset/`` where the student was trained on the examples as they are now; else they are parted
    anew, as ``train`` would. ``held_out`` has the user's own answers and is part of nothing that is trained on.

    Args:
        run: Has examples.
        form: For which trainer.
        folder: Is made; must not be there, or be empty.
        reasoning: Whether the reasoning goes in, where the student is taught it.
        model: What to train there, the run's student when empty.

    Raises:
        UserInputError: The folder holds something, or the run has no examples.
    """
    if not run.paths.traces_amplified.exists():
        raise UserInputError("That run has no examples yet.", next_step="Call amplify first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserInputError(
            f"{folder} is there already and holds something.", next_step="Give --out a folder that is not there."
        )
    parts = _parts(run, reasoning=reasoning)
    gives_away = HeldOut(held_out_inputs(run)).contaminates
    kept = {name: [row for row in rows if not gives_away(row.input)] for name, rows in parts.items()}
    left_out = sum(map(len, parts.values())) - sum(map(len, kept.values()))
    kept["held_out"] = _held_out(run)
    kept = {name: rows for name, rows in kept.items() if rows}
    manifest = run.manifest
    started = _started(run, model, has_validation="validation" in kept)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in kept.items():
        write_atomic(folder / file_name(form, name), rows_as(form, rows, manifest.teacher_model))
    for name, data in starters(form, started).items():
        write_atomic(folder / name, data)
    exported = Exported(folder, {name: len(rows) for name, rows in kept.items()}, left_out, COMMANDS[form])
    write_atomic(folder / "README.md", _readme(run, form, exported, started, reasoning=reasoning).encode())
    return exported


def _parts(run: Run, *, reasoning: bool) -> dict[str, list[Taught]]:
    """The rows by part, as the student is taught them."""
    written = run.paths.dataset
    if (written / "manifest.json").exists() and not is_of_other_rows(run):
        return _read(run, written, reasoning=reasoning)
    spec = run.manifest.spec
    options = recipe.preset_options(spec.preset, Options.model_validate(spec.options))
    with tempfile.TemporaryDirectory(prefix="nanodistill-") as scratch:
        dataset.build_dataset(run, options.val_split or 0.0, Path(scratch) / "dataset")
        return _read(run, Path(scratch) / "dataset", reasoning=reasoning)


def _read(run: Run, folder: Path, *, reasoning: bool) -> dict[str, list[Taught]]:
    form = thinking.format_of(run.manifest)
    outputs = {} if reasoning else {example.id: example.output for example in effective_examples(run)}

    def taught(row: dict[str, Any]) -> Taught:
        instruction, text, target = (message["content"] for message in row["messages"])
        alone = thinking.join("", outputs[row["id"]], form) if row["id"] in outputs else target
        return Taught(row["id"], instruction, text, alone)

    return {part: [taught(row) for row in read_lines(folder / f"{name}.jsonl")] for name, part in _PARTS.items()}


def _held_out(run: Run) -> list[Taught]:
    form, instruction = thinking.format_of(run.manifest), run.manifest.spec.instruction
    rows = test_sets(run).by_name.get("held_out", [])
    return [Taught(row_id, instruction, text, thinking.join("", output, form)) for row_id, text, output in rows]


def _started(run: Run, model: str, *, has_validation: bool) -> Started:
    """With the recipe the run's student was trained with, in PEFT's terms; else with what these trainers' own examples have."""
    trained = read_object(run.paths.training) or {}
    used: dict[str, Any] = trained.get("recipe") or {}
    rank = int(used.get("lora_rank", _RANK))
    rows = sum(1 for _ in read_lines(run.paths.dataset / "train.jsonl")) if used else 0
    epochs = used["iters"] * used["batch_size"] / rows if used and rows else _EPOCHS
    return Started(
        name=run.run_id,
        model=model or run.manifest.spec.student,
        teacher=run.manifest.teacher_model,
        rank=rank,
        alpha=float(used["lora_scale"] * rank if used else _ALPHA),
        learning_rate=float(used.get("learning_rate", _LEARNING_RATE)),
        epochs=round(epochs, 2),
        max_tokens=int(used.get("max_seq_length", _MAX_TOKENS)),
        batch_size=int(used.get("batch_size", _BATCH)),
        has_validation=has_validation,
    )


def _readme(run: Run, form: DataForm, exported: Exported, started: Started, *, reasoning: bool) -> str:
    counts = ", ".join(f"{count} in {file_name(form, name)}" for name, count in exported.rows.items())
    shown = thinking.described(thinking.format_of(run.manifest))
    with_reasoning = reasoning and run.manifest.spec.reasoning != "direct"
    lines = [
        f"# Rows of the run {run.run_id} for {form}",
        "",
        f"{counts}. A row is what the student is asked (the instruction and an input) and what it is taught to write"
        + (f": {shown}." if with_reasoning else ", without reasoning."),
        "held_out was kept aside, with the answers it was given; no row that is trained on holds most of one of its inputs.",
        "",
        "    " + exported.command,
        "",
        "starts a LoRA training of the model named in the file; rank, rate and epochs are "
        + ("those this run's student was trained with." if run.paths.training.exists() else "a usual recipe."),
    ]
    if started.model.startswith((_MLX_ONLY, "/")):
        told = f"`{started.model}` is a model as MLX reads it. Where the trainer does not, name the model it was made from "
        lines += ["", told + "(`export-data --model ORG/NAME`, or in the file)."]
    return "\n".join([*lines, ""])
