"""What a plan predicts, and when it is still the plan."""

import pytest

from nanodistill_mcp.pipeline.recipe import resolve
from nanodistill_mcp.pipeline.training_plan import predicted_hours, training_options
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.student.requests import ProbeResult, Recipe
from tests.runs.made import manifest


def _recipe() -> Recipe:
    return resolve("recommended", Options(), rows=1200, layers=28)[0]


def _probed(**changes: float) -> ProbeResult:
    values = {
        "step_s": 10.0,
        "step_tokens": 4000,
        "short_step_s": 2.0,
        "short_step_tokens": 400,
        "mean_tokens": 1000.0,
        "valid_tokens": 0,
    }
    return ProbeResult.model_validate(
        {"rung": 0, "attempts": [], "memory_limit_gb": 8, "device": "GPU", "weights_gb": 2, **values, **changes}
    )


def test_the_hours_follow_the_rows_there_are_and_not_the_longest_one() -> None:
    """A batch of the longest rows is what memory is measured on; most batches are shorter."""
    recipe = _recipe()
    hours = predicted_hours(recipe, _probed(), has_validation=False)
    by_hand = (5 + recipe.iters * (2 + (1000 - 400) * 8 / 3600)) / 3600
    assert hours.low == pytest.approx(0.8 * by_hand, rel=0.01)
    assert hours.high == pytest.approx(1.5 * by_hand, rel=0.01)
    assert hours.high < predicted_hours(recipe, _probed(mean_tokens=4000), has_validation=False).high


def test_evaluations_take_their_time_too() -> None:
    """A large validation set is read eleven times."""
    recipe = _recipe()
    without = predicted_hours(recipe, _probed(), has_validation=False)
    assert predicted_hours(recipe, _probed(valid_tokens=50_000), has_validation=True).low > without.low


@pytest.mark.parametrize(
    "changes",
    [
        {"short_step_tokens": 4000},  # all rows of one length
        {"short_step_s": 11.0},  # the machine was busy in between
        {"short_step_s": 0.0},
        {"short_step_s": 0.1, "short_step_tokens": 3990},
    ],
)
def test_odd_measurements_give_no_odd_prediction(changes: dict[str, float]) -> None:
    """Two steps on a busy machine are a small sample."""
    recipe = _recipe()
    hours = predicted_hours(recipe, _probed(**changes), has_validation=False)
    assert 0 < hours.low < hours.high
    assert hours.high <= 1.5 * (5 + recipe.iters * 10.0) / 3600 + 0.001


def test_options_of_this_training_lie_over_the_runs_own() -> None:
    """Also where two options are one: the newer strength of the adapter holds."""
    spec = manifest(options={"lora_alpha": 32, "lora_rank": 16, "batch_size": 2}).spec
    options, notes = training_options(spec, {"lora_scale": 3.0, "lr": 1e-4})
    assert (options.lora_alpha, options.lora_scale, options.lora_rank, options.batch_size) == (None, 3.0, 16, 2)
    assert notes == {"learning_rate": "given as lr"}
    assert training_options(spec, {})[0].lora_alpha == 32
