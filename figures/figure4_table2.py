"""What helps RFT where gradients vanish: Figure 4 of the paper (a short SFT phase), Table 2 (sweeps)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import add_title
from figures.tables import percent, setting, with_interval, with_std
from rft_diagnose.statistics import Difference, normal_quantile, paired_difference
from rft_diagnose.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, house_style

SWEPT = {"learning_rate": "learning rate", "temperature": "temperature", "ent_coef": "entropy coefficient"}
SHOWN_SPLITS = {"train": "train", "test": "test"}
STAGES = {"sft": "SFT alone", "sft_rft": "SFT, then RFT"}
COLORS = (BLUE, GREEN, PURPLE, BLACK, SKY)
NO_GAIN = "RFT alone gains nothing"
NO_INTERVAL = "what RFT alone gains has no interval"
MARKERS = ("o", "s", "^", "D", "v")
APART = 0.07  # steps between the lines of one amount of SFT: markers of equal rewards stand side by side


def select_settings(runs: pd.DataFrame, base: Mapping[str, float]) -> pd.DataFrame:
    """Of RFT alone keep the trainings with its base settings, of the other methods all: they are not swept.

    base: a value for each of `SWEPT`. RFT after SFT has a learning rate of its own.
    """
    same = np.ones(len(runs), dtype=bool)
    for name, value in base.items():
        same &= np.isclose(runs[name].astype(float), value, rtol=1e-6, atol=0)
    return runs[same | (runs["method"] != "rft")]


def keep_shared_seeds(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Keep the runs of the seeds that every group by `keys` has, so that groups differ in nothing else.

    All of them stay if the groups share no seed.
    """
    seeds = [set(values) for _, values in runs.groupby(list(keys), dropna=False)["seed"]]
    shared = set.intersection(*seeds) if seeds else set()
    return runs[runs["seed"].isin(shared)] if shared else runs


def add_steps(runs: pd.DataFrame) -> pd.DataFrame:
    """Add `steps` to the runs of one task: share of the SFT steps of its full SFT, the longest on all labels.

    It is NaN where there is none to compare with.
    """
    full = runs[(runs["method"] == "sft") & (runs["sft_labels"] == 1)]["sft_updates"].max()
    return runs.assign(steps=(runs["sft_updates"].astype(float) / full).round(3))


def figure4_numbers(runs: pd.DataFrame, task: str, base: Mapping[str, float]) -> pd.DataFrame:
    """What `figure4` plots for a task: a row per split, stage and amount of SFT, as means over seeds.

    Columns: split, method (pretrained, rft, sft, sft_rft), labels and steps (shares of the full SFT's),
    reward (for sft: what RFT after it started from), reward_std (over seeds, ddof 1), share (of the reward
    after full SFT and RFT), gain (for rft and sft_rft: of RFT, with its 95% interval `gain_low`, `gain_high`,
    see `reward_gain`), gain_ratio (for sft_rft: how many times more RFT gains after this SFT than without;
    NaN unless the interval of what RFT alone gains lies above 0), seeds (those that all of them have, see
    `keep_shared_seeds`). runs: see `figures.study`; base: see `select_settings`.
    """
    rows = add_steps(select_settings(runs[runs["task"] == task], base))
    rows = keep_shared_seeds(rows, ["method", "sft_labels", "sft_updates"])
    rows = rows[rows["split"].isin(SHOWN_SPLITS)]
    keys, gains = ["split", "method", "labels", "steps"], ["gain", "gain_low", "gain_high"]
    columns = [*keys, "reward", "reward_std", "share", *gains, "gain_ratio", "seeds"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    pretrained = rows[rows["method"] == "rft"].assign(
        method="pretrained", reward=rows["start_reward"], start_reward=float("nan")
    )
    rows = pd.concat([pretrained, _sft_rows(rows), rows[rows["method"] != "sft"]], ignore_index=True)
    records: list[dict[Any, Any]] = []
    # Not by steps, which may be NaN.
    for _, group in rows.assign(labels=rows["sft_labels"]).groupby([*keys[:3], "sft_updates"]):
        cell, gain = group.iloc[0][keys].to_dict(), reward_gain(group)
        cell |= {"reward": group["reward"].mean(), "reward_std": group["reward"].std()}
        if cell["method"] in ("rft", "sft_rft"):
            cell |= dict(zip(gains, (gain.mean, gain.low, gain.high), strict=True))
        records.append(cell | {"seeds": group["seed"].nunique()})
    numbers = pd.DataFrame(records).reindex(columns=columns)
    for split in SHOWN_SPLITS:
        here = numbers["split"] == split
        full = numbers[
            here & (numbers["method"] == "sft_rft") & (numbers["labels"] == 1) & (numbers["steps"] == 1)
        ]
        alone = numbers[here & (numbers["method"] == "rft")]
        whole = full["reward"].item() if (full["reward"] > 0).any() else float("nan")
        alone_gain = alone["gain"].item() if (alone["gain_low"] > 0).any() else float("nan")
        numbers.loc[here, "share"] = numbers["reward"] / whole
        numbers.loc[here & (numbers["method"] == "sft_rft"), "gain_ratio"] = numbers["gain"] / alone_gain
    return numbers


def _sft_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of SFT alone: what RFT started from, measured on all inputs.

    An SFT on some labels evaluates itself on those inputs alone: its own train reward is left out.
    """
    keys = ["split", "seed", "sft_labels", "sft_updates"]
    starts = rows[rows["method"] == "sft_rft"]
    starts = starts.assign(method="sft", reward=starts["start_reward"], start_reward=float("nan"))
    evaluated = rows[(rows["method"] == "sft") & ((rows["sft_labels"] == 1) | (rows["split"] == "test"))]
    return pd.concat([starts, evaluated]).drop_duplicates(keys)


def figure4(numbers: pd.DataFrame, title: str | None = None, is_narrow: bool = False) -> Figure:
    """Draw reward after SFT alone and after SFT and RFT (left), and RFT's gain over that without SFT (right).

    The x axis is the share of the SFT steps, a colour stands for a share of the labels, rows are train and
    test. Without ratios there is no right part. numbers: see `figure4_numbers`; is_narrow: for a phone, all
    below each other.
    """
    steps = sorted(numbers[numbers["method"].isin(STAGES)]["steps"].dropna().unique())
    places = {value: place for place, value in enumerate(steps)}
    labels = sorted(numbers[numbers["method"].isin(STAGES)]["labels"].unique())
    with house_style():
        has_ratios = bool(numbers["gain_ratio"].notna().any())
        columns = 1 + has_ratios
        size = (4.0, 2.2 + 2.4 * 2 * columns) if is_narrow else (9.2 if has_ratios else 5.6, 6.4)
        figure = Figure(figsize=size)
        figure.set_layout_engine("constrained", hspace=0.06, wspace=0.08)
        if is_narrow:
            grid = figure.subplots(2 * columns, 1, squeeze=False).reshape(columns, 2).T
        else:
            grid = figure.subplots(2, columns, sharex=True, squeeze=False)
        for row, (split, name) in zip(grid, SHOWN_SPLITS.items(), strict=True):
            part = numbers[numbers["split"] == split]
            _draw_rewards(row[0], part, labels, places)
            row[0].set_ylabel(f"mean {name} reward")
            if has_ratios:
                row[1].set_ylabel(f"gain over gain without SFT ({name})")
                _draw_ratios(row[1], part, labels, places)
        if has_ratios:
            grid[0][0].set_title("(a) reward")
            grid[0][1].set_title("(b) how many times more RFT gains after SFT")
        else:
            grid[0][0].set_title(f"reward ({_why_no_ratio(numbers)})")
        for axes in grid.flat if is_narrow else grid[1]:
            axes.set_xticks(range(len(steps)), [percent(value) for value in steps])
            axes.set_xlim(-0.4, len(steps) - 0.6)
            axes.set_xlabel("share of the SFT steps")
        figure.legend(
            *grid[0][0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=1 if is_narrow else 1 + len(labels) if has_ratios else 2,
        )
        add_title(figure, title)
    return figure


def _why_no_ratio(part: pd.DataFrame) -> str:
    has_interval = part[part["method"] == "rft"]["gain_low"].notna().any()
    return NO_GAIN if has_interval else NO_INTERVAL


def _shift(number: int, lines: int) -> float:
    """How far right of its amount of SFT the points of a line stand, one of several."""
    return APART * (number - (lines - 1) / 2)


def _draw_rewards(axes: Axes, part: pd.DataFrame, labels: list[float], places: dict[float, int]) -> None:
    for i, share in enumerate(labels):
        for j, (method, stage) in enumerate(STAGES.items()):
            rows = part[(part["method"] == method) & (part["labels"] == share)].sort_values("steps")
            shift = _shift(len(STAGES) * i + j, len(STAGES) * len(labels))
            axes.errorbar(
                [places[value] + shift for value in rows["steps"]],
                rows["reward"],
                yerr=rows["reward_std"].fillna(0) if rows["reward_std"].notna().any() else None,
                color=COLORS[i % len(COLORS)],
                marker=MARKERS[i % len(MARKERS)],
                markerfacecolor="white" if method == "sft" else None,
                linestyle=(0, (4, 2)) if method == "sft" else "solid",
                markersize=6,
                capsize=2,
                label=f"{stage}, {percent(share)} of the labels",
            )
    for method, name, color, dashes in (
        ("rft", "RFT without SFT", ORANGE, "dashdot"),
        ("pretrained", "pretrained", GREY, "dotted"),
    ):
        for value in part[part["method"] == method]["reward"]:
            axes.axhline(value, color=color, linestyle=dashes, label=name)
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # whole markers, and lines at 0
    known = part[part["share"].notna() & (part["reward"] > 0)]
    if len(known):
        whole = float((known["reward"] / known["share"]).iloc[0])

        def to_share(reward: Any) -> Any:
            return reward / whole

        def to_reward(share: Any) -> Any:
            return share * whole

        share_axis = axes.secondary_yaxis("right", functions=(to_share, to_reward))
        share_axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        share_axis.set_ylabel("share of full SFT, then RFT")


def _draw_ratios(axes: Axes, part: pd.DataFrame, labels: list[float], places: dict[float, int]) -> None:
    rows = part[(part["method"] == "sft_rft") & part["gain_ratio"].notna()]
    for i, share in enumerate(labels):
        line = rows[rows["labels"] == share].sort_values("steps")
        axes.plot(
            [places[value] + _shift(i, len(labels)) for value in line["steps"]],
            line["gain_ratio"],
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=6,
        )
    if rows.empty:
        axes.set_axis_off()
        axes.text(0.5, 0.5, _why_no_ratio(part), transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.axhline(1, color=ORANGE, linestyle="dashdot")
    lowest = min(0, float(rows["gain_ratio"].min()))
    axes.set_ylim(bottom=lowest - 0.06 * (axes.get_ylim()[1] - lowest))  # whole markers


def table2(runs: pd.DataFrame, task: str, base: Mapping[str, float]) -> pd.DataFrame:
    """Reward of RFT with raised learning rate, temperature or entropy, one at a time, and of SFT then RFT.

    Columns: method, changed ("" for the base settings), value, labels, steps (of the SFT phase), and for
    train and test the mean over seeds, its `_std` (ddof 1) and the `_se` over inputs; seeds. runs: see
    `figures.study`; base: see `select_settings`; trainings that change several settings at once are left out.
    RFT after SFT has settings of its own, which are not changed.
    """
    rows = add_steps(runs[(runs["task"] == task) & runs["split"].isin(SHOWN_SPLITS)])
    rows = rows[rows["method"].isin(["rft", "sft_rft"])].assign(changed="", value=float("nan"), changes=0)
    for name, value in base.items():
        other = (rows["method"] == "rft") & ~np.isclose(rows[name].astype(float), value, rtol=1e-6, atol=0)
        rows.loc[other, "changed"] = name
        rows.loc[other, "value"] = rows[name].astype(float)
        rows.loc[other, "changes"] += 1
    rows = rows[rows["changes"] <= 1]
    keys = ["method", "changed", "value", "labels", "steps"]
    rows = rows.assign(labels=rows["sft_labels"])
    wide = rows.groupby(keys, dropna=False)["seed"].nunique().rename("seeds").reset_index()
    for split in SHOWN_SPLITS:
        groups = rows[rows["split"] == split].groupby(keys, dropna=False)
        values = {split: ("reward", "mean"), f"{split}_std": ("reward", "std"), f"{split}_se": ("se", "mean")}
        wide = wide.merge(groups.agg(**values).reset_index(), on=keys, how="left")
    order = ["", *SWEPT]
    records = wide.to_dict("records")

    def rank(i: int) -> tuple[bool, int, float]:
        row = records[i]
        return row["method"] == "sft_rft", order.index(row["changed"]), float(np.nan_to_num(row["value"]))

    columns = [f"{split}{end}" for split in SHOWN_SPLITS for end in ("", "_std", "_se")]
    wide = wide.iloc[sorted(range(len(records)), key=rank)].reset_index(drop=True)
    return wide[[*keys, *columns, "seeds"]]


def table2_shown(numbers: pd.DataFrame) -> pd.DataFrame:
    """Write Table 2 as text: std over seeds, or the 95% interval over the inputs of one; see `table2`."""
    rows = numbers.to_dict("records")

    def shown(row: dict[Any, Any], split: str) -> str:
        value, half = row[split], normal_quantile() * row[f"{split}_se"]
        if row["seeds"] > 1:
            return with_std(value, row[f"{split}_std"])
        return with_interval(value, value - half, value + half)

    cells = {f"{split} reward": [shown(row, split) for row in rows] for split in SHOWN_SPLITS}
    return pd.DataFrame({"": [_describe_row(row) for row in rows], **cells, "seeds": numbers["seeds"]})


def _describe_row(row: dict[Any, Any]) -> str:
    if row["method"] == "sft_rft":
        return f"SFT ({percent(row['labels'])} of the labels, {percent(row['steps'])} of the steps), then RFT"
    return f"RFT, {SWEPT[row['changed']]} {setting(row['value'])}" if row["changed"] else "RFT"


def reward_gain(rows: pd.DataFrame) -> Difference:
    """What trainings gain, rows of `runs` of one split, with the 95% interval as of `reward_difference`."""
    gains = gained(rows)
    difference = reward_difference(gains, gains.assign(reward=0.0, se=0.0))
    assert difference is not None  # the seeds are the same
    return difference


def gained(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `runs` with the gain in the place of the reward."""
    return rows.assign(reward=rows["reward"] - rows["start_reward"], se=rows["gain_se"])


def reward_difference(first: pd.DataFrame, second: pd.DataFrame) -> Difference | None:
    """Reward of `first` minus that of `second`, over their common seeds, with the 95% interval.

    Both are rows of `runs` of one split. With several seeds the interval is Student's over them;
    with one it is over inputs alone, and says nothing about other seeds; NaN if the texts were not kept.
    None without a common seed.
    """
    by_seed = [rows.groupby("seed")[["reward", "se"]].mean() for rows in (first, second)]
    pairs = by_seed[0].merge(by_seed[1], on="seed", suffixes=("_first", "_second"))
    if pairs.empty:
        return None
    difference = paired_difference(pairs["reward_first"], pairs["reward_second"])
    if difference.pairs > 1:
        return difference
    half = normal_quantile() * float(np.hypot(pairs["se_first"], pairs["se_second"]).item())
    return Difference(difference.mean, float("nan"), difference.mean - half, difference.mean + half, 1)
