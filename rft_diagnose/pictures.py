"""Pictures of the pre-flight check: which inputs carry signal, and how it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from rft_diagnose.results import Table
from rft_diagnose.style import BLACK, BLUE, CLASS_COLORS, GREEN, GREY, ORANGE, house_style

SIZE = (5.6, 3.6)  # readable at the width of a phone
CLASS_MARKERS = {"uncertain": "D", "live": "o", "dead_high": "^", "dead_low": "v"}
MAX_MARKERS = 20_000


def pictures(
    inputs: Table, summary: dict[str, Any], gradients: Sequence[Mapping[str, Any]] = ()
) -> Iterator[tuple[str, str, str, Figure, Table]]:
    """Draw file name, title, caption, figure and plotted numbers of each picture that there is something for.

    inputs: the columns of inputs.csv; summary: that of the diagnosed reward (docs/diagnosis.md); gradients: a
    row an input.
    """
    places = inputs_by_place(inputs)
    yield (
        "mean_and_std",
        "Every input",
        "Reward std over reward mean; larger markers are more inputs. At the bottom there is no signal: on "
        "the left without reward, on the right with the best.",
        mean_and_std(places),
        places,
    )
    signal = columns_by_name(summary["signal"])
    yield (
        "signal_by_group_size",
        "Which groups carry signal",
        "Share of groups whose rewards differ by more than the tolerance. A larger group costs more.",
        signal_by_group_size(signal, summary["group_size"]),
        signal,
    )
    counts = counts_of_std(inputs)
    yield (
        "std_histogram",
        "Reward std",
        "Of each input's generations. A std of 0 from few generations does not prove that it is 0.",
        std_histogram(counts, summary["std_percentile"]["value"]),
        counts,
    )
    if len(summary["over_time"]) > 1:
        steps = columns_by_name(summary["over_time"])
        yield (
            "over_time",
            "Over training",
            "A group is the generations of an input at a step. Without spread at a low reward they are the "
            "problem; near the best reward they are solved.",
            over_time(steps),
            steps,
        )
    if "change" in inputs:
        common = np.array([change is not None for change in inputs["change"]])
        changed = {
            "std_before": inputs["std_before"][common],
            "std_after": inputs["std"][common],
            "change": inputs["change"][common],
        }
        yield (
            "before_and_after",
            "Woke up, died",
            "Reward std of each input before and after; changes that chance would seldom give are marked.",
            before_and_after(changed),
            changed,
        )
    if gradients:
        rows = columns_by_name(gradients)
        diagnosed = rows["reward"] == rows["reward"][0]
        yield (
            "gradients",
            "Policy gradients",
            "Norm of the expected policy gradient of some inputs over their reward std in other texts; "
            "0 where noise has made its estimate negative. Below, the estimated bounds, where not 0.",
            gradient_norms(rows_where(rows, diagnosed)),
            rows,
        )


def columns_by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Turn rows with the same keys into columns; None among numbers becomes NaN."""
    columns: dict[str, NDArray[Any]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            columns[name] = np.array(values, dtype=object)
        else:
            columns[name] = np.array(values, dtype=float if None in values else None)
    return columns


def rows_where(table: Table, chosen: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Take the rows that are True in `chosen`, or whose numbers it has."""
    return {name: column[chosen] for name, column in table.items()}


def _shown(table: Table) -> Table:
    """Take at most MAX_MARKERS rows, by chance."""
    size = len(next(iter(table.values())))
    if size <= MAX_MARKERS:
        return table
    return rows_where(table, np.random.RandomState(0).choice(size, MAX_MARKERS, replace=False))


def inputs_by_place(inputs: Table) -> dict[str, NDArray[Any]]:
    """Count how many inputs have which mean, std and class: columns mean, std, label, count."""
    known = ~np.isnan(inputs["std"])
    mean, std = (np.round(inputs[name][known], 6) + 0.0 for name in ("mean", "std"))  # -0 is 0
    label = inputs["label"][known].astype(str)
    order = np.lexsort((label, std, mean))
    mean, std, label = mean[order], std[order], label[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (mean[1:] != mean[:-1]) | (std[1:] != std[:-1]) | (label[1:] != label[:-1])
    first = np.flatnonzero(new)
    count = np.diff(np.append(first, len(order)))
    return {"mean": mean[first], "std": std[first], "label": label[first], "count": count}


def mean_and_std(table: Table) -> Figure:
    """Draw reward std over mean, by class. table: `inputs_by_place`; the area of a marker is its count."""
    shown = _shown(table)
    area = 300 / max(20.0, float(shown["count"].max(initial=0)))
    with house_style():
        figure, axes = _axes()
        handles = []
        for label, color in CLASS_COLORS.items():
            rows = rows_where(shown, shown["label"] == label)
            count = int(table["count"][table["label"] == label].sum())
            if count:
                look: dict[str, Any] = {"color": color, "marker": CLASS_MARKERS[label]}
                axes.scatter(
                    rows["mean"],
                    rows["std"],
                    s=np.maximum(12.0, area * rows["count"]),
                    linewidths=0,
                    alpha=0.6,
                    rasterized=True,
                    **look,
                )
                name = f"{label.replace('_', '-')} ({count:,})"
                handles.append(Line2D([], [], linestyle="", label=name, **look))
        axes.set_xlabel("reward mean")
        axes.set_ylabel("reward std (n - 1)")
        axes.set_ylim(bottom=-0.06 * axes.get_ylim()[1])  # 0 is what matters; room for half a marker
        figure.legend(handles=handles, loc="outside upper center", ncols=4, handletextpad=0.1)
    return figure


def counts_of_std(inputs: Table) -> dict[str, NDArray[Any]]:
    """Count inputs by their reward std (ddof 0), in 30 equal steps: columns low, high, count."""
    values = inputs["std_ddof0"]
    counts, edges = np.histogram(values, bins=30, range=(0, float(values.max()) or 1.0))
    return {"low": edges[:-1], "high": edges[1:], "count": counts}


def std_histogram(table: Table, percentile: float | None) -> Figure:
    """Draw the counts of std. table: `counts_of_std`; percentile: the 10th of Figure 2, marked if given."""
    with house_style():
        figure, axes = _axes()
        axes.bar(table["low"], table["count"], table["high"] - table["low"], align="edge", color=GREEN)
        if percentile is not None:
            label = f"10th percentile without means near the best: {percentile:.3g}"
            axes.axvline(percentile, color=BLACK, linestyle="--", label=label)
            figure.legend(loc="outside upper center")
        axes.set_xlabel("reward std (n, as in the paper)")
        axes.set_ylabel("inputs")
    return figure


def signal_by_group_size(table: Table, planned: int) -> Figure:
    """Draw the share of a batch with signal over the group size, `planned` marked.

    table: columns group_size, share (NaN: only bounded), low, high.
    """
    with house_style():
        figure, axes = _axes()
        low, high, share = table["low"], table["high"], table["share"]
        places, known = np.arange(len(share)), ~np.isnan(share)
        axes.errorbar(
            places[known],
            share[known],
            yerr=[share[known] - low[known], high[known] - share[known]],
            fmt="o",
            color=GREEN,
            capsize=3,
            label="estimate, 95%",
        )
        if not known.all():
            axes.bar(
                places[~known],
                (high - low)[~known],
                0.3,
                bottom=low[~known],
                color=GREY,
                label="between these: too few generations for an estimate",
            )
        names = [f"{size}\n(planned)" if size == planned else f"{size}" for size in table["group_size"]]
        axes.set_xticks(places, names)
        axes.set_ylim(0, 1)
        axes.set_xlabel("group size")
        axes.set_ylabel("share of groups with signal")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def over_time(table: Table) -> Figure:
    """Draw the shares of groups without spread, and the mean reward, over the steps of a training log."""
    with house_style():
        figure = Figure(figsize=(SIZE[0], 4.6), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        step = (table["first_step"] + table["last_step"]) / 2
        top.stackplot(
            step,
            table["no_spread_low"],
            table["no_spread_high"],
            colors=[ORANGE, BLUE],
            labels=["no spread, low reward", "no spread, near the best"],
        )
        top.set_ylim(0, 1)
        top.set_ylabel("share of groups")
        bottom.plot(
            step, table["mean"], color=BLACK, marker="." if len(step) < 30 else None, label="mean reward"
        )
        bottom.plot(step, table["within_std"], color=GREEN, linestyle="--", label="reward std within inputs")
        bottom.set_ylim(bottom=min(0, float(table["mean"].min())))
        bottom.set_xlabel("step")
        for axes in (top, bottom):
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1.22), ncols=2)
    return figure


def before_and_after(table: Table) -> Figure:
    """Draw a marker per input: std after over std before.

    table: columns std_before, std_after, change (woke_up, died or "").
    """
    kinds: dict[str, dict[str, Any]] = {
        "": {"color": GREY, "marker": "o", "label": "neither"},
        "woke_up": {"color": GREEN, "marker": "^", "label": "woke up"},
        "died": {"color": ORANGE, "marker": "v", "label": "died"},
    }
    rng = np.random.default_rng(0)
    shown = _shown(table)
    top = max(*(float(np.nanmax(table[name], initial=0)) for name in ("std_before", "std_after")), 1e-12)
    with house_style():
        figure, axes = _axes()
        for change, style in kinds.items():
            rows = rows_where(shown, shown["change"] == change)
            style["label"] += f" ({int((table['change'] == change).sum()):,})"
            # Many lie at exactly 0, on top of each other: shifted a little, they show how many.
            before, after = (
                rows[name] + rng.uniform(0, 0.02 * top, len(rows["change"]))
                for name in ("std_before", "std_after")
            )
            axes.scatter(before, after, s=14, linewidths=0, alpha=0.7, rasterized=True, **style)
        axes.axline((0, 0), slope=1, color=BLACK, linewidth=0.8)
        axes.set_xlabel("reward std before")
        axes.set_ylabel("reward std after")
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def gradient_norms(table: Table) -> Figure:
    """Draw the gradient norm over reward std, and its bounds. table: std, norm and the three bounds."""
    kinds: dict[str, dict[str, Any]] = {
        "power_bound": {"color": BLACK, "marker": "^", "label": r"$6 M^{1/3} L \gamma$ std$^{2/3}$"},
        "linear_bound": {"color": ORANGE, "marker": "D", "label": r"$\sqrt{L/2}\, \gamma$ std"},
        "bound": {"color": GREY, "marker": "v", "label": r"std $\sqrt{\lambda_{max}(F)}$"},
        "norm": {"color": BLUE, "marker": "o", "label": "gradient norm"},
    }
    with house_style():
        figure = Figure(figsize=(SIZE[0], 5.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.scatter(table["std"], table["norm"], s=16, color=BLUE)
        top.set_ylim(bottom=0)
        top.set_ylabel("gradient norm")
        for name, style in kinds.items():
            rows = rows_where(table, table[name] > 0)
            bottom.scatter(rows["std"], rows[name], s=14, alpha=0.7, linewidths=0, **style)
        if (table["bound"] > 0).any():
            bottom.set_yscale("log")
            # A norm far below its bound is noise about 0: it would stretch the scale.
            bottom.set_ylim(bottom=float(table["bound"][table["bound"] > 0].min()) / 100)
        bottom.set_ylabel("norm and bounds")
        bottom.set_xlabel("reward std")
        figure.legend(loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=1)
    return figure


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()
