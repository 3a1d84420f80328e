"""Curves of a run, drawn as it goes: one drawer for all. Colours and settings are the caller's.

with house_style():
    save_panels(path, [Panel("Loss", [Curve("train", points)])], "epoch", CURVE_COLORS)
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import atomic_path
from common.output import explain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
Point = tuple[float, float]
MAX_POINTS = 250  # of a curve; more are drawn as medians and ranges
_COLUMNS = 3  # panels side by side
# With the colours, and without them alone, these tell curves apart.
_DASHES, _MARKERS = ("-", "--", ":", "-."), ("D", "o", "s", "^", "v", "*", "x", "P")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) of a line; values that are not finite are left out, and counted in the legend.

    look: the number of its colour, dashes and marker; band: half the height of the band around each point.
    """

    label: str
    points: list[Point]
    look: int = 0
    band: list[float] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves with a title; log: on a logarithmic scale, where a value is positive."""

    title: str
    curves: list[Curve]
    y_label: str = ""
    log: bool = False


@contextmanager
def optional_drawing(path: Path) -> Iterator[None]:
    """Log that a picture, or a folder of them, is not drawn, whatever the reason: it ends no run."""
    try:
        yield
    except Exception as error:
        reason = explain(path, error) if isinstance(error, OSError) and error.errno else error
        logger.warning("not drawn: %s", reason if str(path) in str(reason) else f"{path}: {reason!s}")


def save_panels(path: Path, panels: Sequence[Panel], x_label: str, colors: Sequence[str]) -> None:
    """Writes what `draw_panels` draws as PNG, atomically."""
    with atomic_path(path) as temporary:
        draw_panels(panels, x_label, colors).savefig(temporary, format="png", dpi=120)


def draw_panels(panels: Sequence[Panel], x_label: str, colors: Sequence[str]) -> Figure:
    """Draws the panels in a grid."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (7.0, 4.2) if columns == 1 else (4.6 * columns, 3.2 * rows)
    labelled = any(panel.y_label for panel in panels)
    figure = Figure(figsize=(width, height))
    # In inches, by hand: a computed layout of 40 panels would take ten times as long as drawing them.
    figure.subplots_adjust(
        left=(0.9 if labelled else 0.75) / width,
        right=1 - 0.2 / width,
        bottom=0.55 / height,
        top=1 - 0.35 / height,
        wspace=0.3 if labelled else 0.25,
        hspace=0.4,
    )
    for number, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, number + 1), panel, x_label, colors)
    return figure


def _draw_panel(axes: Axes, panel: Panel, x_label: str, colors: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    points = [point for curve in panel.curves for point in curve.points]
    log = panel.log and any(0 < y < math.inf for _, y in points)
    size = 1
    for number, curve in enumerate(panel.curves):
        # Staggered: of curves that coincide, the markers stay visible.
        size = max(size, _draw_curve(axes, curve, colors, number / len(panel.curves)))
    note = f" (lines: medians of up to {size} values, bands: their range)" if size > 1 else ""
    axes.set(title=panel.title, xlabel=f"{x_label}{note}")
    if panel.y_label:
        axes.set_ylabel(f"{panel.y_label} (log scale)" if log else panel.y_label)
    if log:
        axes.set_yscale("log")
    places = {x for x, _ in points}
    if len(places) == 1:
        axes.set_xlim(min(places) - 1, min(places) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(x == int(x) for x in places)))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=True, framealpha=0.8, edgecolor="none")  # it may stand on curves


def _draw_curve(axes: Axes, curve: Curve, colors: Sequence[str], offset: float) -> int:
    """Draws a curve; offset: of its markers, as a share of their distance. Returns values per point drawn."""
    finite = [(x, y) for x, y in curve.points if math.isfinite(y)]
    groups = thin(finite)
    centres = [statistics.fmean(x for x, _ in group) for group in groups]
    medians = [statistics.median(y for _, y in group) for group in groups]
    omitted = len(curve.points) - len(finite)
    count = f"{omitted} of {len(curve.points)} not finite" if omitted else ""
    label = f"{curve.label} ({count})" if curve.label and count else curve.label or count
    color, step = colors[curve.look % len(colors)], max(1, len(groups) // 8)
    axes.plot(
        centres,
        medians,
        label=label or None,
        color=color,
        linestyle=_DASHES[curve.look % len(_DASHES)],
        marker=_MARKERS[curve.look % len(_MARKERS)],
        markevery=(int(offset * step), step),
    )
    size = len(groups[0]) if groups else 1
    if size > 1:
        low, high = ([f(y for _, y in group) for group in groups] for f in (min, max))
        axes.fill_between(centres, low, high, color=color, alpha=0.15, linewidth=0)
    elif curve.band is not None and not omitted:
        low = [y - half for (_, y), half in zip(curve.points, curve.band, strict=True)]
        high = [y + half for (_, y), half in zip(curve.points, curve.band, strict=True)]
        axes.fill_between(centres, low, high, color=color, alpha=0.15, linewidth=0)
    return size


def thin(points: Sequence[Point]) -> list[Sequence[Point]]:
    """Groups the points of a curve with their neighbours into at most MAX_POINTS groups.

    Thousands of noisy points would hide the curve's dashes, and the curves below it.
    """
    size = math.ceil(len(points) / MAX_POINTS) or 1
    return [points[first : first + size] for first in range(0, len(points), size)]
