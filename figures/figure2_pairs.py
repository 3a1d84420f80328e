"""Figure 2's pairs as a slope chart: one task under two rewards, what RFT learns by each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.style import add_title
from rft_diagnose.style import BLACK, GREY, house_style

PLACES = {"small": "reward of\nsmaller std", "large": "reward of\nlarger std"}
PANELS = {"rft": "RFT", "short": "short SFT, which sees no reward"}
APART = 0.02  # of the distance between the two places: markers of equal shares stand side by side
LEGEND_LETTERS = 44  # of a line


def figure2_pairs(
    numbers: pd.DataFrame,
    labels: Mapping[str, str],
    looks: Mapping[str, Mapping[str, Any]],
    title: str | None = None,
    is_narrow: bool = False,
) -> Figure:
    """Draw each task's share of full SFT's gain under its reward of smaller and of larger std, joined.

    Left what RFT gains, right, in grey, the short SFT phase, if it was run; bars: std over seeds; in black
    the mean over tasks. numbers: see `figures.pairs`; labels: case -> task and, in a line below, reward;
    looks: of tasks, see `task_looks`; is_narrow: for a phone.
    """
    shares = [f"{end}_{method}" for method in PANELS for end in PLACES]
    groups = numbers.groupby("data", sort=False)
    means, stds = groups[shares].mean(), groups[shares].std(ddof=1)
    methods = [method for method in PANELS if numbers[f"small_{method}"].notna().any()]
    handles = _legend_handles(numbers, labels, looks)
    with house_style():
        width = 4.0 if is_narrow else 3.0 * len(methods) + 3.4
        height = 3.6 + 0.3 * len(handles) if is_narrow else 4.2
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(1, len(methods), squeeze=False, sharey=True)[0]
        for axes, method in zip(grid, methods, strict=True):
            _draw_slopes(axes, means, stds, method, looks)
            axes.set_title(textwrap.fill(PANELS[method], 17 if is_narrow else 40))
            axes.set_xticks(range(len(PLACES)), list(PLACES.values()))
            axes.set_xlim(-0.25, 1.25)
        grid[0].set_ylabel("share of what full SFT gains (train reward)")
        grid[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        figure.legend(handles=handles, loc="outside lower left" if is_narrow else "outside right center")
        add_title(figure, title)
    return figure


def _draw_slopes(
    axes: Axes, means: pd.DataFrame, stds: pd.DataFrame, method: str, looks: Mapping[str, Mapping[str, Any]]
) -> None:
    columns = [f"{end}_{method}" for end in PLACES]
    for i, data in enumerate(means.index):
        shift = APART * (i - (len(means) - 1) / 2)
        look = dict(looks[data]) if method == "rft" else dict(looks[data]) | {"color": GREY}
        bars = stds.loc[data, columns].fillna(0)
        axes.errorbar(
            [place + shift for place in range(len(PLACES))],
            means.loc[data, columns],
            yerr=bars if bars.any() else None,
            linewidth=1.2,
            markersize=6,
            elinewidth=1,
            capsize=2,
            **look,
        )
    whole = means[columns].dropna()
    axes.plot(range(len(PLACES)), whole.mean(), color=BLACK, linewidth=3, alpha=0.85, zorder=5)
    for level in (0, 1):
        axes.axhline(
            level, color=GREY, linewidth=0.8, linestyle="solid" if level == 0 else "dotted", zorder=0
        )


def _legend_handles(
    numbers: pd.DataFrame, labels: Mapping[str, str], looks: Mapping[str, Mapping[str, Any]]
) -> list[Line2D]:
    """What stands for which task, with its two rewards and their percentiles; the mean over tasks."""
    handles = []
    for data, rows in numbers.groupby("data", sort=False):
        row = rows.iloc[0]
        task, _, small = labels.get(row["small"], row["small"]).partition("\n")
        large = labels.get(row["large"], row["large"]).partition("\n")[2]
        ends = [f"{row[f'{end}_percentile']:.3f}" for end in PLACES]
        text = f"{task}: {small} ({ends[0]}), {large} ({ends[1]})" if large else f"{data} ({', '.join(ends)})"
        text = textwrap.fill(text, LEGEND_LETTERS)
        handles.append(Line2D([], [], markersize=6, label=text, **looks[str(data)]))
    return [*handles, Line2D([], [], color=BLACK, linewidth=3, alpha=0.85, label="mean over tasks")]
