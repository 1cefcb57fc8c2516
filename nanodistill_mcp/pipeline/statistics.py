"""How sure a number is."""

import math
from dataclasses import dataclass

SIGNIFICANT_BELOW = 0.05

_Z95 = 1.959963984540054
_RESAMPLES = 10_000
_MOST_TIMES = 50


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
        correct: Successes.
        total: Trials; 0 gives the whole range.

    Returns:
        Lower and upper bound, both in 0 to 1.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = correct / total, _Z95**2
    centre = share + z2 / (2 * total)
    spread = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(frozen=True)
class Paired:
    """Two models on the same rows."""

    rows: int
    only_first: int
    """Rows the first alone has right."""
    only_second: int

    @property
    def difference(self) -> float:
        """Share of the first minus share of the second."""
        return (self.only_first - self.only_second) / self.rows if self.rows else 0.0

    @property
    def p_value(self) -> float:
        """How often chance alone would part two equal models so far or further, on the rows where they differ; two-sided.

        Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 12 (1947), with the binomial distribution in place of its approximation.
        """
        differing = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        tail = sum(math.comb(differing, count) for count in range(fewer + 1)) / 2**differing
        return min(1.0, 2 * tail)

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, by the paired bootstrap; the same each time.

        Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13, percentile interval. Rows are of
        three kinds here, so that a resample is a draw of their three counts.
        """
        if not self.rows:
            return -1.0, 1.0
        import numpy as np  # noqa: PLC0415 - the server seldom computes one

        same = self.rows - self.only_first - self.only_second
        shares = np.array([self.only_first, self.only_second, same]) / self.rows
        drawn = np.random.default_rng(0).multinomial(self.rows, shares, size=_RESAMPLES)
        differences = (drawn[:, 0] - drawn[:, 1]) / self.rows
        low, high = np.quantile(differences, (0.025, 0.975))
        return float(low), float(high)


def paired(first: set[str], second: set[str], rows: list[str]) -> Paired:
    """Compare two models by the rows each has right."""
    asked = set(rows)
    return Paired(len(asked), len((first - second) & asked), len((second - first) & asked))


def rows_needed(pair: Paired) -> int | None:
    """Rows from which a difference like this one would be shown, should it stay as it is; None when there is none to show."""
    if pair.only_first == pair.only_second:
        return None
    for times in range(1, _MOST_TIMES + 1):
        grown = Paired(times * pair.rows, times * pair.only_first, times * pair.only_second)
        if grown.p_value < SIGNIFICANT_BELOW:
            return grown.rows
    return None
