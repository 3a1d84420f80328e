"""Figure 1 of the paper, reward mean and std of each input under each model; Figure 5, two example inputs."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from figures.runs import extraction_table
from figures.study import METHODS
from figures.style import add_title, save_figure
from rft_diagnose.statistics import input_statistics, std_percentile
from rft_diagnose.style import BLUE, GREY, ORANGE, house_style

SHOWN_MODELS = {name: METHODS[name] for name in ("pretrained", "rft", "sft", "short_rft", "sft_rft")}
COLORMAP = "viridis"  # its lightness rises with the value: readable in black and white
MAX_MARKERS_AS_VECTORS = 2_000
NARROW_WIDTH = 4.0  # inches; of about the width of a phone


def figure1(table: pd.DataFrame, reward: str, title: str | None = None) -> Figure:
    """Draw one panel for each model: a marker per input, reward mean (y) and std (colour).

    table: columns panel (in the order of the panels), input, mean, std; a row per panel and input, the same
    inputs in each. In every panel they are ordered by their std in the first (the pretrained model).
    """
    panels = list(dict.fromkeys(table["panel"]))
    with house_style():
        figure = Figure(figsize=(3.6 * len(panels) + 0.9, 3.4), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        colours = _draw_models(list(grid), table, panels)
        figure.supxlabel(f"inputs, by their reward std under {panels[0]}", fontsize=9)
        grid[0].set_ylabel("reward mean")
        figure.colorbar(colours, ax=list(grid), label=f"reward std ({reward})", pad=0.02)
        add_title(figure, title)
    return figure


def save_scatter(extraction: Path, reward: str) -> Path:
    """Draw the one panel of an extraction's .pt file beside it; returns the picture's path."""
    table = extraction_table({"model": extraction})
    stem = extraction.with_name(f"{extraction.stem}_scatter")
    return save_figure(figure1(table, reward), stem, table, [{"path": str(extraction)}])[0]


def figure1_numbers(inputs: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What `figure1_tasks` plots for one seed: columns task, panel, input, id, mean, std.

    inputs: see `figures.study`. Panels are the models there are, the pretrained one by its first sample.
    Tasks come by the percentile of Figure 2; one without a pretrained model is left out, as its inputs have
    no order.
    """
    rows = inputs[(inputs["seed"] == seed) & (inputs["sample"] == 1) & (inputs["split"] == "train")]
    order = {}
    for task, models in rows[rows["method"] == "pretrained"].groupby("task", sort=False):
        percentile, _ = std_percentile(models["mean"].to_numpy(), models["std"].to_numpy())
        order[task] = (percentile, float(models["std"].mean()))
    parts = [
        rows[(rows["task"] == task) & (rows["method"] == method)].assign(panel=label)
        for task in sorted(order, key=lambda task: order[task])
        for method, label in SHOWN_MODELS.items()
    ]
    columns = ["task", "panel", "input", "id", "mean", "std"]
    return pd.concat([rows.head(0).assign(panel=""), *parts], ignore_index=True)[columns]


def figure1_tasks(numbers: pd.DataFrame, labels: Mapping[str, str], title: str | None = None) -> Figure:
    """Draw a row per task and a column per model: a marker per input, reward mean (y) and std (colour).

    numbers: see `figure1_numbers`; labels: task -> how it is called, with its reward. Inputs are ordered by
    their std under the pretrained model in the whole row; each row has scales of its own.
    """
    tasks = list(dict.fromkeys(numbers["task"]))
    panels = [panel for panel in SHOWN_MODELS.values() if panel in set(numbers["panel"])]
    with house_style():
        size = (2.5 * len(panels) + 1.6, 1.75 * len(tasks) + 0.8)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(tasks), len(panels), squeeze=False, sharey="row")
        for row, task in zip(grid, tasks, strict=True):
            colours = _draw_models(list(row), numbers[numbers["task"] == task], panels)
            row[0].set_ylabel(f"{labels.get(task, task)}\nreward mean")
            figure.colorbar(colours, ax=list(row), label="reward std", pad=0.01, aspect=14)
        figure.supxlabel("inputs, by their reward std under the pretrained model", fontsize=9)
        add_title(figure, title)
    return figure


def figure1_narrow(numbers: pd.DataFrame, labels: Mapping[str, str], title: str | None = None) -> Figure:
    """Draw what `figure1_tasks` does for a phone: the models of a task two by two, those that were run."""
    models = {
        str(task): [panel for panel in SHOWN_MODELS.values() if panel in set(rows["panel"])]
        for task, rows in numbers.groupby("task", sort=False)
    }
    heights = [1.5 * math.ceil(len(panels) / 2) + 0.4 for panels in models.values()]
    with house_style():
        figure = Figure(figsize=(NARROW_WIDTH, sum(heights) + 0.9), layout="constrained")
        add_title(figure, title)
        parts = figure.subfigures(len(models), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (task, panels) in zip(parts, models.items(), strict=True):
            height = math.ceil(len(panels) / 2)
            grid = list(part.subplots(height, min(2, len(panels)), squeeze=False, sharey=True).flat)
            colours = _draw_models(grid[: len(panels)], numbers[numbers["task"] == task], panels)
            for axes in grid:
                axes.title.set_fontsize(6.5)
            for axes in grid[len(panels) :]:
                axes.set_axis_off()
            part.suptitle(labels.get(task, task).replace("\n", ", "), fontsize="medium", fontweight="bold")
            part.supylabel("reward mean", fontsize=8)
            part.colorbar(colours, ax=grid, label="reward std", pad=0.02, aspect=40)
        figure.supxlabel("inputs, by their std under the pretrained model", fontsize=8)
    return figure


def _draw_models(row: Sequence[Axes], table: pd.DataFrame, panels: Sequence[str]) -> ScalarMappable:
    """Draw the panels of one task on axes that share their y axis; return what the colours mean.

    table: columns panel, input, mean, std. A panel without rows says so.
    """
    order = table[table["panel"] == panels[0]].sort_values("std", kind="stable")["input"].tolist()
    largest = max(float(table["std"].max()), 1e-12)
    low, high = float(table["mean"].min()), float(table["mean"].max())
    margin = 0.04 * max(high - low, 1e-3)
    for axes, panel in zip(row, panels, strict=True):
        by_input = table[table["panel"] == panel].set_index("input")
        axes.set_xlim(-0.02 * len(order) - 0.5, 1.02 * len(order) - 0.5)
        axes.set_ylim(low - margin, high + margin)
        if by_input.empty:
            axes.set_title(panel)
            axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=GREY)
            continue
        rows = by_input.loc[order]
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
    return ScalarMappable(Normalize(0, largest), COLORMAP)


def example_inputs(table: pd.DataFrame) -> tuple[int, int]:
    """The inputs of Figure 5: of small std and of large std, as positions in `table` (columns mean, std).

    The one of small std is the median by mean of the tenth with the smallest std, near-optimal means (above
    0.9) left out; the other is the median by mean of the tenth with the largest std, or of those in it that
    have any.
    """
    candidates = table[table["mean"] <= 0.9]
    candidates = candidates if len(candidates) else table
    count = max(1, len(candidates) // 10)
    ordered = candidates.sort_values("std", kind="stable")
    chosen = []
    largest = ordered.tail(count)
    largest = largest if largest["std"].max() == 0 else largest[largest["std"] > 0]
    for part in (ordered.head(count), largest):
        chosen.append(int(part.sort_values("mean", kind="stable").index[(len(part) - 1) // 2]))
    return chosen[0], chosen[1]


def figure5(
    prompt: str, references: Sequence[str], texts: Sequence[str], rewards: Sequence[float], title: str
) -> str:
    """Write one example input as text: prompt, references, generations with their rewards."""
    values = np.asarray(rewards, dtype=float)
    mean, std = input_statistics(values)
    lines = [f"{title}: reward mean {mean:.3f}, std {std:.3f}"]
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


KINDS = ("small", "large")
COLUMN, NARROW_COLUMN = 54, 40  # characters of a line
MOST_GENERATIONS = 10
FONT_SIZE = 7.5


def figure5_numbers(extraction: dict[str, Any], reward: str) -> pd.DataFrame:
    """The generations of the two example inputs of an extraction, see `example_inputs`.

    Columns: kind (small, large: reward std), input (position), id, prompt, reference (the first), generation,
    reward.
    """
    values = extraction["all_metric_values"][reward].double().numpy()
    mean, std = input_statistics(values)
    table = pd.DataFrame({"mean": mean, "std": std})
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


def figure5_panel(numbers: pd.DataFrame, title: str | None = None, is_narrow: bool = False) -> Figure:
    """Draw the input of small reward std left, that of large right: prompt, reference, generations, rewards.

    numbers: see `figure5_numbers`. Long texts are cut, at most ten generations are shown. is_narrow: for a
    phone, one below the other.
    """
    column = NARROW_COLUMN if is_narrow else COLUMN
    blocks = [_wrap_texts(numbers[numbers["kind"] == kind].head(MOST_GENERATIONS), column) for kind in KINDS]
    heights = [block[-1].place + len(block[-1].lines) for block in blocks]
    highest = max(1.0, float(numbers["reward"].max()))
    with house_style():
        if is_narrow:
            figure = Figure(figsize=(NARROW_WIDTH, 0.14 * sum(heights) + 1.2), layout="constrained")
            grid = figure.subplots(2, 1, height_ratios=heights)
        else:
            heights = [max(heights)] * len(heights)
            figure = Figure(figsize=(10, 0.14 * heights[0] + 0.8), layout="constrained")
            grid = figure.subplots(1, 2)
        for axes, kind, block, height in zip(grid, KINDS, blocks, heights, strict=True):
            mean, std = input_statistics(numbers[numbers["kind"] == kind]["reward"].to_numpy())
            axes.set_title(f"{kind} reward std: {std:.3f}, mean {mean:.3f}", loc="left")
            _draw(axes, block, height, highest, ORANGE if kind == "small" else BLUE)
        add_title(figure, title)
    return figure


class Line(NamedTuple):
    """A wrapped text and the line that it begins at; head: what it is, or its reward."""

    place: int
    head: str | float
    lines: list[str]


def _wrap_texts(rows: pd.DataFrame, column: int) -> list[Line]:
    """Wrap the texts of one input to lines of `column` characters."""
    first = rows.iloc[0]
    texts: list[tuple[str | float, str, int]] = [
        ("prompt", first["prompt"], 6),
        ("reference", first["reference"], 2),
    ]
    texts += [(float(row["reward"]), row["generation"] or "(empty)", 2) for _, row in rows.iterrows()]
    blocks: list[Line] = []
    place = 0
    for head, text, most in texts:
        drawable = re.sub("[\U00010000-\U0010ffff]", "\ufffd", text)  # no font here has emoji
        lines = textwrap.wrap(drawable, column, max_lines=most, placeholder=" ...") or [""]
        blocks.append(Line(place, head, lines))
        place += len(lines) + isinstance(head, str)
    return blocks


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
