"""Rows packed into one sequence teach what they teach alone, and only where that is proved are they packed."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportUnknownLambdaType=false

import importlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.utils import load

from nanodistill_mcp.student.adapters import attach_adapter, trained
from nanodistill_mcp.student.chat import ChatForm, Row
from nanodistill_mcp.student.dataset import as_batch
from nanodistill_mcp.student.packing import Packing, packed, packing_of
from nanodistill_mcp.student.requests import TrainResult
from tests.student.bench import carry_out, conversation, events, recipe, training
from tests.student.gguf_students import FAMILIES, make_family

PACKED = [family for family in FAMILIES if family not in ("qwen3_5", "gemma2")]


def rows_of(folder: Path, *words: int, from_start: bool = False) -> tuple[Any, list[Row]]:
    """A student with an adapter that has learnt something, and rows of several lengths."""
    model, tokenizer = load(str(folder))[:2]
    chat = ChatForm(tokenizer)
    rows = [chat.row(conversation(number, many)["messages"]) for number, many in enumerate(words)]
    attach_adapter(model, recipe())
    model.update_modules(model.leaf_modules())
    shaken = [(name, mx.random.normal(weight.shape) * 0.1) for name, weight in trained(model).items()]
    model.load_weights(shaken, strict=False)
    return model, [Row(row.tokens, 0) for row in rows] if from_start else rows


def gradients(loss: Any, model: Any, batch: Any) -> tuple[float, int, dict[str, mx.array]]:
    """A batch's loss, the targets it counts, and the gradients by name."""
    (value, count), found = value_and_grad(model, loss)(model, *batch)
    return float(value), int(count), dict(tree_flatten(found))


@pytest.mark.parametrize("family", PACKED)
def test_loss_and_gradients_are_those_of_the_rows_unpacked(tmp_path: Path, family: str) -> None:
    """Packing is a layout: what a batch teaches must not depend on it, in any family that is packed."""
    model, rows = rows_of(make_family(tmp_path / family, family), 3, 0, 14, 1, 7)
    packing = packing_of(model, rows)
    assert isinstance(packing, Packing), packing
    tokens, owners, *_ = batch = packed(rows, 256)
    assert tokens.shape[0] < len(rows)
    assert len(set(np.array(owners)[0]) - {0}) > 1

    value, count, found = gradients(packing.loss, model, batch)
    expected, expected_count, unpacked = gradients(default_loss, model, as_batch(rows))

    assert count == expected_count
    assert value == pytest.approx(expected, rel=1e-4)
    for name, gradient in unpacked.items():
        assert mx.allclose(found[name], gradient, rtol=1e-2, atol=2e-4), name


@pytest.mark.parametrize("window", [8, 64])
def test_a_sliding_window_stays_as_wide_as_it_is(tmp_path: Path, window: int) -> None:
    """In a window a row of its own must see no more and no less than alone."""
    folder = make_family(tmp_path / "s", "gemma3_text", sliding_window=window)
    model, rows = rows_of(folder, 20, 3, 9)

    packing = packing_of(model, rows)

    assert isinstance(packing, Packing), packing
    value, _, _ = gradients(packing.loss, model, packing.batch(rows))
    assert value == pytest.approx(gradients(default_loss, model, as_batch(rows))[0], rel=1e-4)


@pytest.mark.parametrize("family", ["qwen3_5", "gemma2"])
def test_a_student_that_takes_no_mask_for_each_row_is_not_packed(tmp_path: Path, family: str) -> None:
    """One carries a state from token to token, the other takes one mask for all sequences: it would learn from its neighbours."""
    model, rows = rows_of(make_family(tmp_path / family, family), 3, 1, 2)

    assert isinstance(packing_of(model, rows), str)


def test_a_mask_that_fits_by_chance_is_no_proof(tmp_path: Path) -> None:
    """gemma2 lays a batch's masks over its heads, which goes unnoticed where a batch is as long as there are heads."""
    model, rows = rows_of(make_family(tmp_path / "gemma2", "gemma2"), *[0] * 40)

    assert isinstance(packing_of(model, rows), str)


def test_a_mask_that_is_not_heeded_is_noticed(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: here the model masks as ever, whatever it is told."""
    model, rows = rows_of(student, 3, 1, 2)
    llama = importlib.import_module("mlx_lm.models.llama")
    monkeypatch.setattr(llama.LlamaModel, "__call__", _deaf(llama.LlamaModel.__call__, llama))

    assert "not those of the rows alone" in str(packing_of(model, rows))


def _deaf(call: Any, llama: Any) -> Any:
    own = llama.create_attention_mask

    def masked_as_ever(self: Any, *inputs: Any, **named: Any) -> Any:
        told, llama.create_attention_mask = llama.create_attention_mask, own
        try:
            return call(self, *inputs, **named)
        finally:
            llama.create_attention_mask = told

    return masked_as_ever


def test_without_a_mask_on_the_prompt_the_prompt_counts_too(student: Path) -> None:
    """mask_prompt=False is an option of the recipe; its rows count from their second token."""
    model, rows = rows_of(student, 3, 1, 2, from_start=True)
    packing = packing_of(model, rows)
    assert isinstance(packing, Packing)

    value, count, _ = gradients(packing.loss, model, packed(rows))

    expected, expected_count, _ = gradients(default_loss, model, as_batch(rows))
    assert (value, count) == (pytest.approx(expected, rel=1e-4), expected_count)


def test_every_prediction_has_its_place_once() -> None:
    """A token lost or learnt twice would not show in a loss that is a mean."""
    random = np.random.RandomState(3)
    rows = [
        Row([int(token) for token in random.randint(5, 90, length)], int(random.randint(1, length)))
        for length in random.randint(2, 60, 40)
    ]
    tokens, owners, places, targets, weights = (np.array(each) for each in packed(rows, 100))

    assert tokens.size < 1.3 * sum(len(row.tokens) for row in rows)
    counted = weights == 1
    assert counted.sum() == sum(len(row.tokens) - row.target_start for row in rows)
    for number, row in enumerate(rows):
        mine = counted & (owners.flatten()[places] == number + 1)
        assert targets[mine].tolist() == row.tokens[row.target_start :]
        assert tokens.flatten()[places[mine]].tolist() == row.tokens[row.target_start - 1 : -1]
        assert tokens[owners == number + 1].tolist() == row.tokens[:-1]


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_packed_ends_where_training_unpacked_does(tmp_path: Path, student: Path, checkpointing: bool) -> None:
    """The whole loop over: same batches, same updates, losses equal within what rounding adds up to."""
    changes: dict[str, Any] = {"learning_rate": 5e-4, "grad_checkpoint": checkpointing}
    ours = training(tmp_path / "packed", student, packing=True, **changes)
    other = training(tmp_path / "unpacked", student, packing=False, **changes)

    # In processes of their own: checkpointing changes the model's class for good.
    result, expected = (TrainResult.model_validate(carry_out(request)[1]) for request in (ours, other))

    assert (events(ours, "dataset")[0]["packed"], events(other, "dataset")[0]["packed"]) == (True, False)
    assert result.trained_tokens == expected.trained_tokens
    assert result.final_train_loss == pytest.approx(expected.final_train_loss, rel=2e-3)
    assert result.best_valid_loss == pytest.approx(expected.best_valid_loss, rel=2e-3)
