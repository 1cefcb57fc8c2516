"""What to give up, step by step, when a recipe does not fit into memory: first what costs nothing but time."""

from dataclasses import dataclass, replace
from typing import Any

from nanodistill_mcp.student.requests import Recipe

_WIDTH = 32
"""Batches are as wide as their longest row, rounded up to this."""
_FEWEST_LAYERS_SHARE = 4
_LENGTHS = (0.75, 0.5)
_KEPT_AT_LEAST = 0.5
"""Share of the rows that has to stay when the longest are dropped."""


@dataclass(frozen=True)
class Rung:
    """A recipe, and what was changed on the way down to it: by option, in words."""

    recipe: Recipe
    changes: dict[str, str]
    rows_too_long: int

    def with_changes(self, why: dict[str, str], *, too_long: int | None = None, **values: Any) -> "Rung":
        """The next rung."""
        return replace(
            self,
            recipe=self.recipe.model_copy(update=values),
            changes=self.changes | why,
            rows_too_long=self.rows_too_long if too_long is None else too_long,
        )


def fitted_length(lengths: list[int], most: int) -> int:
    """The smallest multiple of a batch's width step that holds all rows, or as many as ``most`` tokens hold."""
    fitting = [length for length in lengths if length <= most]
    return min(most, _rounded(max(fitting))) if fitting else most


def ladder(recipe: Recipe, lengths: list[int], layers: int) -> list[Rung]:
    """The rungs below a recipe, and itself first.

    In this order, each on top of the ones before: a smaller batch with as many more batches to an update, so that updates
    stay what they were; gradient checkpointing; fewer trained blocks; the longest rows dropped.

    Args:
        recipe: What is wanted.
        lengths: Tokens of each training row.
        layers: Blocks of the student.
    """
    rungs = [Rung(recipe, {}, sum(length > recipe.max_seq_length for length in lengths))]
    while (last := rungs[-1]).recipe.batch_size > 1:
        rungs.append(_smaller_batch(last, recipe))
    if not recipe.grad_checkpoint:
        why = "gradients are computed from a few kept values: less memory, a third more time"
        rungs.append(last := rungs[-1].with_changes({"gradient_checkpointing": why}, grad_checkpoint=True))
    blocks = layers if recipe.num_layers <= 0 else min(recipe.num_layers, layers)
    fewer = blocks
    while (fewer := fewer // 2) >= max(1, blocks // _FEWEST_LAYERS_SHARE):
        why = f"the last {fewer} of {layers} blocks are trained instead of {blocks}"
        rungs.append(last := rungs[-1].with_changes({"lora_layers": why}, num_layers=fewer))
    longest = max((length for length in lengths if length <= recipe.max_seq_length), default=0)
    for share in _LENGTHS:
        most = _rounded(int(share * longest))
        kept = sum(length <= most for length in lengths)
        if _WIDTH <= most < rungs[-1].recipe.max_seq_length and kept >= _KEPT_AT_LEAST * len(lengths):
            why = f"{len(lengths) - kept} of {len(lengths)} rows are longer than {most} tokens and are dropped; none is cut"
            batch = min(rungs[-1].recipe.batch_size, kept)
            rungs.append(
                rungs[-1].with_changes(
                    {"max_seq_length": why}, too_long=len(lengths) - kept, max_seq_length=most, batch_size=batch
                )
            )
    return rungs


def _smaller_batch(above: Rung, wanted: Recipe) -> Rung:
    effective = wanted.batch_size * wanted.grad_accumulation_steps
    batch = above.recipe.batch_size // 2
    accumulation = -(-effective // batch)
    updates = wanted.iters // wanted.grad_accumulation_steps

    def in_batches(steps: int) -> int:
        return max(1, -(-steps // wanted.grad_accumulation_steps)) * accumulation

    why = f"{batch} rows at once, {accumulation} such batches to an update: {batch * accumulation} rows as before"
    if batch * accumulation != effective:
        why = f"{batch} rows at once, {accumulation} such batches to an update, {batch * accumulation} rows instead of {effective}"
    return above.with_changes(
        {"batch_size": why},
        batch_size=batch,
        grad_accumulation_steps=accumulation,
        iters=updates * accumulation,
        steps_per_eval=in_batches(wanted.steps_per_eval),
        steps_per_checkpoint=in_batches(wanted.steps_per_checkpoint),
    )


def _rounded(length: int) -> int:
    return -(-length // _WIDTH) * _WIDTH
