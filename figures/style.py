"""The files that each figure leaves: PDF, PNG, numbers, origin; the colours and markers of methods."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from common.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from rft_diagnose.style import (
    BLACK,
    BLUE,
    CURVE_COLORS,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    render_figure,
    render_png,
)

LETTERS_PER_INCH = 11  # of a figure's title, at most
METHOD_COLORS = {
    "RFT": ORANGE,
    "RFT (sampled)": PURPLE,
    "SFT": BLUE,
    "SFT + RFT": GREEN,
    "GRPO, G = 8": SKY,
    "GRPO, G = 64": GREEN,
    "GRPO, G infinite": BLACK,
}
METHOD_MARKERS = {
    "RFT": "o",
    "RFT (sampled)": "D",
    "SFT": "^",
    "SFT + RFT": "s",
    "GRPO, G = 8": "v",
    "GRPO, G = 64": "P",
    "GRPO, G infinite": "X",
}
OTHER_MARKERS = "<>hp*d"


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of their table, the others behind them."""
    known = list(METHOD_COLORS)
    return sorted(methods, key=lambda name: (known.index(name) if name in known else len(known), name))


def method_look(method: str, number: int) -> tuple[str, str]:
    """Colour and marker of a method; of one without its own, those of its number among the drawn ones."""
    return (
        METHOD_COLORS.get(method, CURVE_COLORS[number % len(CURVE_COLORS)]),
        METHOD_MARKERS.get(method, OTHER_MARKERS[number % len(OTHER_MARKERS)]),
    )


def add_title(figure: Figure, title: str | None) -> None:
    """Put a title over a figure, in as many lines as its width asks for."""
    if title:
        most = max(20, int(LETTERS_PER_INCH * figure.get_figwidth()))
        lines = textwrap.wrap(title, most)
        # As many lines, of about the same length: no word alone in the last one.
        even = next(width for width in range(1, most + 1) if len(textwrap.wrap(title, width)) <= len(lines))
        figure.suptitle(textwrap.fill(title, even), fontsize="large")


def save_figure(
    figure: Figure, stem: Path, table: pd.DataFrame, runs: Sequence[dict[str, Any]], **meta: Any
) -> list[Path]:
    """Write `stem` with .pdf, .png (150 dpi), .csv (`table`) and .json (`runs` and `meta`), each atomically.

    table: exactly the plotted numbers; runs: what identifies each run that they come from; meta: anything
    else that made the figure, as JSON values. The same figure gives the same bytes. Makes the folder.
    Returns the paths, the picture to look at first.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.parent / f"{stem.name}.{suffix}" for suffix in ("png", "pdf", "csv", "json")]
    png, pdf, csv, json = paths
    for path, data in zip((png, pdf), render_figure(figure), strict=True):
        atomic_write_bytes(path, data)
    atomic_write_text(csv, table.to_csv(index=False))
    atomic_write_json(json, {"figure": stem.name, **meta, "runs": list(runs)})
    return paths


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG alone, atomically: another form of one that `save_figure` has left."""
    atomic_write_bytes(path, render_png(figure))
