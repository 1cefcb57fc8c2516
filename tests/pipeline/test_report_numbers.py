"""Numbers are rounded as a person would, and never so far that they say something else."""

import pytest

from nanodistill_mcp.pipeline.report import numbers


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0%"),
        (0.0001, "0.1%"),
        (0.004, "0.4%"),
        (0.1249, "12%"),
        (0.9951, "99.5%"),
        (0.9999, "99.9%"),
        (1.0, "100%"),
    ],
)
def test_nearly_all_is_not_all_and_hardly_any_is_not_none(value: float, told: str) -> None:
    """One wrong answer in ten thousand is one: '100%' would deny it."""
    assert numbers.share(value) == told


@pytest.mark.parametrize(
    ("elapsed_s", "told"),
    [(0.2, "under a second"), (22.4, "22 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3600 * 5 + 61, "5 h 1 min")],
)
def test_a_time_is_told_in_the_units_one_would_use(elapsed_s: float, told: str) -> None:
    """Nobody reads 18061 s."""
    assert numbers.duration(elapsed_s) == told


@pytest.mark.parametrize(
    ("usd", "told"), [(0, "nothing"), (0.004, "under a cent"), (1.2, "$1.20"), (1234.5, "$1,234.50")]
)
def test_a_cost_is_told_in_cents(usd: float, told: str) -> None:
    """What is paid and small is not nothing."""
    assert numbers.dollars(usd) == told


def test_a_difference_of_nothing_has_no_sign() -> None:
    """'+0' and '-0' are the same difference."""
    assert numbers.points(-0.031, [-0.08, 0.001]) == "-3 points (95% interval -8 to 0)"
    assert numbers.points(0.5, [0.104, 0.9]) == "+50 points (95% interval +10 to +90)"


def test_a_loss_keeps_two_figures() -> None:
    """0.0315 and 4.72 are both losses of a training; a missing one is not zero."""
    assert [numbers.loss(value) for value in (4.721, 0.0315, 12.3, float("nan"), None)] == [
        "4.7",
        "0.032",
        "12",
        "not known",
        "not known",
    ]
