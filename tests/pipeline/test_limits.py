"""What a training may take, on the machines people have."""

from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.limits import limits_of
from nanodistill_mcp.pipeline.plan import check_options
from nanodistill_mcp.runs.options import Options


@pytest.mark.parametrize(
    ("preset", "total_gb", "given", "expected"),
    [
        ("recommended", 128, {}, (115.2, 121.6, 100)),
        ("recommended", 8, {}, (7.2, 7.6, 100)),
        ("nanodistill", 128, {}, (12, 12, 80)),
        ("nanodistill", 8, {}, (7.2, 7.6, 80)),
        ("nanodistill", 36, {"max_memory_gb": 20}, (20, 20, 80)),
        ("recommended", 16, {"memory_hard_limit_gb": 6, "cpu_capacity_percent": 50}, (6, 6, 50)),
        ("recommended", 16, {"max_memory_gb": 6}, (6, 15.2, 100)),
    ],
)
def test_the_limits_follow_the_machine_and_only_the_seeds_preset_is_capped(
    preset: str, total_gb: float, given: dict[str, Any], expected: tuple[float, float, float]
) -> None:
    """Whoever bought 128 GB expects them to be used; whoever asks for the seeds' defaults expects their 12."""
    limits, reasons = limits_of(preset, Options(**given), total_gb)
    found = (limits.max_memory_gb, limits.memory_hard_limit_gb, limits.cpu_capacity_percent)
    assert found == pytest.approx(expected)
    assert not set(reasons) & set(given)


def test_a_hard_limit_below_the_budget_is_refused() -> None:
    """It would end every training that is within its budget."""
    with pytest.raises(UserInputError, match="memory_hard_limit_gb must be at least max_memory_gb"):
        check_options({"max_memory_gb": 8, "memory_hard_limit_gb": 6})


@pytest.mark.parametrize(("given", "percent"), [(0.8, 80), (80, 80), (1, 100), (10, 10)])
def test_a_share_of_the_processors_is_understood_in_either_notation(given: float, percent: float) -> None:
    """The option's name says percent, and people write 0.8; nobody wants less than one percent."""
    assert check_options({"cpu_capacity_percent": given}).cpu_capacity_percent == percent


def test_runs_and_callers_that_know_the_older_name_are_understood() -> None:
    """A run folder made before lies on disk for years."""
    assert Options.model_validate({"memory_limit_gb": 6.0}).max_memory_gb == 6.0
    assert check_options({"memory_limit_gb": 6}).max_memory_gb == 6
