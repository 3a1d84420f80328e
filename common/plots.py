"""Pictures of a run's metrics, drawn as the run goes."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]
MAX_POINTS = 250  # of a line; more are drawn as medians and ranges

# How a metric's name says which inputs it is about: the picture is named by the rest.
_GROUPS = re.compile(
    r"^(?P<split>train |test |)(?P<family>.+?)(?: value)?(?P<group> small reward std| large reward std|)$"
)
# Dark and light, line and marker: lines are told apart without colours too.
_STYLES: dict[str, dict[str, Any]] = {
    "all": {"color": "black", "linestyle": "-", "marker": "D"},
    "test": {"color": "#7f7f7f", "linestyle": "-.", "marker": "^"},
    "small": {"color": "#e69f00", "linestyle": "--", "marker": "o"},
    "large": {"color": "#0072b2", "linestyle": ":", "marker": "s"},
}


@dataclass(frozen=True)
class _Series:
    """One line of a picture: values over epochs; `kind` is a key of _STYLES."""

    label: str
    kind: str
    epochs: list[int]
    values: list[float]


def save_metric_plots(rows: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Write the pictures of `metric_figures` into `directory` as PNG, each atomically. Returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for family, figure in metric_figures(rows).items():
        path = directory / f"{_file_stem(family, {p.stem for p in paths})}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
        paths.append(path)
    return paths


def metric_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Metrics over the epochs, by what they measure: one figure for those that belong together.

    rows: [{"epoch": e, "train": {name: value}, "val": {...}}], `val` optional. Names that differ in their
    group (" small reward std", " large reward std") or in "train" and "test" share a figure. Values that are
    not finite are left out, and counted in the legend.
    """
    from matplotlib.figure import Figure

    figures = {}
    for family, series in _families(rows).items():
        figure = Figure(figsize=(7, 4.2))
        figure.subplots_adjust(
            left=0.14, right=0.97, top=0.92, bottom=0.12
        )  # Half the cost of a computed layout.
        _draw(figure.add_subplot(), family, series)
        figures[family] = figure
    return figures


def _families(rows: Sequence[dict[str, Any]]) -> dict[str, list[_Series]]:
    """The lines of each picture."""
    points: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    for row in rows:
        for split in ("train", "val"):
            for name, value in row.get(split, {}).items():
                epochs, values = points.setdefault((split, name), ([], []))
                epochs.append(row["epoch"])
                values.append(float(value))
    families: dict[str, list[_Series]] = {}
    for (split, name), (epochs, values) in points.items():
        match = _GROUPS.match(name)
        family, group = (match["family"], match["group"].split()) if match else (name, [])
        kind = group[0] if group else "all" if split == "train" else "test"
        in_both = ("train", name) in points and ("val", name) in points
        families.setdefault(family, []).append(
            _Series(f"{name} ({split})" if in_both else name, kind, epochs, values)
        )
    order = list(_STYLES)
    return {name: sorted(series, key=lambda s: order.index(s.kind)) for name, series in families.items()}


def _draw(axes: Axes, family: str, series: list[_Series]) -> None:
    from matplotlib.ticker import MaxNLocator

    log = "norm" in family.split() and any(0 < v < math.inf for s in series for v in s.values)
    longest = 1
    for number, line in enumerate(series):
        finite = [(e, v) for e, v in zip(line.epochs, line.values, strict=True) if math.isfinite(v)]
        lost = len(line.values) - len(finite)
        label = line.label + (f" ({lost} of {len(line.values)} not finite)" if lost else "")
        bins = thinned(finite)
        size = len(bins[0]) if bins else 1
        longest = max(longest, size)
        centres = [statistics.fmean(e for e, _ in points) for points in bins]
        medians = [statistics.median(v for _, v in points) for points in bins]
        step = max(1, len(bins) // 8)
        style = _STYLES[line.kind]
        # Staggered: of lines that coincide, the markers stay visible.
        marked = (number * step // len(series), step)
        axes.plot(centres, medians, label=label, linewidth=1.5, markersize=5, markevery=marked, **style)
        if size > 1:
            low, high = ([f(v for _, v in points) for points in bins] for f in (min, max))
            axes.fill_between(centres, low, high, color=style["color"], alpha=0.15, linewidth=0)
    title = family[:1].upper() + family[1:]
    note = f" (lines: medians of up to {longest} values, bands: their range)" if longest > 1 else ""
    axes.set(title=title, xlabel=f"epoch{note}", ylabel=f"{family} (log scale)" if log else family)
    if log:
        axes.set_yscale("log")
    epochs = [e for line in series for e in line.epochs]
    if min(epochs) == max(epochs):
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def thinned(points: Sequence[Point]) -> list[Sequence[Point]]:
    """The points of a line in groups of neighbours, at most MAX_POINTS.

    Thousands of noisy points would hide the line's style, and the lines below it.
    """
    size = math.ceil(len(points) / MAX_POINTS) or 1
    return [points[first : first + size] for first in range(0, len(points), size)]


def _file_stem(family: str, taken: set[str]) -> str:
    """A file name made of lower-case letters, digits and underscores, unlike those `taken`."""
    stem = re.sub(r"[^a-z0-9]+", "_", family.lower()).strip("_")[:100] or "metric"
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}_{n}"
    return name
