"""The ladder a recipe walks down when it does not fit into memory."""

import pytest

from nanodistill_mcp.pipeline.ladder import fitted_length, ladder
from nanodistill_mcp.pipeline.recipe import resolve
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.student.requests import Recipe

LENGTHS = [*[40] * 60, *[100] * 30, *[300] * 10]


def _recipe(**options: object) -> Recipe:
    recipe, _ = resolve("recommended", Options.model_validate(options), rows=len(LENGTHS), layers=28)
    return recipe.model_copy(update={"max_seq_length": fitted_length(LENGTHS, recipe.max_seq_length)})


def test_each_rung_takes_less_than_the_one_above_and_says_what_it_changed() -> None:
    """First what costs only time, then what costs quality."""
    wanted = _recipe()
    rungs = ladder(wanted, LENGTHS, 28)
    assert rungs[0].recipe == wanted
    assert rungs[0].changes == {}
    told = [list(rung.changes)[-1] for rung in rungs[1:]]
    assert told == [
        "batch_size",
        "batch_size",
        "gradient_checkpointing",
        "lora_layers",
        "lora_layers",
        *["max_seq_length"] * 2,
    ]
    assert [rung.recipe.num_layers for rung in rungs[-4:]] == [14, 7, 7, 7]
    assert [rung.recipe.max_seq_length for rung in rungs[-3:]] == [320, 256, 160]
    assert rungs[-1].rows_too_long == 10
    assert (
        rungs[-1].changes["max_seq_length"] == "10 of 100 rows are longer than 160 tokens and are dropped; none is cut"
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_smaller_batch_keeps_the_rows_and_the_number_of_updates(batch_size: int, accumulation: int) -> None:
    """Or the learning rate and the schedule would be for another training."""
    wanted = _recipe(batch_size=batch_size, gradient_accumulation_steps=accumulation, num_train_epochs=3)
    rungs = ladder(wanted, LENGTHS, 28)
    for rung in rungs:
        recipe = rung.recipe
        effective = wanted.batch_size * wanted.grad_accumulation_steps
        assert effective <= recipe.batch_size * recipe.grad_accumulation_steps < effective + recipe.batch_size
        updates = wanted.iters // wanted.grad_accumulation_steps
        assert recipe.iters == updates * recipe.grad_accumulation_steps
        assert recipe.steps_per_eval // recipe.grad_accumulation_steps <= updates
    assert rungs[-1].recipe.batch_size == 1


def test_rows_are_dropped_only_while_half_of_them_stay() -> None:
    """A student that learnt from the short half alone has learnt another task."""
    lengths = [200] * 51 + [20] * 49
    rungs = ladder(_recipe().model_copy(update={"max_seq_length": 224}), lengths, 28)
    assert all("max_seq_length" not in rung.changes for rung in rungs)


@pytest.mark.parametrize(
    ("most", "length"), [(2048, 320), (320, 320), (319, 128), (299, 128), (100, 100), (50, 50), (8, 8)]
)
def test_the_length_is_the_smallest_step_that_holds_the_rows_that_fit(most: int, length: int) -> None:
    """No longer than needed, never longer than allowed."""
    lengths = [40, 100, 300] if most not in (319, 299) else [40, 100, 320]
    assert fitted_length(lengths, most) == length
