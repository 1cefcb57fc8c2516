"""Numbers as a person would say them."""

import math


def share(value: float) -> str:
    """A share in percent; nearly all is not rounded to all, nor hardly any to none."""
    percent = 100 * value
    if 0 < percent < 0.5:  # noqa: PLR2004
        return f"{max(percent, 0.1):.1f}%"
    if 99.5 < percent < 100:  # noqa: PLR2004
        return f"{min(percent, 99.9):.1f}%"
    return f"{percent:.0f}%"


def interval(low_high: list[float]) -> str:
    """A range of shares."""
    low, high = low_high
    return f"{share(low)} to {share(high)}"


def points(difference: float, low_high: list[float]) -> str:
    """A difference of two shares with its interval, in points of a hundred."""
    told, low, high = (f"{round(100 * value):+d}".replace("+0", "0") for value in (difference, *low_high))
    return f"{told} points (95% interval {low} to {high})"


def p_value(value: float) -> str:
    """A p-value, no more exact than it is."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"  # noqa: PLR2004


def duration(elapsed_s: float) -> str:
    """A time in the units a person would use."""
    seconds = round(elapsed_s)
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds} s" if elapsed_s >= 1 else "under a second"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def dollars(usd: float) -> str:
    """A cost."""
    return "nothing" if usd == 0 else "under a cent" if usd < 0.01 else f"${usd:,.2f}"  # noqa: PLR2004


def size(number_of_bytes: float) -> str:
    """The size of a file."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number_of_bytes >= one:
            return f"{number_of_bytes / one:.3g} {unit}"
    return f"{number_of_bytes:.0f} bytes"


def loss(value: float | None) -> str:
    """A loss, to two figures."""
    if value is None or not math.isfinite(value):
        return "not known"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"  # noqa: PLR2004


def count(number: int, one: str, many: str = "") -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
