"""Short rows side by side in one sequence, and the vocabulary's layer only where something is learnt.

A batch holds the same rows whether it is packed or not, so its loss and gradients are the same; only the padding is gone, and
the logits of prompts, which no loss counts. Attention stays within a row, by a mask over row numbers. Positions go on through
the sequence: rotary embeddings know distances alone. A student for which any of this does not hold shows it in
:func:`packing_of`, and is trained unpacked.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportUntypedBaseClass=false

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.nn.losses import cross_entropy

from nanodistill_mcp.student.adapters import blocks
from nanodistill_mcp.student.chat import Row

# Attention's work and memory grow with the square of a sequence; wider than this nothing is gained by packing.
_WIDEST = 512
# Few widths, so that few shapes are compiled and cached.
_STEP = 32
# What attention to one token costs is to all else of a token as 1 is to about 3.5 times the width of a state: measured on a CPU
# for states of 64 and 256 numbers.
_REST_PER_STATE = 3.5

_CHECKED_ROWS = 4
_SAME_WITHIN = {mx.float32: 1e-3}
_SAME_WITHIN_HALF = 0.1

PackedBatch = tuple[mx.array, mx.array, mx.array, mx.array, mx.array]
"""Token ids and each one's row number, 0 for padding, (sequences, width); of each prediction its place in the flattened
sequences, its target, and 1.0 where it counts, (predictions,)."""


def packed(rows: Sequence[Row], state_width: int = 64) -> PackedBatch:
    """Lay rows out in sequences of the width that takes the least work, by first fit, the longest first.

    Args:
        rows: At least one.
        state_width: Numbers in one of the student's states.
    """
    lengths = [len(row.tokens) - 1 for row in rows]
    longest = _up(max(lengths))
    widths = range(longest, max(longest, min(_WIDEST, _up(sum(lengths)))) + 1, _STEP)
    layouts = [(columns, _first_fit(lengths, columns)) for columns in widths]
    return _laid_out(rows, *min(layouts, key=lambda each: _work(len(each[1]), each[0], state_width)))


def _laid_out(rows: Sequence[Row], columns: int, sequences: list[list[int]]) -> PackedBatch:
    tokens = np.zeros((len(sequences), columns), np.int32)
    owners = np.zeros((len(sequences), columns), np.int32)
    places: list[int] = []
    targets: list[int] = []
    for line, numbers in enumerate(sequences):
        begin = 0
        for number in numbers:
            row = rows[number]
            end = begin + len(row.tokens) - 1
            tokens[line, begin:end] = row.tokens[:-1]
            owners[line, begin:end] = number + 1
            first = max(row.target_start, 1)
            places += range(line * columns + begin + first - 1, line * columns + end)
            targets += row.tokens[first:]
            begin = end
    counted = len(places)
    padding = [0] * (_up(counted) - counted)
    weights = np.zeros(counted + len(padding), np.float32)
    weights[:counted] = 1.0
    layout = (tokens, owners, np.array(places + padding, np.int32), np.array(targets + padding, np.int32), weights)
    return cast("PackedBatch", tuple(mx.array(each) for each in layout))


def _first_fit(lengths: Sequence[int], columns: int) -> list[list[int]]:
    """Rows by the sequence they go into."""
    sequences: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = next((index for index, left in enumerate(free) if left >= lengths[number]), len(free))
        if place == len(free):
            sequences.append([])
            free.append(columns)
        sequences[place].append(number)
        free[place] -= lengths[number]
    return sequences


def _work(sequences: int, columns: int, state_width: int) -> float:
    return sequences * columns * (_REST_PER_STATE * state_width + columns)


@dataclass(frozen=True)
class Packing:
    """The loss of a packed batch, for one model."""

    body: nn.Module
    """What turns tokens into the states that the vocabulary's layer reads."""
    namespaces: tuple[ModuleType, ...]
    """Where the model's code looks up how attention is masked."""
    state_width: int
    """Numbers in one of the model's states."""

    def batch(self, rows: Sequence[Row]) -> PackedBatch:
        """Lay out rows for :meth:`loss`."""
        return packed(rows, self.state_width)

    def loss(
        self,
        model: nn.Module,
        tokens: mx.array,
        owners: mx.array,
        places: mx.array,
        targets: mx.array,
        weights: mx.array,
    ) -> tuple[mx.array, mx.array]:
        """Mean cross-entropy of the targets that count, and their number: what MLX-LM's own loss is of the rows unpacked."""
        entropy = self.entropies(model, tokens, owners, places, targets) * weights
        count = weights.sum()
        return entropy.sum() / count, count.astype(mx.int32)

    def entropies(
        self, model: nn.Module, tokens: mx.array, owners: mx.array, places: mx.array, targets: mx.array
    ) -> mx.array:
        """Cross-entropy of each prediction, in nats, float32, (predictions,)."""
        return cross_entropy(self.logits(model, tokens, owners, places), targets).astype(mx.float32)

    def logits(self, model: nn.Module, tokens: mx.array, owners: mx.array, places: mx.array) -> mx.array:
        """The model's logits of each prediction, (predictions, vocabulary)."""
        with self._within_rows(owners), _only_at(self.body, places):
            logits = model(tokens)
        return logits.reshape(-1, logits.shape[-1])

    @contextmanager
    def _within_rows(self, owners: mx.array) -> Generator[None]:
        """Have the model attend within a row and backwards only, and no further than its own window."""
        steps = mx.arange(owners.shape[1])
        ahead = steps[:, None] - steps[None]
        same = (owners[:, None, :, None] == owners[:, None, None, :]) & (ahead >= 0)

        def create_attention_mask(
            _states: mx.array, _cache: Any = None, window_size: int | None = None, **_of_the_model: Any
        ) -> mx.array:
            return same if window_size is None else same & (ahead < window_size)

        own = [vars(namespace)["create_attention_mask"] for namespace in self.namespaces]
        for namespace in self.namespaces:
            vars(namespace)["create_attention_mask"] = create_attention_mask
        try:
            yield
        finally:
            for namespace, function in zip(self.namespaces, own, strict=True):
                vars(namespace)["create_attention_mask"] = function


@contextmanager
def _only_at(body: nn.Module, places: mx.array) -> Generator[None]:
    """Have a model's body give its states at some places alone, so that the vocabulary's layer computes no others."""
    own = cast("Any", type(body))

    class Selecting(own):
        def __call__(self, *inputs: Any, **named: Any) -> mx.array:
            states = super().__call__(*inputs, **named)
            return states.reshape(1, -1, states.shape[-1])[:, places]

    body.__class__ = Selecting
    try:
        yield
    finally:
        body.__class__ = own


def packing_of(model: nn.Module, rows: Sequence[Row]) -> Packing | str:
    """How to pack for a model, proved on some of its shortest rows; else the reason it is trained unpacked.

    Proved is that each prediction's loss is that of its row alone, and that no row feels what another one says.
    """
    body = next((module for module in model.modules() if module is not model and _holds_blocks(module, model)), None)
    names = {type(module).__module__ for module in model.modules()}
    namespaces = tuple(
        sys.modules[name] for name in sorted(names) if hasattr(sys.modules[name], "create_attention_mask")
    )
    if body is None or not namespaces:
        return "this architecture masks its attention in a way of its own"
    packing = Packing(body, namespaces, _state_width(body))
    some = (sorted(rows, key=lambda row: len(row.tokens))[:_CHECKED_ROWS] * 4)[: 2 * _CHECKED_ROWS]
    training = model.training
    model.eval()
    try:
        return _fault(packing, model, some) or packing
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # code of an architecture we do not know
        return f"this architecture does not take it ({type(error).__name__})"
    finally:
        model.train(training)


def _fault(packing: Packing, model: nn.Module, rows: list[Row]) -> str:
    by_row = _entropies(packing, model, rows, 2)
    alone = [_alone(model, row) for row in rows]
    within = _SAME_WITHIN.get(alone[0].dtype, _SAME_WITHIN_HALF)
    # A mask that meets the heads' axis instead of the batch's passes where both are as long: not for 2 and for 3 sequences.
    found = [*by_row, *_entropies(packing, model, rows, 3)]
    if any(float(mx.abs(one - other).max()) > within for one, other in zip(found, alone * 2, strict=True)):
        return "its losses in a packed sequence are not those of the rows alone"
    longest = max(range(len(rows)), key=lambda number: len(rows[number].tokens))
    changed = list(rows)
    first, *others = rows[longest].tokens
    changed[longest] = Row([*others, first], rows[longest].target_start)
    felt = _entropies(packing, model, changed, 2)
    same = [bool(mx.array_equal(by_row[n], felt[n])) for n in range(len(rows)) if n != longest]
    return "" if all(same) else "a row in a packed sequence feels what another one says"


def _entropies(packing: Packing, model: nn.Module, rows: list[Row], count_of_sequences: int) -> list[mx.array]:
    """The losses of each row's predictions, the rows dealt out to some sequences."""
    sequences = [list(range(first, len(rows), count_of_sequences)) for first in range(count_of_sequences)]
    columns = max(sum(len(rows[number].tokens) - 1 for number in numbers) for numbers in sequences)
    tokens, owners, places, targets, _ = _laid_out(rows, columns, sequences)
    found = packing.entropies(model, tokens, owners, places, targets)
    owner = owners.flatten()[places]
    count = sum(len(row.tokens) - max(row.target_start, 1) for row in rows)
    numbers = np.array(owner)[:count]
    return [found[mx.array(np.flatnonzero(numbers == number + 1))] for number in range(len(rows))]


def _alone(model: nn.Module, row: Row) -> mx.array:
    first = max(row.target_start, 1)
    logits = model(mx.array([row.tokens[:-1]]))[0, first - 1 :]
    return cross_entropy(logits, mx.array(row.tokens[first:]))


def _holds_blocks(module: nn.Module, model: nn.Module) -> bool:
    return bool(module.get("layers")) and module["layers"][0] is blocks(model)[0]


def _state_width(body: nn.Module) -> int:
    """Numbers in one of a model's states; of a body that does not say, a small one's."""
    return body["norm"]["weight"].size if "norm" in body else 64


def _up(count: int) -> int:
    return -(-count // _STEP) * _STEP
