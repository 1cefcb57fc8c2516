"""Rows become batches: nothing is cut, the loss counts the answer and its end, every row has its turn."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.utils import load

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.dataset import (
    as_batch,
    epoch_batches,
    read_rows,
    require_rows,
    training_batches,
    validation_batches,
)
from tests.student.bench import conversation, write_jsonl


@pytest.fixture(scope="module")
def chat(student: Path) -> ChatForm:
    """The tiny student's chat form."""
    return ChatForm(load(str(student))[1])


def test_the_loss_counts_the_answer_and_the_token_that_ends_it_and_nothing_else(
    tmp_path: Path, student: Path, chat: ChatForm
) -> None:
    """Proved through the trainer's own loss: targets outside its mask do not change it, targets inside do."""
    rows = read_rows(
        write_jsonl(tmp_path / "t.jsonl", [conversation(3), conversation(4, 20)]), chat, 512, mask_prompt=True
    )
    tokens, counted = as_batch(rows.rows)
    model = load(str(student))[0]
    _, number = default_loss(model, tokens, counted)

    targets: list[str] = []
    for row, (first, last) in zip(np.array(tokens), np.array(counted), strict=True):
        targets.append(chat.tokenizer.decode(row[first : last + 1].tolist()))
        assert row[last] in chat.stop_ids
        assert not row[last + 1 :].any()
    assert targets == [
        "<thinking>\n3 is a number\n</thinking>\nodd<|im_end|>",
        f"<thinking>\n4 {'is ' * 20}a number\n</thinking>\neven<|im_end|>",
    ]
    assert int(number) == sum(len(row.tokens) - row.target_start for row in rows.rows)


def test_without_a_mask_the_loss_counts_the_prompt_too(tmp_path: Path, chat: ChatForm) -> None:
    """mask_prompt=False is an option of the recipe."""
    rows = read_rows(write_jsonl(tmp_path / "t.jsonl", [conversation(3)]), chat, 512, mask_prompt=False)

    assert as_batch(rows.rows)[1].tolist() == [[0, len(rows.rows[0].tokens) - 1]]


def test_rows_that_do_not_fit_are_dropped_with_a_count_and_never_cut(tmp_path: Path, chat: ChatForm) -> None:
    """Cutting takes the end of a row, which is the answer."""
    path = write_jsonl(
        tmp_path / "t.jsonl", [conversation(number, words) for number, words in enumerate((1, 200, 2, 300))]
    )
    fitting = read_rows(path, chat, 100, mask_prompt=True)

    assert (len(fitting.rows), fitting.dropped) == (2, 2)
    assert fitting.longest > 300
    assert all(row.tokens[-1] in chat.stop_ids for row in fitting.rows)


def test_an_answer_that_quotes_the_end_token_is_dropped(tmp_path: Path, chat: ChatForm) -> None:
    """Text is data; tokenised, this one would teach the student to stop in mid-answer."""
    quoting = conversation(2)
    quoting["messages"][-1]["content"] = "write <|im_end|> at the end"
    rows = read_rows(write_jsonl(tmp_path / "t.jsonl", [quoting, conversation(3)]), chat, 100, mask_prompt=True)

    assert (len(rows.rows), rows.dropped) == (1, 1)


def test_when_no_row_fits_the_error_names_the_length_that_would(tmp_path: Path, chat: ChatForm) -> None:
    """The caller can set max_seq_length."""
    rows = read_rows(write_jsonl(tmp_path / "t.jsonl", [conversation(1, 200)]), chat, 50, mask_prompt=True)

    with pytest.raises(TrainingError, match=f"None of the 1 training rows fits.*up to {rows.longest}"):
        require_rows(rows, 50)


def test_no_rows_at_all_is_an_error_that_says_what_makes_them(tmp_path: Path, chat: ChatForm) -> None:
    """A missing file and an empty one are the same."""
    with pytest.raises(TrainingError, match="Run amplify first"):
        require_rows(read_rows(tmp_path / "none.jsonl", chat, 50, mask_prompt=True), 50)


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 1), (4, 4), (7, 3), (9, 8), (50, 8)])
def test_every_row_is_seen_and_those_left_out_of_an_epoch_take_turns(rows: int, batch_size: int) -> None:
    """MLX-LM leaves out the same rows in every epoch, the longest if they are sorted."""
    lengths = [10 + 7 * (row % 13) for row in range(rows)]
    rest = rows % batch_size
    left_out: Counter[int] = Counter()
    epochs = rows
    for epoch in range(epochs):
        batches = epoch_batches(lengths, batch_size, 3, epoch)
        seen = [row for batch in batches for row in batch]
        assert len(batches) == rows // batch_size
        assert {len(batch) for batch in batches} == {batch_size}
        assert len(set(seen)) == len(seen)
        left_out.update(set(range(rows)) - set(seen))
    assert sum(left_out.values()) == epochs * rest
    assert not left_out or set(left_out.values()) == {rest}


def test_a_batch_holds_rows_of_like_length_and_epochs_differ() -> None:
    """Padding is computed like anything else; neighbours should change from epoch to epoch."""
    lengths = [3 + (row * 37) % 400 for row in range(64)]
    first, second = epoch_batches(lengths, 8, 1, 0), epoch_batches(lengths, 8, 1, 1)

    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in first]
    assert max(spread) < 100
    assert first == epoch_batches(lengths, 8, 1, 0)
    assert first != second
    assert first != epoch_batches(lengths, 8, 2, 0)
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}


def test_batches_from_any_start_are_those_an_uninterrupted_run_would_see() -> None:
    """A resumed run begins in the middle of an epoch."""
    dataset = [Row([row] * (1 + row % 5), 0) for row in range(11)]
    straight = training_batches(9, 0, as_batch)(dataset, 3)
    expected = [next(straight)[0].tolist() for _ in range(20)]

    for start in (1, 2, 3, 7, 19):
        resumed = training_batches(9, start, as_batch)(dataset, 3)
        assert next(resumed)[0].tolist() == expected[start]


def test_validation_sees_every_row_once() -> None:
    """The trainer itself leaves out the last rows."""
    dataset = [Row([row + 1] * (3 + row), 1) for row in range(7)]
    batches = list(validation_batches(as_batch)(dataset, 3, max_seq_length=64, comm_group=None))

    assert [tokens.shape[0] for tokens, _ in batches] == [3, 3, 1]
    assert sorted(int(token) for tokens, _ in batches for token in tokens[:, 0]) == list(range(1, 8))


def test_a_batch_is_as_wide_as_its_longest_row_rounded_up() -> None:
    """Few widths mean few shapes to compile for; one more column because inputs and targets are shifted."""
    tokens, counted = as_batch([Row([1] * 31, 4), Row([1] * 33, 5)])

    assert tokens.shape == (2, 65)
    assert counted.tolist() == [[4, 30], [5, 32]]
    assert tokens.dtype == mx.int32
