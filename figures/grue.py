"""Figure 1 of the paper (reward mean and std of each input under each model) and Figure 5 (two inputs)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from figures.style import house_style

COLORMAP = "viridis"  # its lightness rises with the value: readable in black and white
MAX_MARKERS_AS_VECTORS = 2_000


def figure1(table: pd.DataFrame, reward: str, title: str | None = None) -> Figure:
    """One panel a model: a marker per input, reward mean (y) and std (colour).

    table: columns panel (in the order of the panels), input, mean, std; a row per panel and input, the same
    inputs in each. In every panel they are ordered by their std in the first (the pretrained model).
    """
    panels = list(dict.fromkeys(table["panel"]))
    order = table[table["panel"] == panels[0]].sort_values("std", kind="stable")["input"].tolist()
    largest = max(float(table["std"].max()), 1e-12)
    low, high = float(table["mean"].min()), float(table["mean"].max())
    margin = 0.04 * max(high - low, 1e-3)
    with house_style():
        figure = Figure(figsize=(3.6 * len(panels) + 0.9, 3.4), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, panel in zip(grid, panels, strict=True):
            rows = table[table["panel"] == panel].set_index("input").loc[order]
            axes.scatter(
                np.arange(len(rows)),
                rows["mean"],
                c=rows["std"],
                cmap=COLORMAP,
                vmin=0,
                vmax=largest,
                s=14 if len(rows) < 500 else 5,
                linewidths=0,
                rasterized=len(rows) > MAX_MARKERS_AS_VECTORS,
            )
            axes.set_title(f"{panel} (mean {rows['mean'].mean():.3f})")
            axes.set_ylim(low - margin, high + margin)
        figure.supxlabel(f"inputs, by their reward std under {panels[0]}", fontsize=9)
        grid[0].set_ylabel("reward mean")
        colours = ScalarMappable(Normalize(0, largest), COLORMAP)
        figure.colorbar(colours, ax=list(grid), label=f"reward std ({reward})", pad=0.02)
        if title:
            figure.suptitle(title)
    return figure


def example_inputs(table: pd.DataFrame) -> tuple[int, int]:
    """The inputs of Figure 5: of small std and of large std, as positions in `table` (columns mean, std).

    Small: the median by mean of the tenth with the smallest std, leaving out near-optimal means (above 0.9);
    large: the median by mean of the tenth with the largest.
    """
    candidates = table[table["mean"] <= 0.9]
    candidates = candidates if len(candidates) else table
    count = max(1, len(candidates) // 10)
    ordered = candidates.sort_values("std", kind="stable")
    chosen = []
    for part in (ordered.head(count), ordered.tail(count)):
        chosen.append(int(part.sort_values("mean", kind="stable").index[(len(part) - 1) // 2]))
    return chosen[0], chosen[1]


def figure5(
    prompt: str, references: Sequence[str], texts: Sequence[str], rewards: Sequence[float], title: str
) -> str:
    """One example input as text: prompt, references, generations with their rewards."""
    values = np.asarray(rewards, dtype=float)
    lines = [f"{title}: reward mean {values.mean():.3f}, std {values.std():.3f}"]
    lines += textwrap.wrap(
        f"prompt: {prompt}", 100, initial_indent="  ", subsequent_indent="    ", max_lines=8
    )
    for reference in references[:3]:
        lines += textwrap.wrap(
            f"reference: {reference}", 100, initial_indent="  ", subsequent_indent="    ", max_lines=3
        )
    for text, reward in zip(texts, values, strict=True):
        lines += textwrap.wrap(
            f"{reward:6.3f}  {text!r}", 100, initial_indent="  ", subsequent_indent=" " * 10, max_lines=3
        )
    return "\n".join(lines)
