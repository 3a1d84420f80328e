"""RFT against SFT over tasks: Figure 2 of the paper with its two parts and its confounder, and Table 1."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.resampling import draw_weights, weigh_all, weighted_correlations
from figures.style import add_title
from figures.tables import percent, short, signed, with_interval
from rft_diagnose.statistics import (
    Floats,
    dead,
    partial_spearman,
    percentile_interval,
    rank_interval,
    spearman,
    std_percentile,
)
from rft_diagnose.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, house_style

NEEDED = ("pretrained", "rft", "sft")
PANELS = {
    "difference": "train reward: RFT minus SFT",
    "rft_gain": "train reward gained by RFT",
    "sft_gain": "train reward gained by SFT",
    "pretrain_mean": "train reward before finetuning",
}
TITLES = {
    "difference": "(a) RFT relative to SFT",
    "rft_gain": "(b) its one part: what RFT gains",
    "sft_gain": "(c) its other part: what SFT gains",
    "pretrain_mean": "(d) the confounder: where they start",
}
GIVEN_MEAN = "difference, given the pretrain mean"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")  # 11 and 6: pairs repeat after 66 tasks
UNDEFINED = "undefined"  # in Table 1: all rewards of a task are equal, or all gains
COLORS = (BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY)
MARKER_SIZE, COVERED = 6.5, 4.5  # and how much larger one is for each that lies on it
MOST_COVERED = 3  # more would hide the axes
FillStyle = Literal["none", "left", "full"]
FILLS: dict[FillStyle, str] = {"none": "smallest std of its rewards", "left": "between", "full": "largest"}
LEGEND_LETTERS = 36  # of a line
LINEAR_UP_TO = 0.002  # percentiles; above it the axis is logarithmic
PERCENTILE_TICKS = (0, 0.002, 0.01, 0.05, 0.2, 1, 5, 20)


def models_by_task(
    inputs: pd.DataFrame, needed: Sequence[str] = NEEDED, split: str = "train"
) -> Iterator[tuple[str, int, dict[str, pd.DataFrame]]]:
    """Yield task, seed and models' rows by input, for each task and seed that has the models `needed`.

    Models are pretrained, rft, sft, sft_rft, and "second": the pretrained model's second sample, if there is
    one.
    """
    for (task, seed), rows in inputs[inputs["split"] == split].groupby(["task", "seed"], sort=False):
        models = {
            str(method) if sample == 1 else "second": model_rows.set_index("input").sort_index()
            for (method, sample), model_rows in rows.groupby(["method", "sample"])
            if sample == 1 or method == "pretrained"
        }
        if set(needed) <= models.keys():
            yield str(task), int(str(seed)), models


def figure2_numbers(inputs: pd.DataFrame) -> pd.DataFrame:
    """What `figure2` plots: a row per task, ordered by percentile, of means over seeds with stds (ddof 1).

    Columns: task, data (see `INPUTS`), percentile (10th, of the reward std under the pretrained model,
    without the inputs whose mean under it exceeds 0.9), pretrain_mean, rft, sft, rft_gain, sft_gain,
    difference (RFT - SFT), each followed by its `_std` (NaN for one seed); dead (share of the inputs without
    gradient), inputs, seeds. Rewards are means over train inputs; the pretrained model's over both of its
    samples. inputs: see `figures.study`.
    """
    rows = []
    for task, seed, models in models_by_task(inputs):
        first, rft, sft = (models[name] for name in NEEDED)
        start = (first["mean"].mean() + models.get("second", first)["mean"].mean()) / 2
        percentile, _ = std_percentile(first["mean"].to_numpy(), first["std"].to_numpy())
        rows.append(
            {
                "task": task,
                "data": first["data"].iloc[0],
                "seed": seed,
                "percentile": percentile,
                "pretrain_mean": start,
                "rft": rft["mean"].mean(),
                "sft": sft["mean"].mean(),
                "rft_gain": rft["mean"].mean() - start,
                "sft_gain": sft["mean"].mean() - start,
                "difference": rft["mean"].mean() - sft["mean"].mean(),
                "dead": dead(first["mean"], first["std"]).mean(),
                "inputs": len(first),
            }
        )
    values = ["percentile", "pretrain_mean", "rft", "sft", "rft_gain", "sft_gain", "difference"]
    columns = [
        "task",
        "data",
        *(f"{value}{end}" for value in values for end in ("", "_std")),
        "dead",
        "inputs",
        "seeds",
    ]
    if not rows:
        return pd.DataFrame(columns=columns)
    groups = pd.DataFrame(rows).groupby(["task", "data"], sort=False)
    numbers = groups[[*values, "dead", "inputs"]].mean()
    numbers[[f"{value}_std" for value in values]] = groups[values].std(ddof=1)
    numbers["seeds"] = groups.size()
    return numbers.reset_index()[columns].sort_values("percentile", kind="stable", ignore_index=True)


def rank_correlations(numbers: pd.DataFrame) -> pd.DataFrame:
    """Rank-correlate, over cases, the percentile with each panel's y, and with (a) given the pretrain mean.

    numbers: see `figure2_numbers`. Columns: with, correlation, low, high (95%, see `rank_interval`), tasks,
    by which the interval counts: the cases of one task, which share inputs and model, are not independent.
    """
    x, n = numbers["percentile"], numbers["data"].nunique()
    correlations = (
        {name: spearman(x, numbers[name]) for name in PANELS} if n else dict.fromkeys(PANELS, float("nan"))
    )
    intervals = {name: rank_interval(value, n) for name, value in correlations.items()}
    partial = partial_spearman(x, numbers["difference"], numbers["pretrain_mean"]) if n else float("nan")
    correlations[GIVEN_MEAN] = partial
    intervals[GIVEN_MEAN] = rank_interval(partial, n, given=1)
    rows = [
        {"with": name, "correlation": value, "low": low, "high": high, "tasks": n}
        for (name, value), (low, high) in zip(correlations.items(), intervals.values(), strict=True)
    ]
    return pd.DataFrame(rows)


def figure2(
    numbers: pd.DataFrame, labels: Mapping[str, str], title: str | None = None, is_narrow: bool = False
) -> Figure:
    """Draw RFT - SFT, its two parts and the pretrain mean against the percentile, a point per case.

    numbers: see `figure2_numbers`; labels: case -> name of the task and, in a line below it, the reward. Bars
    show the std over seeds, both ways. Cases of one task, which differ in the reward alone, share colour and
    marker, are joined by a line and told apart by the filling (`FILLS`). is_narrow: for a phone.
    """
    correlations = rank_correlations(numbers).set_index("with").to_dict("index")
    handles = legend_handles(numbers, labels)
    with house_style():
        size = (4.0, 11.0 + 0.3 * len(handles)) if is_narrow else (10.4, 6.6)
        figure = Figure(figsize=size)
        figure.set_layout_engine("constrained", hspace=0.06, wspace=0.06)
        grid = figure.subplots(4 if is_narrow else 2, 1 if is_narrow else 2, sharex=True)
        for axes, (name, label) in zip(grid.flat, PANELS.items(), strict=True):
            _draw_tasks(axes, numbers, name)
            row = correlations[name]
            interval = with_interval(row["correlation"], row["low"], row["high"], signed)
            axes.set_title(f"{TITLES[name]}\nrank correlation {interval}")
            axes.set_ylabel(label)
        for axes in grid[-1:].flat:
            axes.set_xlabel("10th percentile of the reward std, pretrained")
        figure.legend(handles=handles, loc="outside lower left" if is_narrow else "outside right center")
        add_title(figure, title)
        figure.draw_without_rendering()  # only now it is known which markers meet
        for axes, name in zip(grid.flat, PANELS, strict=True):
            _enlarge_covered(axes, numbers[["percentile", name]].to_numpy())
    return figure


def task_looks(numbers: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Marker and colour of each task, by its place in Figure 2. numbers: see `figure2_numbers`."""
    return {
        str(data): {"marker": MARKERS[i % len(MARKERS)], "color": COLORS[i % len(COLORS)]}
        for i, data in enumerate(dict.fromkeys(numbers["data"]))
    }


def case_fills(numbers: pd.DataFrame) -> dict[str, FillStyle]:
    """Filling of each case's marker, by its percentile among those of its task: one of `FILLS`.

    A task's only case is filled; cases of equal percentiles are neither the smallest nor the largest.
    """
    fills: dict[str, FillStyle] = {}
    for _, cases in numbers.groupby("data", sort=False):
        low, high = cases["percentile"].min(), cases["percentile"].max()
        for row in cases.to_dict("records"):
            ends: dict[float, FillStyle] = {low: "none", high: "full"} if low < high else {}
            fills[str(row["task"])] = "full" if len(cases) == 1 else ends.get(row["percentile"], "left")
    return fills


def legend_handles(numbers: pd.DataFrame, labels: Mapping[str, str]) -> list[Line2D]:
    """What colours, markers and fillings mean: a task with its rewards in the order of their percentiles."""
    looks, fills = task_looks(numbers), case_fills(numbers)
    shared: dict[str, Any] = {"linestyle": "", "markersize": MARKER_SIZE, "markerfacecoloralt": "white"}
    handles = []
    for data, cases in numbers.groupby("data", sort=False):
        parts = [labels.get(task, task).partition("\n") for task in cases["task"]]
        rewards = " < ".join(reward for _, _, reward in parts if reward)
        text = textwrap.fill(f"{parts[0][0]}: {rewards}" if rewards else parts[0][0], LEGEND_LETTERS)
        handles.append(Line2D([], [], label=text, **looks[str(data)], **shared))
    if set(fills.values()) != {"full"}:
        for fill, text in FILLS.items():
            if fill in fills.values():
                handles.append(Line2D([], [], label=text, marker="o", color=GREY, fillstyle=fill, **shared))
    return handles


def _enlarge_covered(axes: Axes, points: np.ndarray) -> None:
    """Let a marker that later ones lie on stand out around them. points: x, y of the tasks [N, 2]."""
    markers = [c.lines[0] for c in axes.containers if isinstance(c, ErrorbarContainer)]
    places = axes.transData.transform(points) * 72 / axes.figure.dpi  # points of a printer
    for i, marker in enumerate(markers):
        distances = np.linalg.norm(places[i + 1 :] - places[i], axis=1)
        covered = min(int((distances < MARKER_SIZE).sum()), MOST_COVERED)
        marker.set_markersize(MARKER_SIZE + COVERED * covered)


def _draw_tasks(axes: Axes, numbers: pd.DataFrame, name: str) -> None:
    looks, fills = task_looks(numbers), case_fills(numbers)
    for data, cases in numbers.groupby("data", sort=False):
        if len(cases) > 1:
            color = looks[str(data)]["color"]
            axes.plot(cases["percentile"], cases[name], color=color, linewidth=0.8, alpha=0.6, zorder=0)
    for row in numbers.to_dict("records"):
        bars = {"xerr": row["percentile_std"], "yerr": row[f"{name}_std"]}
        axes.errorbar(
            row["percentile"],
            row[name],
            **{side: bar for side, bar in bars.items() if bar > 0},
            **looks[row["data"]],
            linestyle="",
            markersize=MARKER_SIZE,
            fillstyle=fills[row["task"]],
            markerfacecoloralt="white",
            elinewidth=1,
            capsize=2,
        )
    axes.margins(0.08)  # whole markers
    _set_percentile_scale(axes, float(numbers["percentile"].max()))
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)


def _set_percentile_scale(axes: Axes, largest: float) -> None:
    """Spread percentiles of several orders of magnitude along the x axis, with room for 0."""
    axes.set_xscale("symlog", linthresh=LINEAR_UP_TO, linscale=0.6)
    axes.set_xlim(-0.35 * LINEAR_UP_TO, 1.4 * max(largest, LINEAR_UP_TO))
    ticks = [tick for tick in PERCENTILE_TICKS if tick <= 1.4 * max(largest, LINEAR_UP_TO)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def table1(inputs: pd.DataFrame) -> pd.DataFrame:
    """Correlate (Pearson, over inputs) the pretrained model's reward std with the input's reward gain.

    Rows are tasks, in the order of Figure 2. The gain is the mean reward under the finetuned model minus that
    in the pretrained model's *second* sample: against the first, whose std it is compared with, chance alone
    correlates the two. Columns: task, dead, seeds, inputs, independent (False: there was no second sample),
    and for rft, sft and difference (rft - sft) the mean over seeds, its `_std` (ddof 1), and `_low`, `_high`:
    the 95% bootstrap interval over inputs, the same in all seeds; NaN where all stds or all gains are equal.
    """
    by_task: dict[str, list[Floats]] = {}
    independent: dict[str, bool] = {}
    for task, _, models in models_by_task(inputs):
        first, reference = models["pretrained"], models.get("second", models["pretrained"])
        gains = [models[name]["mean"] - reference["mean"] for name in ("rft", "sft")]
        by_task.setdefault(task, []).append(np.stack([first["std"], *gains]))
        independent[task] = independent.get(task, True) and "second" in models
    rows = []
    for row in figure2_numbers(inputs).itertuples():
        task = str(row.task)
        seeds = by_task[task]
        fixed = {"task": task, "dead": row.dead, "seeds": len(seeds), "inputs": seeds[0].shape[1]}
        rows.append(fixed | {"independent": independent[task]} | _correlations(seeds))
    names = [f"{name}{end}" for name in ("rft", "sft", "difference") for end in ("", "_std", "_low", "_high")]
    return pd.DataFrame(rows, columns=["task", "dead", "seeds", "inputs", "independent", *names])


def table1_shown(numbers: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Write Table 1 as text. numbers: see `table1`; labels: task -> how it is called."""

    def column(name: str) -> list[str]:
        ends = (numbers[name], numbers[f"{name}_low"], numbers[f"{name}_high"])
        return [
            UNDEFINED if np.isnan(row[0]) else with_interval(*row, short) for row in zip(*ends, strict=True)
        ]

    return pd.DataFrame(
        {
            "task": [
                labels.get(task, task) + ("" if independent else " (biased: one sample)")
                for task, independent in zip(numbers["task"], numbers["independent"], strict=True)
            ],
            "dead": [percent(value) for value in numbers["dead"]],
            "RFT": column("rft"),
            "SFT": column("sft"),
            "RFT minus SFT": column("difference"),
            "seeds": numbers["seeds"],
        }
    )


def _correlations(seeds: Sequence[Floats]) -> dict[str, float]:
    """The correlations of Table 1 with their intervals. seeds: std, RFT's and SFT's gain [3, N] of each."""

    def correlate(values: Floats, weights: Floats) -> Floats:
        """RFT's, SFT's, and their difference in each resample [R, 3]."""
        rft, sft = weighted_correlations(values, weights)[:, 0, 1:].T
        return np.stack([rft, sft, rft - sft], axis=1)

    size = min(values.shape[1] for values in seeds)
    weights = draw_weights(size, np.random.default_rng(0))
    low, high = percentile_interval(np.mean([correlate(v[:, :size], weights) for v in seeds], axis=0))
    each = np.concatenate([correlate(values, weigh_all(values.shape[1])) for values in seeds])
    columns = {}
    for i, name in enumerate(("rft", "sft", "difference")):
        columns[name] = float(each[:, i].mean())
        columns[f"{name}_std"] = float(each[:, i].std(ddof=1)) if len(seeds) > 1 else float("nan")
        columns[f"{name}_low"], columns[f"{name}_high"] = float(low[i]), float(high[i])
    return columns
