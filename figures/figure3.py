"""Figure 3 of the paper: reward, reward std and gradient norm of RFT and SFT, and of GRPO beside them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import add_title, in_order, method_look
from rft_diagnose.style import house_style

ROWS = {"reward": "train reward", "reward_std": "reward std", "grad_norm": "gradient norm"}
DASHES = {"small": "solid", "large": (0, (4, 2))}
POINTS = 8  # markers a line: they tell the methods apart without colour


def figure3(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw train reward, reward std and gradient norm (log) against epochs, a column for each environment.

    table: see `figures.runs.controlled_table`. Lines show method (colour, marker) and group of inputs by
    pretrain reward std (solid: small, dashed: large): the mean over runs, with their std as a band
    where there are several. Environments with an unfinished run are marked "partial".
    """
    environments = list(dict.fromkeys(table["environment"]))
    with house_style():
        figure = Figure(figsize=(3.4 * len(environments) + 0.8, 7.2), layout="constrained")
        grid = figure.subplots(len(ROWS), len(environments), squeeze=False, sharex="col")
        for column, environment in enumerate(environments):
            part = table[table["environment"] == environment]
            for row, (quantity, label) in enumerate(ROWS.items()):
                axes = grid[row][column]
                _draw(axes, part, quantity)
                if column == 0:
                    axes.set_ylabel(label)
            partial = "" if part["finished"].all() else "\n(partial: unfinished runs)"
            grid[0][column].set_title(environment + partial, fontsize="medium")
            grid[-1][column].set_xlabel("epoch")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2 if len(environments) == 1 else _legend_columns(figure, labels),
            title="inputs by their reward std under the pretrained model",
            handlelength=4 if len(labels) <= 4 else 3,  # of RFT and SFT alone there is room
        )
        add_title(figure, title)
    return figure


def _legend_columns(figure: Figure, labels: Sequence[str]) -> int:
    """Count the columns, at most four, that a figure has room for."""
    inches = 0.6 + 0.055 * max(map(len, labels))  # the line, and the letters
    return min(4, int(figure.get_figwidth() / inches))


def _draw(axes: Axes, part: pd.DataFrame, quantity: str) -> None:
    for number, method in enumerate(in_order(part["method"].unique())):
        color, marker = method_look(method, number)
        for group, dashes in DASHES.items():
            lines = part[(part["method"] == method) & (part["group"] == group)]
            if lines.empty:
                continue
            by_epoch = lines.groupby("epoch")[quantity]
            mean = by_epoch.mean()
            step = max(1, len(mean) // POINTS)
            axes.plot(
                mean.index,
                mean,
                color=color,
                linestyle=dashes,
                marker=marker,
                markevery=(number * step // 2, step),  # of lines that coincide all are seen
                markersize=4,
                markerfacecolor="white" if group == "large" else None,
                label=f"{method}, {group} std",
            )
            if lines["run"].nunique() > 1:
                std = by_epoch.std(ddof=0)
                axes.fill_between(mean.index, mean - std, mean + std, color=color, alpha=0.2, lw=0)
    if quantity == "grad_norm":
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(True, alpha=0.3)
