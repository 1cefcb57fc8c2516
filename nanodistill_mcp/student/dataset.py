"""A run's training rows as batches of tokens: nothing is cut, every row has its turn, and any batch can be found again."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.student.chat import ChatForm, Row

# Batches are as wide as their longest row, rounded up: few widths, so that few shapes are compiled and cached.
_WIDTH_STEP = 32

Batch = tuple[mx.array, ...]
"""What a loss takes after the model: as :func:`as_batch` or :func:`nanodistill_mcp.student.packing.packed` lays rows out."""

Loss = Callable[..., tuple[mx.array, mx.array]]
"""Of a model and a batch: the mean loss of the targets that count, and their number."""

Layout = Callable[[Sequence[Row]], Batch]
"""Makes a batch of rows."""


@dataclass(frozen=True)
class Rows:
    """The rows of one file that fit."""

    rows: list[Row]
    dropped: int
    """Rows longer than ``max_seq_length``, or with a token in mid-answer at which the student would learn to stop."""
    longest: int
    """Tokens of the longest row in the file, dropped or not."""


def read_rows(path: Path, chat: ChatForm, max_seq_length: int, *, mask_prompt: bool) -> Rows:
    """Tokenise a JSONL file of conversations; no file means no rows.

    Raises:
        TrainingError: A row's answer would not be learnt as it stands.
        DamagedRunError: A line is not a JSON object.
    """
    every = [chat.row(line["messages"]) for line in read_lines(path)]
    fitting = [row for row in every if len(row.tokens) <= max_seq_length and not chat.quotes_end(row)]
    if not mask_prompt:
        fitting = [Row(row.tokens, 0) for row in fitting]
    return Rows(fitting, len(every) - len(fitting), max((len(row.tokens) for row in every), default=0))


def require_rows(rows: Rows, max_seq_length: int) -> None:
    """Refuse a training set of which nothing is left.

    Raises:
        TrainingError: There is no row, or none fits.
    """
    if rows.rows:
        return
    if rows.dropped:
        raise TrainingError(
            f"None of the {rows.dropped} training rows fits into max_seq_length={max_seq_length} tokens.",
            next_step=f"Train again with options.max_seq_length of up to {rows.longest}, or with shorter examples.",
        )
    raise TrainingError("There are no training rows.", next_step="Run amplify first, then train again.")


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, as row numbers.

    The rows are shuffled, sorted by the width they are padded to (so rows of one width meet different neighbours in each
    epoch and little padding is computed), cut into batches, and the batches shuffled. Rows that do not fill a batch are
    left out, others in every epoch: none is left out twice before each was left out once.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a batch, at most as many as there are rows.
        seed: Of the data order.
        epoch: From 0. The result depends on nothing else, which is what lets a resumed run see what it would have seen.
    """
    rows = len(lengths)
    rest = rows % batch_size
    # RandomState, not default_rng: its stream is frozen, so a checkpoint resumes alike under another NumPy.
    rotation = np.random.RandomState([seed]).permutation(rows)
    left_out = {int(rotation[(epoch * rest + index) % rows]) for index in range(rest)}
    random = np.random.RandomState([seed, epoch])
    order = [int(row) for row in random.permutation(rows) if int(row) not in left_out]
    order.sort(key=lambda row: _width(lengths[row]))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return [batches[int(index)] for index in random.permutation(len(batches))]


def training_batches(seed: int, start: int, layout: Layout) -> Callable[..., Iterator[Batch]]:
    """Make the endless iterator the trainer asks for, beginning with batch number ``start``; each rank's has its share."""

    def iterate(
        dataset: Sequence[Row], batch_size: int, comm_group: Any = None, **_of_the_trainer: Any
    ) -> Iterator[Batch]:
        rank, size = (comm_group.rank(), comm_group.size()) if comm_group is not None else (0, 1)
        lengths = [len(row.tokens) for row in dataset]
        epoch, position = divmod(start, len(dataset) // batch_size)
        while True:
            for rows in epoch_batches(lengths, batch_size, seed, epoch)[position:]:
                yield layout([dataset[row] for row in rows[rank::size]])
            epoch, position = epoch + 1, 0

    return iterate


def validation_batches(layout: Layout) -> Callable[..., Iterator[Batch]]:
    """Make the iterator of an evaluation: every row once, sorted by length; the last batch may be smaller.

    Each rank measures all rows: shares would differ in number, and ranks wait for each other.
    """

    def iterate(dataset: Sequence[Row], batch_size: int, **_of_the_trainer: Any) -> Iterator[Batch]:
        by_length = sorted(dataset, key=lambda row: len(row.tokens))
        for first in range(0, len(by_length), batch_size):
            yield layout(by_length[first : first + batch_size])

    return iterate


def as_batch(rows: Sequence[Row]) -> Batch:
    """Pad rows to one width: token ids, (rows, width); first and last token the loss counts, (rows, 2).

    The trainer's loss counts the targets from the first given position up to and including the second. MLX-LM itself
    passes a row's length there, which counts one padding token per row; this passes the row's last token.
    """
    tokens = np.zeros((len(rows), _width(max(len(row.tokens) for row in rows)) + 1), np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = row.tokens
    counted = [(row.target_start, len(row.tokens) - 1) for row in rows]
    return mx.array(tokens), mx.array(counted)


def _width(length: int) -> int:
    return -(-length // _WIDTH_STEP) * _WIDTH_STEP
