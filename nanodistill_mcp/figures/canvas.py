"""What the pictures share: their look, whoever's machine draws them, and bytes that differ only when what is shown does."""
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import io
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def _settings_of_its_own() -> Generator[None, None, None]:
    """Keep a user's matplotlib out of the picture, and the picture out of theirs.

    Else it reads their style, lists the system's fonts (many seconds on a Mac) and leaves a list of fonts in their home.
    """
    ours = {"MPL_IGNORE_SYSTEM_FONTS": "1"}
    before = {name: os.environ.get(name) for name in (*ours, "MPLCONFIGDIR")}
    with tempfile.TemporaryDirectory(prefix="nanodistill-") as folder:
        os.environ.update({**ours, "MPLCONFIGDIR": folder})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


with _settings_of_its_own():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
    from PIL import Image

__all__ = ["Axes", "Figure", "FuncFormatter", "LogLocator", "MaxNLocator"]

INK, FAINT, GRID = "#1f2933", "#5c6773", "#e1e6eb"
BLUE, ORANGE, SKY, GREY = "#0072b2", "#d55e00", "#56b4e9", "#8a929b"
"""Okabe and Ito's colours, told apart with any kind of colour vision. No meaning rests on colour alone."""

WIDTH_IN = 8.0
DPI = 150
"""A chat shows about 800 points of width; a sharp screen has half as many pixels again for them."""

TITLE_PT, TEXT_PT = 14, 11.5
"""The smallest text stays readable when a chat shows the picture at two thirds."""

_COLOURS = 96
"""Lines and letters need no more, and the picture goes into a chat."""

_LOOK: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": TEXT_PT,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": True,
}


def drawn(height_in: float, fill: Callable[[Figure], None]) -> bytes:
    """A PNG, 1,200 pixels wide and 150 high for each inch."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK)
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        fill(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    stream = io.BytesIO()
    picture.quantize(_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def head(figure: Figure, title: str, height_in: float) -> None:
    """Write the title at the top left, where reading begins."""
    figure.text(0.02, 1 - 0.16 / height_in, title, fontsize=TITLE_PT, fontweight="bold", va="top", color=INK)
