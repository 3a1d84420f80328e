"""One look for all figures, and the files that each leaves: PDF, PNG, the plotted numbers, their origin."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from common.files import atomic_write_bytes, atomic_write_json, atomic_write_text

# Okabe and Ito's palette: told apart under the common colour blindnesses. In black and white these are not
# enough, so that every series has its own marker or dashes too.
BLACK, GREY = "#000000", "#999999"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY = "#56B4E9"

METHOD_COLORS = {"RFT": ORANGE, "RFT (sampled)": PURPLE, "SFT": BLUE, "SFT + RFT": GREEN}
METHOD_MARKERS = {"RFT": "o", "RFT (sampled)": "D", "SFT": "^", "SFT + RFT": "s"}

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
    """The project's look inside the block, whatever the user's matplotlib settings, which come back after."""
    with matplotlib.style.context(["default", HOUSE_STYLE]):
        yield


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
    with house_style():
        # Without their dates, and for the PNG the version, that matplotlib would put into the files.
        atomic_write_bytes(png, _rendered(figure, "png", {"Software": None}))
        atomic_write_bytes(pdf, _rendered(figure, "pdf", {"CreationDate": None}))
    atomic_write_text(csv, table.to_csv(index=False))
    atomic_write_json(json, {"figure": stem.name, **meta, "runs": list(runs)})
    return paths


def _rendered(figure: Figure, file_format: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue()
