"""One look for all pictures: palette, settings, and the files that a picture leaves."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart under the common colour blindnesses. In black and white these are not
# enough, so that every series has its own marker or dashes too.
BLACK, GREY = "#000000", "#999999"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY = "#56B4E9"
CURVE_COLORS = (BLACK, ORANGE, BLUE, GREEN, PURPLE, SKY, GREY)
CLASS_COLORS = {"uncertain": GREY, "live": GREEN, "dead_high": BLUE, "dead_low": ORANGE}  # as they are drawn

PNG_DPI = 150
HOUSE_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text: journals refuse the default Type 3
}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the project's look in the block, whatever the user's settings of matplotlib, which come back."""
    import matplotlib.style

    with matplotlib.style.context(["default", HOUSE_STYLE]):
        yield


def render_figure(figure: Figure) -> tuple[bytes, bytes]:
    """Draw a figure as PNG (150 dpi) and as PDF; the same figure gives the same bytes."""
    png = render_png(figure)
    with house_style():
        figure.set_layout_engine("none")  # that of the PNG stays: finding it takes as long as drawing
        return png, _rendered(figure, "pdf", {"CreationDate": None})


def render_png(figure: Figure) -> bytes:
    """Draw a figure as PNG alone."""
    with house_style():  # without the dates, and for the PNG the version, that matplotlib puts into files
        return _rendered(figure, "png", {"Software": None})


def _rendered(figure: Figure, file_format: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()
