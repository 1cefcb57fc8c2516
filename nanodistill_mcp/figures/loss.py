"""The training, as a curve: what the student lost, and where it was taken."""
# pyright: reportUnknownMemberType=false

import math

from nanodistill_mcp.figures.canvas import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    Axes,
    Figure,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    drawn,
    head,
)
from nanodistill_mcp.figures.shapes import LossCurve, Points

_HEIGHT_IN = 4.8
_LOG_FROM = 15.0
"""A loss that fell to less than a fifteenth would lie on the axis for most of the picture."""
_MANY_TICKS_FROM = 1000.0
_DOTTED_BELOW = 41
_SMOOTH_FROM = 40
_SMOOTHED_OVER = 25
"""The smoothed curve is the mean over a twenty-fifth of the training."""


def loss_picture(curve: LossCurve) -> bytes:
    """Draw training and validation loss, and the learning rate small beneath."""

    def fill(figure: Figure) -> None:
        head(figure, curve.title, _HEIGHT_IN)
        with_rate = len({rate for _, rate in curve.learning_rate}) > 1
        ratios = [5, 1] if with_rate else [1]
        grid = figure.add_gridspec(
            len(ratios), 1, height_ratios=ratios, left=0.095, right=0.975, top=0.81, bottom=0.125, hspace=0.12
        )
        axes = figure.add_subplot(grid[0])
        _draw_losses(axes, curve)
        lowest = axes
        if with_rate:
            lowest = figure.add_subplot(grid[1], sharex=axes)
            _draw_rate(lowest, curve.learning_rate)
            axes.tick_params(labelbottom=False, bottom=False)
        lowest.set_xlabel("update")
        lowest.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))

    return drawn(_HEIGHT_IN, fill)


def _draw_losses(axes: Axes, curve: LossCurve) -> None:
    train, valid = _finite(curve.train), _finite(curve.valid)
    _scale(axes, [loss for _, loss in train + valid if loss > 0])
    axes.grid(axis="y")
    axes.tick_params(length=0)
    shown = smoothed(train)
    if shown != train:
        axes.plot(*_columns(train), color=BLUE, linewidth=0.7, alpha=0.3)
    crowded = bool(curve.resumed) or curve.diverged is not None
    label = "training, smoothed" if shown != train and not crowded else "training"
    axes.plot(*_columns(shown), color=BLUE, linewidth=2, marker="o" if len(train) < _DOTTED_BELOW else "", label=label)
    if valid:
        marker = "s" if len(valid) < _DOTTED_BELOW else ""
        axes.plot(*_columns(valid), color=ORANGE, linewidth=2, marker=marker, markersize=5, label="validation")
    for number, at in enumerate(curve.resumed):
        axes.axvline(at, color=FAINT, linewidth=1, linestyle=":", label="" if number else "resumed")
    if curve.diverged is not None:
        axes.axvline(curve.diverged, color=INK, linewidth=1.5, linestyle="--", label="diverged")
    if best := next((point for point in valid or shown if point[0] == curve.best), None):
        axes.plot(
            *best,
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.8,
            linestyle="none",
            label=f"the model (update {best[0]:g})",
            zorder=5,
        )
    axes.margins(x=0.02)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=5, frameon=False, handlelength=1.4, columnspacing=1.4
    )


def _scale(axes: Axes, values: list[float]) -> None:
    """A share of the fall that can be seen: on a logarithmic scale where the loss fell far, else from zero."""
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    if not values or max(values) <= _LOG_FROM * min(values):
        axes.set_ylim(0, 1.08 * max(values, default=1.0))
        axes.set_ylabel("loss")
        return
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
    axes.set_ylabel("loss, log scale")
    subs = (1.0, 3.0) if max(values) < _MANY_TICKS_FROM * min(values) else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.minorticks_off()


def _draw_rate(axes: Axes, rates: Points) -> None:
    axes.plot(*_columns(rates), color=FAINT, linewidth=1.5)
    axes.set_ylim(0, max(rate for _, rate in rates) * 1.15)
    axes.set_yticks([max(rate for _, rate in rates)])
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.tick_params(length=0)
    axes.text(0.995, 0.9, "learning rate", transform=axes.transAxes, ha="right", va="top", color=FAINT)


def smoothed(points: Points) -> Points:
    """Means over a window around each point. Few points are left as they are."""
    if len(points) < _SMOOTH_FROM:
        return points
    half = max(1, len(points) // _SMOOTHED_OVER // 2)
    return [
        (x, sum(y for _, y in points[max(0, i - half) : i + half + 1]) / len(points[max(0, i - half) : i + half + 1]))
        for i, (x, _) in enumerate(points)
    ]


def _plain(value: float, _: int | None) -> str:
    return f"{value:g}"


def _short(value: float, _: int | None) -> str:
    return f"{value:.1g}"


def _finite(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
