"""The figure of the theory: gradient norm and its bounds against reward std, the time RFT and SFT need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import METHOD_COLORS, METHOD_MARKERS
from rft_diagnose.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, house_style

Series = dict[tuple[str, str], pd.DataFrame]  # (panel, series) -> its rows of `plotted_numbers`

NEARLY_CONSTANT = "nearly constant"  # the kind of reward drawn apart: its std is small whatever the model
MIN_SHARE = 0.005  # of the models in a decade of reward std, for its largest ratio to mean something
SYMBOLS = (
    r"$\sigma$: std of the reward of one input under the model; $V$: its mean; $L$: output length; "
    r"$\gamma$: largest spectral norm of the logits' Jacobian in the parameters, over all prefixes;" + "\n"
    r"$F$: Fisher information of the output in the parameters; $M$: largest absolute reward. "
    r"With KL: $\sigma$ and $M$ of the penalised reward, gradient of $V$ minus the penalty."
)


@dataclass(frozen=True)
class Bound:
    """A bound as drawn: its column, those of the gradient norm and the std that it is about, and its look."""

    column: str
    norm: str
    std: str
    label: str
    style: dict[str, Any]


FISHER = Bound(
    "fisher_bound",
    "grad_norm",
    "std",
    r"$\sqrt{\lambda_{\max}(F)}\;\sigma$",
    {"color": GREEN, "marker": "s", "linestyle": "solid", "markersize": 3},
)
LINEAR = Bound(
    "linear_bound",
    "grad_norm",
    "std",
    r"$\sqrt{L/2}\;\gamma\,\sigma$",
    {"color": BLUE, "marker": "^", "linestyle": (0, (6, 1.5)), "markerfacecolor": "none", "markersize": 7},
)
POWER = Bound(
    "power_bound",
    "grad_norm",
    "std",
    r"$6L\,\gamma\,\sigma^{2/3}$ (Theorem 1)",
    {"color": ORANGE, "marker": "o", "linestyle": (0, (1.5, 1.2))},
)
KL = Bound(
    "kl_bound",
    "kl_grad_norm",
    "kl_std",
    r"$6M^{1/3}L\,\gamma\,\sigma^{2/3}$ (with KL)",
    {
        "color": PURPLE,
        "marker": "D",
        "linestyle": (0, (4, 1, 1, 1)),
        "markerfacecolor": "none",
        "markersize": 6,
    },
)
BOUNDS = (LINEAR, FISHER, KL, POWER)


def theory_figure(bounds_table: pd.DataFrame, rates_table: pd.DataFrame) -> Figure:
    """Draw the gradient norm, its share of each bound, and the time to V = 0, each against reward std.

    bounds_table: a row per model with a positive std, with reward (its kind), length, gamma, std, grad_norm,
    power_bound, linear_bound, fisher_bound, kl_std, kl_grad_norm, kl_bound; rates_table: a row per method
    (RFT, SFT) and initial std, with method, std, time. What is drawn is `plotted_numbers`.
    """
    numbers = plotted_numbers(bounds_table, rates_table)
    series = {(str(panel), str(name)): rows for (panel, name), rows in numbers.groupby(["panel", "series"])}
    with house_style():
        figure = Figure(figsize=(11, 4.3))
        figure.set_layout_engine("constrained", wspace=0.06)
        gradients, ratios, times = figure.subplots(1, 3, subplot_kw={"xscale": "log", "yscale": "log"})
        _draw_gradients(gradients, series)
        _draw_ratios(ratios, series)
        _draw_times(times, series, fitted_slopes(rates_table))
        figure.supxlabel(SYMBOLS, fontsize=7.5, x=0.01, ha="left", linespacing=1.5)
    return figure


def plotted_numbers(bounds_table: pd.DataFrame, rates_table: pd.DataFrame) -> pd.DataFrame:
    """Every number that `theory_figure` draws, in long form: panel, series, std (x axis), value (y axis)."""
    parts: list[pd.DataFrame] = []

    def add(panel: str, series: str, std: pd.Series | np.ndarray, value: pd.Series | np.ndarray) -> None:
        parts.append(pd.DataFrame({"panel": panel, "series": series, "std": std, "value": value}))

    # Over L gamma, Theorem 1 is one line for all models, and the linear bound is loosest at L = 1.
    normalised = bounds_table["grad_norm"] / (bounds_table["length"] * bounds_table["gamma"])
    apart = bounds_table["reward"] == NEARLY_CONSTANT
    add("gradient", NEARLY_CONSTANT, bounds_table["std"][apart], normalised[apart])
    add("gradient", "other", bounds_table["std"][~apart], normalised[~apart])
    ends = np.array([bounds_table["std"].min(), 1.0])
    add("gradient", POWER.column, ends, 6 * ends ** (2 / 3))
    add("gradient", LINEAR.column, ends, ends / np.sqrt(2))
    for bound in BOUNDS:
        std, ratio = bounds_table[bound.std], bounds_table[bound.norm] / bounds_table[bound.column]
        by_decade = ratio.groupby(np.floor(np.log10(std)))
        largest = by_decade.idxmax()[by_decade.size() >= MIN_SHARE * len(ratio)]
        add("ratio", bound.column, std[largest], ratio[largest])
    for method, rows in rates_table.sort_values("std").groupby("method"):
        add("time", str(method), rows["std"], rows["time"])
        add("time", f"{method} fit", rows["std"], _fit(str(method), rows)[1])
    return pd.concat(parts, ignore_index=True)


def fitted_slopes(rates_table: pd.DataFrame) -> dict[str, float]:
    """Least-squares slopes: RFT's of log time in log std, SFT's of time in ln(1 / std) (Theorem 2)."""
    return {str(method): _fit(str(method), rows)[0] for method, rows in rates_table.groupby("method")}


def _fit(method: str, rows: pd.DataFrame) -> tuple[float, np.ndarray]:
    """Fit a method's law: its slope, and the times that it gives at the stds of `rows`."""
    log_std, time = np.log(rows["std"].to_numpy()), rows["time"].to_numpy()
    if method == "RFT":
        slope, start = np.polyfit(log_std, np.log(time), 1)
        return float(slope), np.exp(start + slope * log_std)
    slope, start = np.polyfit(-log_std, time, 1)
    return float(slope), start - slope * log_std


def _draw_gradients(axes: Axes, series: Series) -> None:
    for name, color, marker in ((NEARLY_CONSTANT, GREY, "x"), ("other", BLACK, "o")):
        if ("gradient", name) not in series:
            continue
        models = series["gradient", name]
        label = f"{len(models):,} models, {name} rewards"
        style: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markersize": 2,
            "markeredgewidth": 0.5,
            "linestyle": "",
        }
        axes.plot(models["std"], models["value"], **style, label=label)
    for bound, label in (
        (POWER, r"$6\,\sigma^{2/3}$ (Theorem 1)"),
        (LINEAR, r"$\sigma/\sqrt{2}$ (from $\sqrt{L/2}\;\gamma\,\sigma$)"),
    ):
        line = series["gradient", bound.column]
        axes.plot(line["std"], line["value"], **bound.style | {"marker": "", "linewidth": 2}, label=label)
    axes.set_ylim(top=1e6)
    axes.set_title("(a) A small reward std means a small gradient")
    axes.set_xlabel(r"reward std $\sigma$")
    axes.set_ylabel(r"gradient norm $\|\nabla V\|$ over $L\,\gamma$")
    axes.legend(loc="upper left", markerscale=2.5)


def _draw_ratios(axes: Axes, series: Series) -> None:
    axes.axhline(1, color=BLACK, linewidth=0.8)
    axes.annotate(
        "bound reached", (1, 1), (0, 4), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
    )
    for bound in BOUNDS:
        largest = series["ratio", bound.column]
        axes.plot(largest["std"], largest["value"], **bound.style, label=bound.label)
    axes.set_ylim(1e-6, 4)
    axes.set_title("(b) How tight the bounds are")
    axes.set_xlabel(r"reward std $\sigma$")
    axes.set_ylabel("gradient norm / bound, largest of each decade")
    axes.legend(loc="lower right")


def _draw_times(axes: Axes, series: Series, slopes: dict[str, float]) -> None:
    laws = {
        "RFT": rf"RFT: $t \propto \sigma^{{{slopes['RFT']:.2f}}}$",
        "SFT": rf"SFT: $t = {slopes['SFT']:.2f}\,\ln(1/\sigma)$ + const",
    }
    for method, dashes in (("RFT", "solid"), ("SFT", (0, (6, 1.5)))):
        times, fit = series["time", method], series["time", f"{method} fit"]
        color, marker = METHOD_COLORS[method], METHOD_MARKERS[method]
        axes.plot(times["std"], times["value"], color=color, marker=marker, markersize=5, linestyle="")
        axes.plot(fit["std"], fit["value"], color=color, linestyle=dashes)
        axes.plot([], [], color=color, marker=marker, markersize=5, linestyle=dashes, label=laws[method])
    axes.set_title("(c) A small std delays RFT, hardly SFT")
    axes.set_xlabel(r"initial reward std $\sigma$")
    axes.set_ylabel("time $t$ of gradient flow until $V = 0$")
    axes.set_ylim(top=1e7)
    axes.legend(loc="upper right", title="markers: integrated; lines: fitted law", alignment="left")
