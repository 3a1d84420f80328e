"""The figure of group algorithms: what is left of a small reward std, and what it costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rft_diagnose.style import BLACK, BLUE, GREY, ORANGE, PURPLE, house_style

# Greens from light to dark with the size of the group; markers tell all series apart without colour.
LOOKS: dict[str, dict[str, Any]] = {
    "RLOO": {"color": ORANGE, "marker": "o"},
    "Dr. GRPO, G = 8": {"color": GREY, "marker": "D", "linestyle": (0, (4, 2))},
    "GRPO, G = 2": {"color": "#BFE5D2", "marker": "<"},
    "GRPO, G = 4": {"color": "#8FD0B3", "marker": ">"},
    "GRPO, G = 8": {"color": "#4DB38A", "marker": "v"},
    "GRPO, G = 16": {"color": "#1B8F62", "marker": "h"},
    "GRPO, G = 64": {"color": "#005C3C", "marker": "P"},
    "GRPO, G infinite": {"color": BLACK, "marker": "X"},
    "kept groups, G = 8": {"color": PURPLE, "marker": "s"},
    "SFT": {"color": BLUE, "marker": "^"},
}
PANELS: dict[str, tuple[str, str, str]] = {  # title, x axis, y axis
    "gradient": (
        "(a) A small std means a small gradient",
        "reward std (0/1 rewards)",
        "expected gradient norm",
    ),
    "exponent": (
        "(b) Its square, at every finite G",
        "reward std (0/1 rewards)",
        "local power of the std",
    ),
    "amplification": (
        r"(c) GRPO lengthens it by at most $(G - 1)/\sqrt{G}$",
        "reward std (0/1 rewards)",
        "gradient norm / RLOO's",
    ),
    "time": (
        "(d) Time to a reward of 0",
        r"initial reward std ($\pm 1$ rewards)",
        "time of gradient flow until $V = 0$",
    ),
    "generations": (
        "(e) What a group with spread costs",
        "reward std (0/1 rewards)",
        "generations per kept group",
    ),
}
LINEAR = ("exponent",)  # y axes; all others are logarithmic
NOTE = (
    "One input, one right label of ten\n(d: of five), exact. GRPO divides by\nthe unbiased std. Kept "
    "groups:\n"
    "those with spread alone, each a\nstep (DAPO): as many generations\nas GRPO, in fewer steps."
)


def group_theory_figure(numbers: pd.DataFrame) -> Figure:
    """Draw norm, power, amplification, time and cost against the reward std, a line for each algorithm.

    numbers: columns panel, series, std, value (`sft_vs_rft.group_theory.group_rows`); each is drawn.
    """
    with house_style():
        figure = Figure(figsize=(11, 7), layout="constrained")
        grid = figure.subplots(2, 3)
        for axes, panel in zip(grid.flat, PANELS, strict=False):
            _draw(axes, panel, numbers[numbers["panel"] == panel])
        legend = grid.flat[-1]
        legend.axis("off")
        shown = [name for name in LOOKS if name in set(numbers["series"])]
        handles = [Line2D([], [], label=name, **_look(name)) for name in shown]
        legend.legend(handles=handles, loc="upper left", handlelength=4, title=NOTE, alignment="left")
    return figure


def _look(series: str) -> dict[str, Any]:
    return {"markersize": 4, **LOOKS[series]}


def _draw(axes: Axes, panel: str, rows: pd.DataFrame) -> None:
    title, x_label, y_label = PANELS[panel]
    axes.set_xscale("log")
    if panel not in LINEAR:
        axes.set_yscale("log")
    for name in LOOKS:
        line = rows[rows["series"] == name].sort_values("std")
        if not line.empty:
            axes.plot(line["std"], line["value"], **_look(name))
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
