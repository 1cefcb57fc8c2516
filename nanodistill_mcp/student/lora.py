"""Trains an adapter: MLX-LM's trainer inside, our data order, evaluations, checkpoints and endings around it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import hashlib
import json
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlx.core as mx
from mlx import nn, optimizers
from mlx_lm.tuner import trainer
from mlx_lm.tuner.utils import build_schedule

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.runs.files import append_line, sha256_of
from nanodistill_mcp.student import blas, checkpoints, local_teacher, models
from nanodistill_mcp.student.adapters import (
    ADAPTER_FILE,
    attach_adapter,
    blocks,
    load_into,
    trained,
    write_adapter,
)
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.control import Control
from nanodistill_mcp.student.dataset import Layout, Rows, as_batch, read_rows, require_rows, training_batches
from nanodistill_mcp.student.distill import distilling
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.packing import packing_of
from nanodistill_mcp.student.ranks import rank_and_size, told_by_all, weighed
from nanodistill_mcp.student.requests import OptimizerName, Recipe, Taught, TrainRequest, TrainResult, without_commit
from nanodistill_mcp.student.session import Loss, Session, Stopped

_CACHED_PART = 4
"""The part of its memory that MLX may keep for reuse."""


def train(request: TrainRequest) -> TrainResult:
    """Train an adapter, or go on training it, and write the best checkpoint's adapter.

    A student that is only on the hub is downloaded first; until that is done SIGTERM ends the process at once, and from
    then on it is a wish like "cancel" in the control file.

    Raises:
        TrainingError: Nothing to train on, a loss that is no number, no memory, a full disk.
        UserInputError: The student is not usable, or not with this recipe.
        ConfigurationError: The student is not here and the hub cannot be reached.
    """
    student_path = models.fetch(request.student, request.metrics_path)
    control = Control(request.control_path, told_by_all, request.guard_path)
    if request.memory_limit_bytes:
        _keep_to(request.memory_limit_bytes)
    with control.listening(), models.memory_errors():
        return train_here(request, student_path, control)


def _keep_to(limit_bytes: int) -> None:
    """Tell MLX its limit, never above its own. It gives its cache back first; on a CPU it holds to none."""
    for set_limit, own in ((mx.set_memory_limit, limit_bytes), (mx.set_cache_limit, limit_bytes // _CACHED_PART)):
        set_limit(min(own, set_limit(own)))


def train_here(request: TrainRequest, student_path: Path, control: Control) -> TrainResult:
    """Train a student whose folder is known, under a control of the caller's."""
    chat = ChatForm(models.load_tokenizer(StudentFolder(student_path)))
    asked = request.recipe
    training = read_rows(request.dataset_dir / "train.jsonl", chat, asked.max_seq_length, mask_prompt=asked.mask_prompt)
    require_rows(training, asked.max_seq_length)
    validation = read_rows(
        request.dataset_dir / "valid.jsonl", chat, asked.max_seq_length, mask_prompt=asked.mask_prompt
    )
    try:
        rows, teaching, key = _taught(request, training.rows, chat, control)
    except Stopped as stopped:
        return _nothing_learnt(stopped, student_path, training)
    model, _ = models.load(student_path)
    recipe = fitted(asked, len(rows), len(blocks(model)), rank_and_size()[1])
    measured = _evenly(validation.rows, recipe.validation_rows)
    attach_adapter(model, recipe)
    if request.start_from:
        load_into(model, request.start_from)
    how = how_to_batch(recipe, model, rows)
    _report_dataset(request.metrics_path, training, validation, len(measured), recipe, how.unpacked_because)
    optimizer = optimizer_of(recipe)
    session = Session(
        recipe,
        model,
        optimizer,
        measured,
        loss=how.valid_loss,
        layout=how.valid_layout,
        checkpoints_dir=request.checkpoints_dir,
        metrics_path=request.metrics_path,
        control=control,
        fingerprint=_fingerprint(request, student_path, recipe, key),
        teacher_loss=teaching.teacher_loss if teaching else None,
    )
    ended = _run(session, recipe, model, optimizer, rows, how)
    progress = session.progress
    best = progress.best_iteration or progress.iteration
    return TrainResult(
        stopped=ended.ending,
        why=ended.why,
        device=blas.words(),
        student_path=student_path,
        iterations=progress.iteration,
        best_iteration=best,
        first_train_loss=progress.first_loss,
        final_train_loss=session.final_loss,
        best_valid_loss=progress.best_valid_loss,
        trained_tokens=progress.trained_tokens,
        trainable_parameters=sum(weight.size for weight in trained(model).values()),
        peak_memory_gb=progress.peak_memory_gb,
        elapsed_s=progress.elapsed_s,
        rows_trained=len(training.rows),
        rows_dropped=training.dropped,
        resumed_from=session.resumed_from,
        taught=teaching,
        adapter_sha256="" if ended.ending in ("cancelled", "unloaded") else _write_best(request, recipe, best),
    )


def _write_best(request: TrainRequest, recipe: Recipe, iteration: int) -> str:
    checkpoint = checkpoints.verified(request.checkpoints_dir, iteration)
    if checkpoint is None:
        raise TrainingError(
            f"The checkpoint of iteration {iteration} is damaged.",
            next_step="Call train with restart=true to train again.",
        )
    return write_adapter(request.adapter_dir, recipe, without_commit(request.student), checkpoint.tensors("weights."))


def _taught(
    request: TrainRequest, rows: list[Row], chat: ChatForm, control: Control
) -> tuple[list[Row], Taught | None, str]:
    """The rows with what the local teacher says of them, where there is one; what is to be told of it, and its key.

    Raises:
        Stopped: That was wanted while the teacher read.
    """
    how = request.recipe.distilling
    if how is None:
        return rows, None, ""
    folder = models.fetch(how.local_teacher, request.metrics_path)

    def told(done: int, of: int) -> None:
        append_line(request.metrics_path, {"event": "teaching", "rows": done, "of": of})
        if rank_and_size()[1] > 1:  # ranks ask each other what is wanted, and not all have as much to read
            return
        if control.want == "pause":
            control.wait_while_paused()
        if control.want != "run":
            raise Stopped("unloaded" if control.want == "unload" else "cancelled")

    directory = request.teaching_dir or request.checkpoints_dir.with_name("teaching")
    found, teaching, key = local_teacher.taught(rows, directory, how, folder, chat.tokenizer, told)
    return [*found], teaching, key


def _nothing_learnt(stopped: Stopped, student_path: Path, training: Rows) -> TrainResult:
    """The result of a training that was stopped before its first step. What the teacher said until then is kept."""
    return TrainResult(
        stopped=stopped.ending,
        device=blas.words(),
        student_path=student_path,
        iterations=0,
        best_iteration=0,
        first_train_loss=None,
        final_train_loss=None,
        best_valid_loss=None,
        trained_tokens=0,
        trainable_parameters=0,
        peak_memory_gb=round(mx.get_peak_memory() / 1e9, 4),
        elapsed_s=0.0,
        rows_trained=len(training.rows),
        rows_dropped=training.dropped,
        adapter_sha256="",
    )


@dataclass(frozen=True)
class Batching:
    """How rows become batches, and what a batch teaches."""

    loss: Loss
    layout: Layout
    valid_loss: Loss
    """The cross-entropy of the answers, whoever else taught: what a student is judged by is what it has to write."""
    valid_layout: Layout
    unpacked_because: str


def how_to_batch(recipe: Recipe, model: nn.Module, rows: Sequence[Row]) -> Batching:
    """The losses and layouts of a recipe, and the reason when rows are not packed."""
    found = packing_of(model, rows) if recipe.packing else "options.packing is false"
    packing, why = (None, found) if isinstance(found, str) else (found, "")
    own: tuple[Loss, Layout] = (packing.loss, packing.batch) if packing else (trainer.default_loss, as_batch)
    teaching = distilling(recipe.distilling, packing) if recipe.distilling else own
    return Batching(*teaching, *own, why)


def _run(
    session: Session,
    recipe: Recipe,
    model: nn.Module,
    optimizer: optimizers.Optimizer,
    rows: list[Row],
    how: Batching,
) -> Stopped:
    """Let the trainer run until the session stops it, and say how it did."""
    arguments = trainer.TrainingArgs(
        batch_size=recipe.batch_size,
        iters=recipe.iters - session.resumed_from,
        steps_per_report=1,
        # The trainer's own saves are not atomic and its evaluations count from where it was resumed: the session does both.
        steps_per_save=recipe.iters + 1,
        max_seq_length=recipe.max_seq_length,
        grad_checkpoint=recipe.grad_checkpoint,
        grad_accumulation_steps=recipe.grad_accumulation_steps,
        clear_cache_threshold=cache_threshold(recipe),
    )
    try:
        session.begin()
        with silent():
            trainer.train(
                model,
                optimizer,
                rows,
                args=arguments,
                loss=weighed(how.loss),
                iterate_batches=training_batches(recipe.seed, session.resumed_from, how.layout),
                training_callback=session,
            )
    except Stopped as stopped:
        return stopped
    raise AssertionError("the trainer returned although the session stops it at the last iteration")


def cache_threshold(recipe: Recipe) -> int:
    """Bytes of MLX's cache above which it is emptied after a step."""
    if recipe.clear_cache_threshold is not None:
        return recipe.clear_cache_threshold
    # On a GPU the cache can grow to many times what is in use; on the CPU emptying it costs 4 to 12 %.
    return 0 if mx.default_device() == mx.gpu else 1 << 30


def learning_rate(recipe: Recipe) -> Callable[[mx.array], mx.array]:
    """The learning rate as a function of the number of updates done.

    A linear warmup reaches the peak with update ``warmup_updates``; from there the rate stays, falls linearly, or falls
    along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983), to ``final_lr_ratio`` of the peak at the last update.
    """
    warmup = recipe.warmup_updates
    falling = max(1, recipe.iters // recipe.grad_accumulation_steps - 1 - warmup)
    shapes: dict[str, Callable[[mx.array], mx.array]] = {
        "constant": mx.ones_like,
        "linear": lambda part: 1 - part,
        "cosine": lambda part: 0.5 * (1 + mx.cos(math.pi * part)),
    }
    shape = shapes[recipe.lr_schedule]

    def rate(update: mx.array) -> mx.array:
        done = update.astype(mx.float32)
        warm = mx.minimum((done + 1) / (warmup + 1), 1.0)
        part = mx.clip((done - warmup) / falling, 0.0, 1.0)
        return recipe.learning_rate * warm * (recipe.final_lr_ratio + (1 - recipe.final_lr_ratio) * shape(part))

    return rate


_OPTIMIZERS: dict[OptimizerName, type[optimizers.Optimizer]] = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "muon": optimizers.Muon,
    "sgd": optimizers.SGD,
    "adafactor": optimizers.Adafactor,
}


def optimizer_of(recipe: Recipe) -> optimizers.Optimizer:
    """A recipe's optimizer, as MLX-LM's own trainer makes it: Adam (Kingma and Ba 2015) without bias correction, and so on."""
    schedule = build_schedule(recipe.mlx_schedule) if recipe.mlx_schedule else learning_rate(recipe)
    further = dict(recipe.optimizer_config)
    if recipe.optimizer != "adam":
        further.setdefault("weight_decay", recipe.weight_decay)
    if recipe.optimizer == "adafactor":
        further.setdefault("relative_step", False)  # or it follows a schedule of its own and not the recipe's
    return _OPTIMIZERS[recipe.optimizer](schedule, **further)


def fitted(recipe: Recipe, rows: int, layers: int, ranks: int = 1) -> Recipe:
    """The recipe as it can be carried out: no batch larger than the dataset, whole updates, events between updates.

    Raises:
        TrainingError: There are fewer rows than ranks, each of which needs one of every batch.
    """
    if rows < ranks:
        raise TrainingError(
            f"{rows} rows cannot be shared by {ranks} processes.",
            next_step="Start as many processes as rows, or fewer.",
        )
    accumulation = min(recipe.grad_accumulation_steps, recipe.iters)

    def whole(steps: int) -> int:
        return -(-steps // accumulation) * accumulation

    return recipe.model_copy(
        update={
            "batch_size": max(min(recipe.batch_size, rows) // ranks, 1) * ranks,
            "grad_accumulation_steps": accumulation,
            "iters": recipe.iters // accumulation * accumulation,
            "steps_per_eval": whole(recipe.steps_per_eval),
            "steps_per_checkpoint": whole(recipe.steps_per_checkpoint),
            "num_layers": min(recipe.num_layers, layers),
        }
    )


def _fingerprint(request: TrainRequest, student_path: Path, recipe: Recipe, teaching: str) -> str:
    """A hash of all that decides how training goes."""
    files = [request.dataset_dir / name for name in ("train.jsonl", "valid.jsonl")]
    ranks = rank_and_size()[1]
    parts = [
        *([f"{ranks} ranks"] if ranks > 1 else []),
        StudentFolder(student_path).identity,
        recipe.model_dump_json(exclude=None if recipe.distilling else {"distilling"}),
        *([teaching] if teaching else []),
        *([sha256_of(request.start_from / ADAPTER_FILE)] if request.start_from else []),
        *(sha256_of(path) for path in files if path.exists()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _report_dataset(
    metrics_path: Path, training: Rows, validation: Rows, measured: int, recipe: Recipe, unpacked: str
) -> None:
    event = {
        "event": "dataset",
        "train_rows": len(training.rows),
        "train_rows_dropped": training.dropped,
        "valid_rows": measured,
        "valid_rows_dropped": validation.dropped,
        "longest_row_tokens": max(training.longest, validation.longest),
        "batch_size": recipe.batch_size,
        "iterations": recipe.iters,
        "packed": not unpacked,
        "unpacked_because": unpacked,
    }
    append_line(metrics_path, event)


def _evenly(rows: Sequence[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return list(rows)
    return [rows[index * len(rows) // most] for index in range(most)]


class NoUI:
    """Stands in for the trainer's table of the terminal, which would go to the log as escape sequences."""

    def __init__(self, *_of_the_trainer: object, **_named: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def val_task(self, _total: int) -> nullcontext[Callable[[], None]]:
        return nullcontext(lambda: None)

    def __getattr__(self, _report: str) -> Callable[..., None]:
        return lambda *_values, **_named: None


@contextmanager
def silent() -> Generator[None]:
    """Replace the trainer's user interface, a private name that another version may not have."""
    own = getattr(trainer, "TrainUI", None)
    if own is not None:
        trainer.TrainUI = NoUI  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield
    finally:
        if own is not None:
            trainer.TrainUI = own  # pyright: ignore[reportPrivateImportUsage]
