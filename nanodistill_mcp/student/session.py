"""One training session: what happens after each iteration of the trainer, and what it takes to go on after a death."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import evaluate

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.runs.files import append_line
from nanodistill_mcp.student import checkpoints
from nanodistill_mcp.student.adapters import trained
from nanodistill_mcp.student.chat import Row
from nanodistill_mcp.student.control import Control
from nanodistill_mcp.student.dataset import Layout, Loss, validation_batches
from nanodistill_mcp.student.ranks import told_by_all
from nanodistill_mcp.student.requests import Recipe

Ending = Literal["finished", "early", "stopped", "diverged", "unloaded", "cancelled"]

_LOSSES_KEPT = 10

_DIVERGED_ABOVE, _DIVERGED_BY = 1.5, 2.0
"""Training is taken to run away when the mean of the latest losses is above 1.5 times the least one there was, and 2 nats more:
a student that was ruined so comes back to what it knew in many times the updates, if ever."""

_TEACHER_WORSE_BY = 1.1
"""A local teacher's loss above so many times the untrained student's is refused: its rows and the student's are not the same."""


class Stopped(Exception):  # noqa: N818 - not an error: raising is the only way out of the trainer's loop
    """Training ends here."""

    def __init__(self, ending: Ending, why: str = "") -> None:
        super().__init__(ending)
        self.ending: Ending = ending
        self.why = why


@dataclass(frozen=True)
class Progress:
    """How far training is. Kept in each checkpoint."""

    iteration: int = 0
    trained_tokens: int = 0
    first_loss: float | None = None
    last_losses: tuple[float, ...] = ()
    least_loss: float | None = None
    """Least mean of ten losses in a row."""
    evaluated_at: int = -1
    best_iteration: int | None = None
    best_valid_loss: float | None = None
    evaluations_without_gain: int = 0
    untrained_valid_loss: float | None = None
    elapsed_s: float = 0.0
    peak_memory_gb: float = 0.0


class Session(TrainingCallback):
    """Follows the trainer: reports, evaluates, checkpoints, pauses, and stops it.

    Evaluations and checkpoints happen between iterations and depend on the iteration's number alone, so that a run that
    was killed and resumed does exactly what an uninterrupted one does.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizer: optimizers.Optimizer,
        validation: Sequence[Row],
        *,
        loss: Loss,
        layout: Layout,
        checkpoints_dir: Path,
        metrics_path: Path,
        control: Control,
        fingerprint: str,
        teacher_loss: float | None = None,
    ) -> None:
        """Begin, or go on from the newest verified checkpoint.

        Args:
            recipe: With ``iters``, ``steps_per_eval`` and ``steps_per_checkpoint`` multiples of the accumulation.
            model: With the parameters to train unfrozen.
            optimizer: Its state is restored, or initialised.
            validation: Rows for the validation loss; may be empty.
            loss: Of a batch.
            layout: Makes a batch of rows.
            checkpoints_dir: Of this run alone.
            metrics_path: Receives the events.
            control: What the caller wants.
            fingerprint: Of everything that decides the outcome; a checkpoint of another is refused.
            teacher_loss: A local teacher's own loss on the training answers, where there is one.

        Raises:
            TrainingError: The checkpoints belong to another recipe, dataset or student.
        """
        self._recipe, self._model, self._optimizer, self._validation = recipe, model, optimizer, validation
        self._checkpoints_dir, self._metrics_path, self._control = checkpoints_dir, metrics_path, control
        self._fingerprint, self._loss, self._layout = fingerprint, loss, layout
        self._teacher_loss = teacher_loss
        self.progress = self._restore()
        self.resumed_from = self.progress.iteration
        # Between two updates there is nothing to save: a checkpoint is always of the last update.
        self._at_update = self.progress, np.array(_random_key())
        self._saved = self.progress if self.resumed_from else None
        self._tokens_before = self.progress.trained_tokens
        self._clock = time.monotonic() - self.progress.elapsed_s

    def begin(self) -> None:
        """Do what was due at the iteration the session starts from, before the trainer runs.

        Raises:
            Stopped: Nothing is left to do, or a stop is wanted.
        """
        if self.resumed_from:
            self._event("resumed")
        self._obey()
        self._after_update()

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """Called by the trainer after every iteration, once its update is applied."""
        loss = float(train_info["train_loss"])
        before = self.progress
        # Out of memory, Metal can hand back zeros instead of failing; a first loss of exactly zero is that.
        if not math.isfinite(loss) or (loss == 0.0 and before.iteration == 0):
            self._diverged(before.iteration + 1, "stopped being a usable number")
        self.progress = replace(
            before,
            iteration=self.resumed_from + train_info["iteration"],
            trained_tokens=self._tokens_before + int(train_info["trained_tokens"]),
            first_loss=loss if before.first_loss is None else before.first_loss,
            last_losses=(*before.last_losses, loss)[-_LOSSES_KEPT:],
            elapsed_s=time.monotonic() - self._clock,
            peak_memory_gb=max(before.peak_memory_gb, float(train_info["peak_memory"])),
        )
        self._event(
            "step",
            iterations=self._recipe.iters,
            train_loss=loss,
            learning_rate=train_info["learning_rate"],
            tokens_per_second=round(train_info["tokens_per_second"], 1),
            trained_tokens=self.progress.trained_tokens,
            peak_memory_gb=round(self.progress.peak_memory_gb, 3),
        )
        self._watch()
        if self.progress.iteration % self._recipe.grad_accumulation_steps == 0:
            self._at_update = self.progress, np.array(_random_key())
            self._after_update()
        self._obey()

    def _watch(self) -> None:
        """End a training whose loss runs away, while the checkpoints from before are still good."""
        latest, least = self.progress.last_losses, self.progress.least_loss
        if len(latest) < _LOSSES_KEPT:
            return
        mean = _mean(latest)
        if least is not None and mean > _DIVERGED_ABOVE * least + _DIVERGED_BY:
            self._diverged(self.progress.iteration, f"ran away, from {least:.2f} to {mean:.2f},")
        self.progress = replace(self.progress, least_loss=mean if least is None else min(least, mean))

    def _diverged(self, iteration: int, what: str) -> NoReturn:
        """End the training with the checkpoint that validated best; without one, with the newest that trained on well since."""
        now = self.progress
        before = now.first_loss if self._recipe.distilling is None else now.untrained_valid_loss
        gained = now.best_valid_loss is not None and before is not None and now.best_valid_loss < before
        kept = now.best_iteration if gained else None
        if (
            now.best_iteration is None
        ):  # a checkpoint's own losses are of before its last update, so only later ones speak for it
            earlier = (each.iteration for each in checkpoints.every_verified(self._checkpoints_dir))
            kept = next((each for each in earlier if each <= iteration - 2 * _LOSSES_KEPT), None)
        if kept is None:
            raise _not_usable(iteration, what)
        self.progress = replace(now, iteration=kept, best_iteration=kept)
        raise Stopped(
            "diverged", f"The loss {what} at iteration {iteration}; what was learnt until iteration {kept} is kept."
        )

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last iterations: up to ten, and at most a fifth of all."""
        count = max(1, min(_LOSSES_KEPT, self.progress.iteration // 5))
        latest = self.progress.last_losses[-count:]
        return _mean(latest) if latest else None

    def _after_update(self) -> None:
        iteration, recipe = self.progress.iteration, self._recipe
        last = iteration == recipe.iters
        gained = False
        if (
            self._validation
            and (last or iteration % recipe.steps_per_eval == 0)
            and self.progress.evaluated_at != iteration
        ):
            gained = self._evaluate()
        stopping = 0 < recipe.patience <= self.progress.evaluations_without_gain
        if iteration and (gained or last or stopping or iteration % recipe.steps_per_checkpoint == 0):
            self._checkpoint()
        if last:
            raise Stopped("finished")
        if stopping:
            raise Stopped("early")

    def _evaluate(self) -> bool:
        """Measure the validation loss; is it the best so far? The untrained adapter is measured, but never the best."""
        loss = cast(
            "float",
            evaluate(
                self._model,
                self._validation,
                batch_size=self._recipe.batch_size,
                num_batches=-1,
                max_seq_length=self._recipe.max_seq_length,
                loss=self._loss,
                iterate_batches=validation_batches(self._layout),
                progress_callback=self._obey,
            ),
        )
        self._model.train()
        iteration, best = self.progress.iteration, self.progress.best_valid_loss
        if not math.isfinite(loss):
            self._diverged(iteration, "stopped being a usable number")
        if iteration == 0:
            self._hold_against_teacher(loss)
        gained = iteration > 0 and (best is None or loss < best)
        without_gain = 0 if gained or iteration == 0 else self.progress.evaluations_without_gain + 1
        self.progress = replace(self.progress, evaluated_at=iteration, evaluations_without_gain=without_gain)
        if gained:
            self.progress = replace(self.progress, best_iteration=iteration, best_valid_loss=loss)
        self._at_update = self.progress, self._at_update[1]
        self._event("valid", valid_loss=loss)
        return gained

    def _hold_against_teacher(self, valid_loss: float) -> None:
        """Refuse a local teacher that knows less of these answers than the student does untrained: it would lead away from them."""
        self.progress = replace(self.progress, untrained_valid_loss=valid_loss)
        if self._teacher_loss is None or self._teacher_loss <= _TEACHER_WORSE_BY * valid_loss:
            return
        raise TrainingError(
            f"The local teacher writes these answers with a loss of {self._teacher_loss:.2f}, and the untrained student with "
            f"{valid_loss:.2f}: it would teach the student to write them worse.",
            next_step="Call train without local_teacher, or with a stronger one, such as a model that was trained for this task.",
        )

    def _checkpoint(self) -> None:
        """Save the state as of the last update."""
        progress, random_state = self._at_update
        if progress.iteration == 0 or progress == self._saved:
            return
        weights = trained(self._model)
        if not bool(mx.all(mx.stack([mx.isfinite(weight).all() for weight in weights.values()]))):
            self._diverged(progress.iteration, "stopped being a usable number")
        tensors = {f"weights.{name}": weight for name, weight in weights.items()}
        optimizer_state = cast("list[tuple[str, mx.array]]", tree_flatten(self._optimizer.state))
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_state}
        tensors["random"] = mx.array(random_state)
        best = progress.best_iteration
        state = {"progress": asdict(progress), "fingerprint": self._fingerprint}
        checkpoints.save(self._checkpoints_dir, progress.iteration, tensors, state, best)
        self._saved = progress
        self._event("checkpoint", iteration=progress.iteration, best=best in (None, progress.iteration))

    def _restore(self) -> Progress:
        self._optimizer.init(self._model.trainable_parameters())
        checkpoints.sweep(self._checkpoints_dir)
        checkpoint = self._common_checkpoint()
        if checkpoint is None:
            return Progress()
        if checkpoint.state.get("fingerprint") != self._fingerprint:
            raise TrainingError(
                "The checkpoints of this run belong to another recipe, dataset or student.",
                next_step="Call train with restart=true to begin anew, or with the options it was started with.",
            )
        progress = Progress(**checkpoint.state["progress"])
        if (
            progress.best_iteration is not None
            and checkpoints.verified(self._checkpoints_dir, progress.best_iteration) is None
        ):
            progress = replace(progress, best_iteration=None, best_valid_loss=None)
        self._model.load_weights(list(checkpoint.tensors("weights.").items()), strict=False)
        self._optimizer.state = tree_unflatten(list(checkpoint.tensors("optimizer.").items()))
        # The trainer captures this very array, so it is changed in place.
        _random_key()[:] = checkpoint.tensors("random")[""]
        mx.eval(self._model.trainable_parameters(), self._optimizer.state, _random_key())
        return replace(progress, last_losses=tuple(progress.last_losses))

    def _common_checkpoint(self) -> checkpoints.Checkpoint | None:
        """The newest checkpoint that every rank has: killed together, they may not all have saved the same."""
        mine = list(checkpoints.every_verified(self._checkpoints_dir))
        newest = min(told_by_all(mine[0].iteration if mine else 0))
        found = next((each for each in mine if each.iteration == newest), None)
        return found if all(told_by_all(int(found is not None))) else None

    def _obey(self) -> None:
        if self._control.wants_cache_emptied:
            mx.clear_cache()
            self._event("cache_emptied")
        want = self._control.want
        if want == "run":
            return
        self._checkpoint()
        if want == "stop" and self._at_update[0].iteration:
            self.progress = self._at_update[0]
            raise Stopped("stopped")
        if want == "pause":
            mx.clear_cache()
            self._event("paused")
            self._clock += self._control.wait_while_paused()
            self._event("resumed")
            self._obey()
            return
        raise Stopped("unloaded" if want == "unload" else "cancelled")

    def _event(self, event: str, **fields: Any) -> None:
        append_line(self._metrics_path, {"event": event, "iteration": self.progress.iteration, **fields})


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)


def _random_key() -> mx.array:
    return cast("list[mx.array]", mx.random.state)[0]


def _not_usable(iteration: int, what: str) -> TrainingError:
    return TrainingError(
        f"The loss {what} at iteration {iteration}, before anything was learnt.",
        next_step="Call train with restart=true and a lower options.learning_rate (a tenth of it) or a longer warmup_ratio.",
    )
