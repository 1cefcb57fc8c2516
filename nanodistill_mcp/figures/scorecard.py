"""The scores, as bars with the range the true share lies in."""
# pyright: reportUnknownMemberType=false

from nanodistill_mcp.figures.canvas import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    SKY,
    TEXT_PT,
    Axes,
    Figure,
    FuncFormatter,
    drawn,
    head,
)
from nanodistill_mcp.figures.shapes import Score, ScoredSet

_COLOURS = {"base": GREY, "student": BLUE, "GGUF": SKY, "teacher": ORANGE}
_ROW_IN, _SET_IN, _HEAD_IN, _FOOT_IN = 0.42, 0.5, 0.5, 0.62
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
_SHARES_END, _CHARACTER = 1.15, 0.0185
"""Right of the axis, which ends at 1: where the shares end, and what each character of the counts takes."""


def scorecard_picture(title: str, sets: list[ScoredSet]) -> bytes:
    """Draw each model's accuracy with its 95 % interval, set by set."""
    height_in = _HEAD_IN + _FOOT_IN + sum(_SET_IN + _ROW_IN * len(each.scores) for each in sets)

    right = _SHARES_END + _CHARACTER * max(len(_count(score)) for each in sets for score in each.scores)

    def fill(figure: Figure) -> None:
        head(figure, title, height_in)
        axes = figure.add_axes((0.115, _FOOT_IN / height_in, 0.865, 1 - (_HEAD_IN + _FOOT_IN) / height_in))
        place = 0.0
        for each in sets:
            place += _SET_IN
            axes.text(-0.11, place - 0.13, each.name, fontweight="bold", va="bottom", color=INK, bbox=_PAPER)
            for score in each.scores:
                _draw(axes, score, place + _ROW_IN / 2, right)
                place += _ROW_IN
        _dress(axes, place, right)

    return drawn(height_in, fill)


def _draw(axes: Axes, score: Score, at: float, right: float) -> None:
    axes.barh(at, score.accuracy, height=0.62 * _ROW_IN, color=_COLOURS.get(score.model, GREY), snap=False)
    ends = [score.low, score.high]
    axes.plot(ends, [at, at], color=INK, linewidth=1.8, marker="|", markersize=9, markeredgewidth=1.8, snap=False)
    axes.text(-0.015, at, score.model, ha="right", va="center")
    axes.text(1.025, at, score.share, ha="left", va="center", fontweight="bold")
    axes.text(right, at, _count(score), ha="right", va="center", color=FAINT)


def _dress(axes: Axes, end: float, right: float) -> None:
    axes.set_xlim(0, right)
    axes.set_ylim(end + 0.1, 0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("answered rightly; the line is the 95% interval", fontsize=TEXT_PT, x=0.5 / right)


def _count(score: Score) -> str:
    return f"{score.correct:,} of {score.rows:,}"


def _percent(value: float, _: int | None) -> str:
    return f"{value:.0%}"
