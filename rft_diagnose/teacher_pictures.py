"""Pictures of a reward model as a teacher: the spread of its rewards, and what the best of n by it brings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rft_diagnose.pictures import SIZE, columns_by_name
from rft_diagnose.results import Table
from rft_diagnose.style import BLACK, BLUE, GREEN, GREY, house_style


def teacher_pictures(
    inputs: Table, summary: dict[str, Any] | None
) -> Iterator[tuple[str, str, str, Figure, Table]]:
    """Draw file name, title, caption, figure and plotted numbers of each picture; none without a teacher.

    inputs: the columns of inputs.csv; summary: the teacher's (docs/diagnosis.md).
    """
    if summary is None:
        return
    counts = counts_of_normalised_std(inputs)
    yield (
        "teacher_std",
        "Spread of the reward model's rewards",
        "Std of each prompt's normalised rewards: 1 would be the std of all rewards. A prompt far on the "
        "left teaches little, however well the reward model orders its texts.",
        normalised_std(counts, summary["std"]),
        counts,
    )
    curve = columns_by_name(summary["best_of_n"])
    caption = "What choosing the best of n texts by the reward model brings, over the KL to the policy."
    if "gold" in curve:
        caption += (
            f" Gold ({summary['gold']}) that stays behind, or falls, is what the reward model gets wrong."
        )
    yield "best_of_n", "Best of n", caption, best_of_n_curve(curve), curve


def counts_of_normalised_std(inputs: Table) -> dict[str, NDArray[Any]]:
    """Count prompts by the std of their normalised rewards, in 30 equal steps: columns low, high, count."""
    values = inputs["normalised_std"]
    counts, edges = np.histogram(values, bins=30, range=(0, max(1.0, float(values.max()))))
    return {"low": edges[:-1], "high": edges[1:], "count": counts}


def normalised_std(table: Table, mean: float) -> Figure:
    """Draw the counts of std. table: `counts_of_normalised_std`; mean: over prompts, marked."""
    with house_style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.bar(table["low"], table["count"], table["high"] - table["low"], align="edge", color=GREEN)
        axes.axvline(mean, color=BLACK, linestyle="--", label=f"mean over prompts: {mean:.3g}")
        axes.set_xlabel("std of the normalised reward within the prompt (n - 1)")
        axes.set_ylabel("prompts")
        figure.legend(loc="outside upper center")
    return figure


def best_of_n_curve(table: Table) -> Figure:
    """Draw gold, where it is known, and the reward model's own reward over the KL of the best of n.

    table: columns n, kl, reward, and of gold gold, gold_low, gold_high, gold_best.
    """
    is_known = "gold" in table
    with house_style():
        figure = Figure(figsize=(SIZE[0], 4.8 if is_known else SIZE[1]), layout="constrained")
        places = figure.subplots(2 if is_known else 1, 1, sharex=True, squeeze=False)[:, 0]
        kl, marker = table["kl"], "." if len(table["kl"]) <= 40 else None
        places[0].plot(kl, table["reward"], color=BLUE, marker=marker)
        places[0].set_ylabel("its own reward (stds)")
        if is_known:
            axes = places[1]
            axes.plot(kl, table["gold_best"], color=GREY, linestyle="--", label="best by gold itself")
            axes.plot(kl, table["gold"], color=GREEN, marker=marker, label="best by the reward model (95%)")
            if not np.isnan(table["gold_low"]).any():
                axes.fill_between(
                    kl, table["gold_low"], table["gold_high"], color=GREEN, alpha=0.2, linewidth=0
                )
            axes.set_ylabel("gold")
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncols=2)
        places[-1].set_xlabel("KL to the policy, log n - (n - 1) / n")
        top = places[0].secondary_xaxis("top")
        chosen = _labelled(table["n"])
        top.set_xticks(kl[chosen], [f"{n:g}" for n in table["n"][chosen]])
        top.set_xlabel("n")
    return figure


def _labelled(n: NDArray[Any]) -> list[int]:
    """Choose the places of n that are named: powers of two, and the last."""
    last = len(n) - 1
    powers = [2**i - 1 for i in range(last.bit_length() + 1) if 2**i - 1 <= last]
    return [*(place for place in powers if place == last or place < 0.8 * last), last]
