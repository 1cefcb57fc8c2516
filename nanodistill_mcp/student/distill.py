"""White-box distillation: at every token it learns, the student is also told what a local teacher held likely there.

The loss is ``alpha · T² · KL(teacher ‖ student) + (1 - alpha) · CE``, after Hinton et al. 2015 (arXiv 1503.02531). Of a teacher's
distribution the k most likely tokens are kept, and all others together are one further outcome, for teacher and student alike.
Without that outcome nothing would keep the student's probability on those k tokens: the loss could fall while the student comes
to write anything else. The temperature is applied to these k + 1 outcomes, so what is kept of a teacher serves any.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.nn.losses import cross_entropy

from nanodistill_mcp.student.chat import Row
from nanodistill_mcp.student.dataset import Batch, Layout, Loss, as_batch
from nanodistill_mcp.student.packing import Packing
from nanodistill_mcp.student.requests import Distilling

LEAST_REST = 1e-5
"""The least probability of the further outcome: below it, 1 less a sum in single precision is only rounding."""

_STEP = 32
"""Batches hold a multiple of so many predictions, so that few shapes are compiled and cached."""


@dataclass(frozen=True)
class TaughtRow(Row):
    """A training row with what the teacher held likely at each token the loss counts."""

    taught: Any
    """(tokens,) records as :func:`kept_form` says."""


def kept_form(top_k: int) -> np.dtype[Any]:
    """What is kept of one of a teacher's distributions: tokens, their log-probabilities, and that of the token in the row."""
    return np.dtype([("ids", "<i4", (top_k,)), ("logprobs", "<f4", (top_k,)), ("target", "<f4")])


def as_taught(row: Row, how: Distilling) -> TaughtRow:
    """A row as a teacher would teach it that knows nothing: what it takes can be measured without one."""
    kept = np.zeros(len(row.tokens) - max(row.target_start, 1), kept_form(how.top_k))
    kept["logprobs"] = -np.log(2.0 * how.top_k)
    return TaughtRow(row.tokens, row.target_start, kept)


def divergence(logits: mx.array, ids: mx.array, logprobs: mx.array, temperature: float) -> mx.array:
    """KL(teacher ‖ student) of each prediction, in nats.

    Args:
        logits: The student's, (predictions, vocabulary), float32.
        ids: The tokens kept of the teacher, (predictions, k).
        logprobs: Their log-probabilities to the teacher, at temperature 1.
        temperature: Applied to both.
    """
    whole = ids.shape[-1] == logits.shape[-1]
    own = mx.take_along_axis(logits, ids, axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)
    teacher, student = (_outcomes(each, temperature, whole=whole) for each in (logprobs, own))
    return (mx.exp(teacher) * (teacher - student)).sum(axis=-1)


def _outcomes(logprobs: mx.array, temperature: float, *, whole: bool) -> mx.array:
    """The log-probabilities of the kept tokens and of all others together, at a temperature."""
    if not whole:
        rest = 1 - mx.exp(logprobs).sum(axis=-1, keepdims=True)
        logprobs = mx.concatenate([logprobs, mx.log(mx.maximum(rest, LEAST_REST))], axis=-1)
    scaled = logprobs / temperature
    return scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)


def distilled_loss(
    how: Distilling,
    logits: mx.array,
    targets: mx.array,
    weights: mx.array,
    ids: mx.array,
    logprobs: mx.array,
) -> tuple[mx.array, mx.array]:
    """The mean loss of the predictions that count, and their number.

    Args:
        how: Alpha and the temperature.
        logits: The student's, (predictions, vocabulary).
        targets: The tokens of the rows, (predictions,).
        weights: 1.0 where a prediction counts, else 0.0.
        ids: As in :func:`divergence`.
        logprobs: As in :func:`divergence`.
    """
    logits = logits.astype(mx.float32)
    of_answers = cross_entropy(logits, targets)
    of_teacher = how.temperature**2 * divergence(logits, ids, logprobs, how.temperature)
    count = weights.sum()
    loss = ((1 - how.alpha) * of_answers + how.alpha * of_teacher) * weights
    return loss.sum() / count, count.astype(mx.int32)


def distilling(how: Distilling, packing: Packing | None) -> tuple[Loss, Layout]:
    """The loss and the layout of batches of :class:`TaughtRow`, in the sequences of a packing or each in one of its own."""
    if packing is None:
        return _unpacked_loss(how), _unpacked

    def loss(
        model: nn.Module, tokens: mx.array, owners: mx.array, places: mx.array, *further: mx.array
    ) -> tuple[mx.array, mx.array]:
        return distilled_loss(how, packing.logits(model, tokens, owners, places), *further)

    def layout(rows: Sequence[Row]) -> Batch:
        tokens, owners, places, targets, weights = packing.batch(rows)
        counted = np.array(owners).flatten()[np.array(places)[np.array(weights) > 0]]
        firsts = np.flatnonzero(np.diff(counted, prepend=0))
        order = [rows[int(owner) - 1] for owner in counted[firsts]]
        return tokens, owners, places, targets, weights, *_teaching(order, weights.size)

    return loss, layout


def _unpacked_loss(how: Distilling) -> Loss:
    def loss(model: nn.Module, tokens: mx.array, places: mx.array, *further: mx.array) -> tuple[mx.array, mx.array]:
        logits = model(tokens)
        return distilled_loss(how, logits.reshape(-1, logits.shape[-1])[places], *further)

    return loss


def _unpacked(rows: Sequence[Row]) -> Batch:
    tokens = as_batch(rows)[0][:, :-1]
    width = tokens.shape[1]
    firsts = [max(row.target_start, 1) for row in rows]
    found = [
        np.arange(line * width + first - 1, line * width + len(row.tokens) - 1)
        for line, (first, row) in enumerate(zip(firsts, rows, strict=True))
    ]
    places = np.concatenate(found)
    targets = np.concatenate([row.tokens[first:] for first, row in zip(firsts, rows, strict=True)])
    room = -(-len(places) // _STEP) * _STEP
    weights = np.arange(room) < len(places)
    padded = [np.pad(each, (0, room - len(each))).astype(np.int32) for each in (places, targets)]
    return tokens, *map(mx.array, padded), mx.array(weights.astype(np.float32)), *_teaching(rows, room)


def _teaching(rows: Sequence[Row], room: int) -> tuple[mx.array, mx.array]:
    """The teacher's tokens and log-probabilities of rows one after the other, (room, k)."""
    every = np.concatenate([cast("TaughtRow", row).taught for row in rows])
    padding = ((0, room - len(every)), (0, 0))
    return mx.array(np.pad(every["ids"], padding)), mx.array(np.pad(every["logprobs"], padding))
