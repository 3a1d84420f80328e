"""The picture of a comparison: how often each model beats the first one, and by how many Elo points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rft_diagnose.style import BLACK, CURVE_COLORS, GREY, house_style
from rl4lms.compare.report import Comparison, Row, strength_rows, win_rate_rows

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH, _ROW = 6.4, 0.34  # inches; of a model by a judge
_LONGEST = 34  # letters of a model's name beside the picture


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw win rates against the first model, and Elo differences to it, with 95% intervals.

    A row a model, from the top in their order; a marker a judge. Infinite ends reach beyond the picture.
    """
    first, *others = comparison.labels
    judges = list(comparison.verdicts)
    rates = [row for row in win_rate_rows(comparison) if row["against"] == first]
    elos = [row for row in strength_rows(comparison) if row["model"] != first]
    height = 1.5 + _ROW * len(others) * max(len(judges), 2)
    with house_style():
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, rates, others, judges, "win_rate")
        _draw(right, elos, others, judges, "elo")
        left.axvline(0.5, color=BLACK, linestyle="--", linewidth=0.8)
        right.axvline(0, color=BLACK, linestyle="--", linewidth=0.8)
        left.set_xlim(0, 1)
        left.set_xlabel("win rate, ties half, 95%")
        right.set_xlabel("Elo difference, 95%")
        left.set_yticks(range(len(others)), [_shorten(label) for label in others])
        left.set_ylim(len(others) - 0.5, -0.5)
        figure.suptitle(f"against {_shorten(first, 60)}", fontsize=10)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], models: Sequence[str], judges: Sequence[str], value: str) -> None:
    """Draw a marker with its interval for each row; value: the column."""
    shown = [row[name] for row in rows for name in (value, "low", "high") if math.isfinite(row[name])]
    far = 10 * max(map(abs, shown), default=1.0) + 1
    step = 0.7 / len(judges)
    for number, judge in enumerate(judges):
        known = [row for row in rows if row["judge"] == judge and math.isfinite(row[value])]
        color = CURVE_COLORS[(number + 2) % len(CURVE_COLORS)]
        places = (
            np.array([models.index(row["model"]) for row in known]) + (number - (len(judges) - 1) / 2) * step
        )
        values = np.array([row[value] for row in known])
        ends = [np.array([np.nan_to_num(row[name], nan=row[value], posinf=far, neginf=-far) for row in known])
                for name in ("low", "high")]  # fmt: skip
        axes.errorbar(
            values,
            places,
            xerr=[values - ends[0], ends[1] - values] if known else None,
            fmt=_MARKERS[number % len(_MARKERS)],
            color=color,
            capsize=3,
            label=_shorten(judge, 40),
        )
    if value == "elo" and shown:
        margin = 0.15 * (max(*shown, 0.0) - min(*shown, 0.0)) + 5
        axes.set_xlim(min(*shown, 0.0) - margin, max(*shown, 0.0) + margin)
    elif not shown:
        axes.text(0.5, 0.5, "none, see the table", color=GREY, transform=axes.transAxes, ha="center")


def _shorten(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2 - 3) :]}"
