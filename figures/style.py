"""The files that each figure leaves: PDF, PNG, numbers, origin; the colours and markers of methods."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from common.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from rft_diagnose.style import BLUE, GREEN, ORANGE, PURPLE, render_figure

LETTERS_PER_INCH = 11  # of a figure's title, at most
METHOD_COLORS = {"RFT": ORANGE, "RFT (sampled)": PURPLE, "SFT": BLUE, "SFT + RFT": GREEN}
METHOD_MARKERS = {"RFT": "o", "RFT (sampled)": "D", "SFT": "^", "SFT + RFT": "s"}


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
    atomic_write_bytes(path, render_figure(figure)[0])
