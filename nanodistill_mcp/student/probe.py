"""Two real training steps on the longest batch, in a process that may die of it: what training will take, known beforehand.

The steps are the trainer's own, on the student's own weights and the run's own rows. A recipe that does not fit is followed by
the next rung of the ladder. Where memory runs out, or is about to, this process ends with ``EXIT_OVER_MEMORY``; MLX on Metal,
or the kernel, may end it first.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import gc
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback

from nanodistill_mcp.errors import NanodistillError, TrainingError, UserInputError
from nanodistill_mcp.runs.files import append_line
from nanodistill_mcp.student import models
from nanodistill_mcp.student.adapters import attach_adapter, blocks, trained
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.dataset import Batch, Layout, read_rows, training_batches, validation_batches
from nanodistill_mcp.student.distill import as_taught
from nanodistill_mcp.student.folder import StudentFolder
from nanodistill_mcp.student.local_teacher import LocalTeacher
from nanodistill_mcp.student.lora import cache_threshold, fitted, how_to_batch, optimizer_of, silent
from nanodistill_mcp.student.requests import EXIT_OVER_MEMORY, Attempt, ProbeRequest, ProbeResult, Recipe

_ENDED_ABOVE = 1.1
"""Share of the limit at which a step is not awaited: it is what other programs need."""
_WATCH_S = 0.01
_EPOCHS, _MOST_BATCHES = 3, 500
_GIB = 1e9
_SPARED = 0.9
"""Share of a GPU's recommended working set that is planned with."""


class _Enough(Exception):  # noqa: N818 - not an error: raising is the only way out of the trainer's loop
    """The steps are taken."""


def probe(request: ProbeRequest) -> ProbeResult:
    """Try the rungs of a ladder until one fits, and say what its steps took.

    Raises:
        UserInputError: The student is not usable, or cannot be trained: no gradient passes, or none that is a number.
        TrainingError: The loss stopped being a number at the recipe's learning rate.
        ConfigurationError: The student is not here and the hub cannot be reached.
    """
    student_path = models.fetch(request.student, request.metrics_path)
    folder = StudentFolder(student_path)
    limit, device = memory_limit(request)
    weights = sum(path.stat().st_size for path in folder.weight_paths)
    result = ProbeResult(rung=None, attempts=[], memory_limit_gb=limit / _GIB, device=device, weights_gb=weights / _GIB)
    if weights > limit:
        return result
    attempts: list[Attempt] = []
    with _watched_memory(limit):
        result = _with_teacher(request, student_path, limit, result)
        for rung in range(request.first, len(request.recipes)):
            append_line(request.metrics_path, {"event": "rung", "rung": rung})
            taken = _attempt(student_path, folder, request.dataset_dir, request.recipes[rung])
            fits = taken.peak_bytes <= limit
            attempts.append(Attempt(rung=rung, fits=fits, peak_memory_gb=round(taken.peak_bytes / _GIB, 4)))
            if fits:
                return _told(result, rung, attempts, taken)
    return result.model_copy(update={"attempts": attempts})


def memory_limit(request: ProbeRequest) -> tuple[int, str]:
    """Bytes that training may use, and the device: a card knows its own, elsewhere it is what the worker found free; on a Mac the least of both."""
    if mx.default_device() != mx.gpu:
        return request.memory_limit_bytes, "CPU"
    info = mx.device_info()
    own = next(
        (
            int(info[name])
            for name in ("max_recommended_working_set_size", "free_memory", "total_memory")
            if info.get(name)
        ),
        None,
    )
    own = int(_SPARED * own) if own is not None else request.memory_limit_bytes
    if sys.platform == "darwin":  # the GPU's memory is the machine's
        return min(own, request.memory_limit_bytes), "GPU"
    return request.memory_limit_bytes if request.is_wanted_limit else own, "GPU"


def _with_teacher(request: ProbeRequest, student_path: Path, limit: int, result: ProbeResult) -> ProbeResult:
    """Let the local teacher, if there is one, read the longest row.

    Raises:
        TrainingError: It does not fit into memory.
    """
    asked = request.recipes[0]
    how = asked.distilling
    if how is None:
        return result
    folder = StudentFolder(models.fetch(how.local_teacher, request.metrics_path))
    least = folder.parameters * how.local_teacher_bits // 8 if how.local_teacher_bits else 0
    weights = least or sum(path.stat().st_size for path in folder.weight_paths)
    if weights > limit:
        raise teacher_does_not_fit(weights / _GIB, limit / _GIB)
    append_line(request.metrics_path, {"event": "teacher"})
    tokenizer = models.load_tokenizer(StudentFolder(student_path))
    rows = read_rows(
        request.dataset_dir / "train.jsonl",
        ChatForm(tokenizer),
        asked.max_seq_length,
        mask_prompt=asked.mask_prompt,
    ).rows
    mx.reset_peak_memory()
    with _out_of_memory_ends():
        teacher = LocalTeacher(folder.path, how, 1 + max(tokenizer.get_vocab().values()))
        longest = max(rows, key=lambda row: len(row.tokens))
        teacher.read([longest])
        began_s = time.monotonic()
        teacher.read([longest])
        by_token_s = (time.monotonic() - began_s) / len(longest.tokens)
    del teacher
    gc.collect()
    peak = mx.get_peak_memory()
    if peak > limit:
        raise teacher_does_not_fit(peak / _GIB, limit / _GIB)
    return result.model_copy(
        update={
            "teacher_peak_memory_gb": round(peak / _GIB, 4),
            "teacher_s": round(by_token_s * sum(len(row.tokens) for row in rows), 3),
        }
    )


def teacher_does_not_fit(needed_gb: float, limit_gb: float) -> TrainingError:
    """The refusal of a local teacher that is too large for this machine."""
    return TrainingError(
        f"The local teacher takes {needed_gb:.3g} GB, and {limit_gb:.3g} GB can be spared for it.",
        next_step="Call train with options.local_teacher_bits=4, or with a smaller or quantized local_teacher, or close other "
        "programs.",
    )


@dataclass
class _Taken(TrainingCallback):
    """What the steps of a probe took; told by the trainer after each."""

    longest: int
    """Iterations on the longest batch; the rest are on the shortest."""
    iterations: int
    updates_every: int
    squares: Callable[[], dict[str, float]]
    """The squares of the last update's gradients, by tensor."""
    peak_bytes: int = 0
    losses: list[float] = field(default_factory=list[float])
    ended: list[float] = field(default_factory=list[float])
    norms: list[float] = field(default_factory=list[float])
    gradients: dict[str, float] = field(default_factory=dict[str, float])
    sizes: dict[str, Any] = field(default_factory=dict[str, Any])

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.ended.append(time.monotonic())
        done = len(self.ended)
        if done <= self.longest:
            self.losses.append(float(train_info["train_loss"]))
            self.peak_bytes = mx.get_peak_memory()
            if done % self.updates_every == 0:
                squares = self.squares()
                self.norms.append(
                    math.sqrt(sum(squares.values())) if all(map(math.isfinite, squares.values())) else math.nan
                )
                for name, square in squares.items():
                    self.gradients[name] = self.gradients.get(name, 0.0) + square
        if done == self.iterations:
            raise _Enough

    def step_s(self) -> float:
        """Of one iteration on the longest batch, the first ones left out: they also build what later ones reuse."""
        span = self.updates_every
        return (self.ended[self.longest - 1] - self.ended[self.longest - 1 - span]) / span

    def short_step_s(self) -> float:
        return self.ended[-1] - self.ended[-2]


def _attempt(student_path: Path, folder: StudentFolder, dataset_dir: Path, asked: Recipe) -> _Taken:
    """Load the student, put the recipe on it, and let the trainer take its steps."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    with _out_of_memory_ends():
        model, tokenizer = models.load(student_path)
        chat = ChatForm(tokenizer)
        training, validation = (
            read_rows(dataset_dir / name, chat, asked.max_seq_length, mask_prompt=asked.mask_prompt).rows
            for name in ("train.jsonl", "valid.jsonl")
        )
        recipe = fitted(asked, len(training), len(blocks(model)))
        attach_adapter(model, recipe)
        optimizer = optimizer_of(recipe)
        optimizer.init(model.trainable_parameters())
        return _steps(model, optimizer, recipe, folder, training, validation)


def _steps(
    model: nn.Module,
    optimizer: optimizers.Optimizer,
    recipe: Recipe,
    folder: StudentFolder,
    training: Sequence[Row],
    validation: Sequence[Row],
) -> _Taken:
    if recipe.distilling:
        training = [as_taught(row, recipe.distilling) for row in training]
    how = how_to_batch(recipe, model, training)
    layout = how.layout
    by_length = sorted(training, key=lambda row: len(row.tokens))
    long, short = layout(by_length[-recipe.batch_size :]), layout(by_length[: recipe.batch_size])
    planned = _planned_batches(training, recipe, layout)
    longest = max((long, *planned), key=lambda batch: batch[0].size)
    accumulation = min(2, recipe.grad_accumulation_steps)
    taken = _Taken(2 * accumulation, 2 * accumulation + 2, accumulation, _watch_gradients(model, optimizer))
    batches = [*[longest] * taken.longest, short, short]
    arguments = trainer.TrainingArgs(
        batch_size=recipe.batch_size,
        iters=taken.iterations + 1,
        steps_per_report=1,
        steps_per_save=taken.iterations + 2,
        max_seq_length=recipe.max_seq_length,
        grad_checkpoint=recipe.grad_checkpoint,
        grad_accumulation_steps=accumulation,
        clear_cache_threshold=cache_threshold(recipe),
    )

    def iterate(**_of_the_trainer: Any) -> Iterator[Batch]:
        return itertools.cycle(batches)

    try:
        with _blocks_restored(model), silent():
            trainer.train(
                model,
                optimizer,
                training,
                args=arguments,
                loss=how.loss,
                iterate_batches=iterate,
                training_callback=taken,
            )
    except _Enough:
        pass
    except NanodistillError:
        raise
    except (ValueError, RuntimeError, TypeError, NotImplementedError, IndexError) as error:
        if models.is_out_of_memory(error):
            raise
        raise _not_trainable(folder, "no gradient passes through its layers") from error
    _check_gradients(taken, folder, recipe)
    weights = trained(model).values()
    state = [value for _, value in cast("list[tuple[str, mx.array]]", tree_flatten(optimizer.state))]
    taken.sizes = {
        "step_tokens": longest[0].size,
        "short_step_tokens": short[0].size,
        "mean_tokens": round(sum(batch[0].size for batch in planned) / len(planned), 1),
        "valid_tokens": sum(
            batch[0].size for batch in validation_batches(how.valid_layout)(validation, recipe.batch_size)
        ),
        "unpacked_because": how.unpacked_because,
        "trainable_parameters": sum(weight.size for weight in weights),
        "checkpoint_bytes": sum(value.nbytes for value in (*weights, *state)),
    }
    return taken


def _planned_batches(training: Sequence[Row], recipe: Recipe, layout: Layout) -> list[Batch]:
    """The batches training will begin with."""
    count = min(_MOST_BATCHES, recipe.iters, _EPOCHS * max(1, len(training) // recipe.batch_size))
    return list(itertools.islice(training_batches(recipe.seed, 0, layout)(training, recipe.batch_size), count))


def _watch_gradients(model: nn.Module, optimizer: optimizers.Optimizer) -> Callable[[], dict[str, float]]:
    """Make an optimizer keep the squares of the gradients it was given, beside its state, where a compiled step returns them."""

    def squares(gradients: Any) -> Any:
        return tree_map(lambda gradient: mx.square(gradient.astype(mx.float32)).sum(), gradients)

    own = optimizer.apply_gradients
    optimizer.state["squares"] = tree_map(lambda _: mx.array(0.0), model.trainable_parameters())

    def apply_gradients(gradients: Any, parameters: Any) -> Any:
        optimizer.state["squares"] = squares(gradients)
        return own(gradients, parameters)

    optimizer.apply_gradients = apply_gradients
    return lambda: {name: float(value) for name, value in cast("Any", tree_flatten(optimizer.state["squares"]))}


def _check_gradients(taken: _Taken, folder: StudentFolder, recipe: Recipe) -> None:
    """Refuse a student that would be trained in vain.

    Raises:
        UserInputError: Its gradients are no numbers, or all zero.
        TrainingError: They were numbers until the first update.
    """
    # Out of memory, Metal can hand back zeros instead of failing.
    if not all(map(math.isfinite, (*taken.losses[: taken.updates_every], taken.norms[0]))):
        raise _not_trainable(folder, "its gradients are no numbers")
    if not any(taken.norms) or taken.losses[0] == 0.0:
        raise _not_trainable(folder, "its gradients are all zero, so that nothing would be learnt")
    if not all(map(math.isfinite, (*taken.losses, *taken.norms))):
        raise TrainingError(
            f"After one update at a learning rate of {recipe.learning_rate:g} the loss is no number any more.",
            next_step="Call train with a lower options.learning_rate, a tenth of it.",
        )


def _not_trainable(folder: StudentFolder, why: str) -> UserInputError:
    built = f"{folder.kind} architecture" if folder.kind != "dense" else "architecture"
    return UserInputError(
        f"This student cannot be trained on this machine: {why} (the {built} {folder.model_type}, with the installed MLX).",
        next_step="Choose a dense student with clone_run(student=...), for example of the families Qwen3, Llama, Gemma 3 or "
        "SmolLM3. Its log says more: read_artifact(artifact='log.txt').",
    )


def _told(result: ProbeResult, rung: int, attempts: list[Attempt], taken: _Taken) -> ProbeResult:
    return result.model_copy(
        update={
            "rung": rung,
            "attempts": attempts,
            "peak_memory_gb": round(taken.peak_bytes / _GIB, 4),
            "step_s": taken.step_s(),
            "short_step_s": taken.short_step_s(),
            "losses": taken.losses,
            "gradient_norms": taken.norms,
            "trained_tensors": len(taken.gradients),
            "tensors_without_gradient": sum(square == 0.0 for square in taken.gradients.values()),
            **taken.sizes,
        }
    )


@contextmanager
def _blocks_restored(model: nn.Module) -> Generator[None]:
    """Undo the trainer's gradient checkpointing, which it puts on the class of the blocks and never takes away."""
    block = type(blocks(model)[0])
    own = block.__call__
    try:
        yield
    finally:
        block.__call__ = own


@contextmanager
def _out_of_memory_ends() -> Generator[None]:
    """End the process when memory ran out: what MLX does after that is not to be relied on."""
    try:
        yield
    except TrainingError as error:
        if error.__cause__ is not None and models.is_out_of_memory(error.__cause__):
            os._exit(EXIT_OVER_MEMORY)
        raise
    except (RuntimeError, MemoryError) as error:
        if models.is_out_of_memory(error):
            os._exit(EXIT_OVER_MEMORY)
        raise


@contextmanager
def _watched_memory(limit: int) -> Generator[None]:
    """End the process when MLX holds more than the limit: MLX enforces none, and the machine needs the rest."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            if mx.get_active_memory() > _ENDED_ABOVE * limit:
                os._exit(EXIT_OVER_MEMORY)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
