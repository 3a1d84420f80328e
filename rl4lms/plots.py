"""Pictures of a training run, drawn from its files of rows as it goes: `plots/*.png`."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import Row, atomic_path, read_rows
from common.plots import Point, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = ("train", "val", "test")
_COLUMNS = 3  # panels side by side
_STYLES: list[dict[str, Any]] = [  # told apart without colours too
    {"color": "#e69f00", "linestyle": "--", "marker": "o"},
    {"color": "black", "linestyle": "-", "marker": "D"},
    {"color": "#0072b2", "linestyle": ":", "marker": "s"},
    {"color": "#009e73", "linestyle": "-.", "marker": "^"},
]


@dataclass(frozen=True)
class Line:
    """(epoch, value) points of a line; band: half the height of the band around each, None for no band."""

    label: str
    points: list[Point]
    band: list[float] | None = None


@dataclass(frozen=True)
class Panel:
    """Lines with a title; log: the values are drawn on a logarithmic scale."""

    title: str
    lines: list[Line]
    log: bool = False


# Picture -> its panels: (title, key in the rows, key of the band's half height, logarithmic).
_PANELS: dict[str, list[tuple[str, str, str | None, bool]]] = {
    "reward": [
        ("reward of a text: mean, band: std", "rollout_info/ep_rew", "rollout_info/ep_rew_std", False),
    ],
    "reward_std": [
        ("reward std of inputs drawn more than once", "rollout_info/input_reward_std", None, False),
        ("reward std of a rollout's texts", "rollout_info/ep_rew_std", None, False),
    ],
    "kl": [
        ("KL to the reference, per token", "rollout_info/kl_div_mean", None, False),
        ("KL coefficient", "rollout_info/kl_coeff", None, False),
        ("KL reward of a text", "rollout_info/ep_kl_rew", None, False),
    ],
    "episode_length": [
        ("tokens of a text: mean, band: std", "rollout_info/ep_lens", "rollout_info/ep_lens_std", False),
    ],
    "losses": [
        ("policy loss", "ppo/policy_gradient_loss", None, False),
        ("value loss", "ppo/value_loss", None, False),
        ("entropy loss", "ppo/entropy_loss", None, False),
        ("loss", "loss", None, False),
    ],
    "update": [
        ("approximate KL of the update", "ppo/approx_kl", None, False),
        ("share of clipped ratios", "ppo/clip_fraction", None, False),
        ("explained variance of the value", "ppo/explained_variance", None, False),
        ("learning rate", "learning_rate", None, False),
    ],
    "gradient_norm": [
        ("gradient norm, before clipping", "ppo/grad_norm", None, True),
        ("gradient norm, before clipping", "grad_norm", None, True),
    ],
}
# Panels of several lines: title, label -> key. Of inputs with two texts or more in the last iterations.
_SIGNAL: list[tuple[str, dict[str, str]]] = [
    (
        "share of inputs: are their rewards alike?",
        {
            "alike, low": "signal/no_spread_low",
            "spread": "signal/spread",
            "alike, near the best": "signal/no_spread_high",
        },
    ),
    (
        "share of inputs by class",
        {
            "dead-low": "signal/dead_low",
            "uncertain": "signal/uncertain",
            "dead-high": "signal/dead_high",
            "live": "signal/live",
        },
    ),
    (
        "reward std",
        {
            "between inputs": "signal/between_std",
            "within inputs": "signal/within_std",
            "within, less KL penalty": "signal/penalised_within_std",
        },
    ),
    ("inputs seen twice or more in 10 iterations", {"": "signal/inputs"}),
    ("texts of such an input", {"": "signal/texts_per_input"}),
]


def draw_training(path: Path, prefix: str = "") -> list[Path]:
    """Draw what the run in `path` has recorded so far; returns the pictures, each written atomically.

    prefix: what the names of its files begin with. Nothing is drawn of what has no row yet.
    """
    pictures = training_pictures(path, prefix)
    folder = path / "plots"
    if pictures:
        folder.mkdir(exist_ok=True)
    paths = []
    for name, panels in pictures.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            figure_of(panels, _x_label(path, prefix)).savefig(temporary, format="png", dpi=110)
        paths.append(folder / f"{name}.png")
    return paths


def training_pictures(path: Path, prefix: str = "") -> dict[str, list[Panel]]:
    """The panels of each picture, by its name: of rollouts and updates, and of each family of metrics."""
    rows = [row for name in ("rollout_info", "training_info") for row in _rows(path, f"{prefix}{name}.jsonl")]
    pictures: dict[str, list[Panel]] = {}
    for name, wanted in _PANELS.items():
        panels = [Panel(title, [_line(rows, key, band)], log) for title, key, band, log in wanted]
        if recorded := [panel for panel in panels if panel.lines[0].points]:
            pictures[name] = recorded
    panels = [
        Panel(title, [_line(rows, key, None, label) for label, key in keys.items()])
        for title, keys in _SIGNAL
    ]
    if recorded := [
        Panel(panel.title, lines)
        for panel in panels
        if (lines := [line for line in panel.lines if line.points])
    ]:
        pictures["signal"] = recorded
    evaluations = {
        split: [row | row["metrics"] for row in _rows(path, f"{prefix}{split}_split_metrics.jsonl")]
        for split in SPLITS
    }
    keys = {key for rows in evaluations.values() for row in rows for key in row["metrics"]}
    for key in sorted(key for key in keys if not key.endswith("nopunct")):  # of diversity, 20 twins of others
        lines = [_line(rows, key, None, label=split) for split, rows in evaluations.items()]
        family, _, metric = key.rpartition("/")
        picture = f"evaluation_{re.sub(r'[^a-z0-9]+', '_', (family or 'metrics').lower()).strip('_')}"
        panel = Panel(metric, [line for line in lines if line.points])
        pictures.setdefault(picture, []).append(panel)
    return pictures


def figure_of(panels: Sequence[Panel], x_label: str) -> Figure:
    """The panels in a grid."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = (7.0, 4.2) if columns == 1 else (4.6 * columns, 3.2 * rows)
    figure = Figure(figsize=(width, height))
    # In inches, by hand: a computed layout of 40 panels would take ten times as long as drawing them.
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - 0.2 / width,
        bottom=0.55 / height,
        top=1 - 0.35 / height,
        wspace=0.25,
        hspace=0.4,
    )
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw(axes, panel)
        axes.set_xlabel(x_label)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    log = panel.log and any(0 < value < math.inf for line in panel.lines for _, value in line.points)
    for number, line in enumerate(panel.lines):
        finite = [(epoch, value) for epoch, value in line.points if math.isfinite(value)]
        bins = thinned(finite)
        centres = [statistics.fmean(epoch for epoch, _ in points) for points in bins]
        medians = [statistics.median(value for _, value in points) for points in bins]
        style = _STYLES[SPLITS.index(line.label) if line.label in SPLITS else number if line.label else 1]
        marked = (number, max(1, len(bins) // 8))
        lost = len(line.points) - len(finite)
        label = ", ".join(
            [*([line.label] if line.label else []), *([f"{lost} values not finite"] if lost else [])]
        )
        axes.plot(
            centres, medians, label=label or None, linewidth=1.5, markersize=4, markevery=marked, **style
        )
        if len(bins) < len(finite):
            low, high = ([f(value for _, value in points) for points in bins] for f in (min, max))
            axes.fill_between(centres, low, high, color=style["color"], alpha=0.15, linewidth=0)
        elif line.band is not None and not lost:
            low = [value - half for (_, value), half in zip(line.points, line.band, strict=True)]
            high = [value + half for (_, value), half in zip(line.points, line.band, strict=True)]
            axes.fill_between(centres, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_title(panel.title, fontsize=10)
    if log:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)


def _line(rows: Sequence[Row], key: str, band: str | None, label: str = "") -> Line:
    """The line of a key over the rows that have it."""
    found = [row for row in rows if key in row]
    points = [(float(row["epoch"]), float(row[key])) for row in found]
    return Line(label, points, [float(row[band]) for row in found] if band else None)


def _rows(path: Path, name: str) -> list[Row]:
    return read_rows(path / name, "epoch")


def _x_label(path: Path, prefix: str) -> str:
    """Rows of supervised finetuning count epochs, the others iterations."""
    supervised = any("step" in row for row in _rows(path, f"{prefix}training_info.jsonl")[:1])
    return "epoch" if supervised else "iteration"
