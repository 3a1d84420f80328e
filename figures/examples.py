"""Figure 5 of the paper as a picture: an input of small and one of large reward std, texts and rewards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.grue import example_inputs
from figures.style import BLUE, GREY, ORANGE, house_style

KINDS = ("small", "large")
COLUMN = 54  # characters of a line
MOST_GENERATIONS = 10
FONT_SIZE = 7.5


def figure5_numbers(extraction: dict[str, Any], reward: str) -> pd.DataFrame:
    """The generations of the two example inputs of an extraction, see `example_inputs`.

    Columns: kind (small, large: reward std), input (position), id, prompt, reference (the first), generation,
    reward.
    """
    values = extraction["all_metric_values"][reward].double().numpy()
    table = pd.DataFrame({"mean": values.mean(1), "std": values.std(1)})
    parts = []
    for kind, i in zip(KINDS, example_inputs(table), strict=True):
        references = extraction["references"][i]
        parts.append(
            pd.DataFrame(
                {
                    "kind": kind,
                    "input": i,
                    "id": extraction["ids"][i],
                    "prompt": extraction["prompts"][i],
                    "reference": references[0] if references else "",
                    "generation": extraction["all_generated_texts"][i],
                    "reward": values[i],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def figure5_panel(numbers: pd.DataFrame, title: str | None = None) -> Figure:
    """Left the input of small, right that of large reward std: prompt, reference, generations, rewards.

    numbers: see `figure5_numbers`. Long texts are cut, at most ten generations are shown.
    """
    blocks = [_lines(numbers[numbers["kind"] == kind].head(MOST_GENERATIONS)) for kind in KINDS]
    height = max(block[-1].place + len(block[-1].lines) for block in blocks)
    highest = max(1.0, float(numbers["reward"].max()))
    with house_style():
        figure = Figure(figsize=(10, 0.14 * height + 0.8), layout="constrained")
        grid = figure.subplots(1, 2)
        for axes, kind, block in zip(grid, KINDS, blocks, strict=True):
            rewards = numbers[numbers["kind"] == kind]["reward"]
            axes.set_title(
                f"{kind} reward std: {rewards.std(ddof=0):.3f}, mean {rewards.mean():.3f}", loc="left"
            )
            _draw(axes, block, height, highest, ORANGE if kind == "small" else BLUE)
        if title:
            figure.suptitle(title)
    return figure


class Line(NamedTuple):
    """A wrapped text and the line that it begins at; head: what it is, or its reward."""

    place: int
    head: str | float
    lines: list[str]


def _lines(rows: pd.DataFrame) -> list[Line]:
    """The texts of one input."""
    first = rows.iloc[0]
    texts: list[tuple[str | float, str, int]] = [
        ("prompt", first["prompt"], 6),
        ("reference", first["reference"], 2),
    ]
    texts += [(float(row["reward"]), row["generation"] or "(empty)", 2) for _, row in rows.iterrows()]
    found: list[Line] = []
    place = 0
    for head, text, most in texts:
        lines = textwrap.wrap(text, COLUMN, max_lines=most, placeholder=" ...") or [""]
        found.append(Line(place, head, lines))
        place += len(lines) + isinstance(head, str)
    return found


def _draw(axes: Axes, block: Sequence[Line], height: int, highest: float, color: str) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(height, -0.3)
    for place, head, lines in block:
        text = "\n".join(lines).replace("$", r"\$")  # dollars would be read as formulas
        style: dict[str, Any] = {"va": "top", "fontsize": FONT_SIZE, "linespacing": 1.2}
        if isinstance(head, str):
            style["color"] = "#555555"
            axes.text(0.0, place, head, **style)
        else:
            axes.text(0.07, place, f"{head:.3f}", ha="right", **style)
            axes.barh(place + 0.4, 0.1, 0.6, left=0.085, color="#EEEEEE")
            share = float(np.clip(head / highest, 0, 1))
            axes.barh(place + 0.4, 0.1 * share, 0.6, left=0.085, color=color)
        axes.text(0.2, place, text, family="monospace", **style)
    axes.axhline(block[2].place - 0.6, color=GREY, linewidth=0.6)
