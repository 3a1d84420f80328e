"""Group algorithms beside PPO on texts: the table, and rewards over generated tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.claims import Results
from figures.criterion import GROUPS_ITEM, HARD_TASK
from figures.figure2_table1 import models_by_task
from figures.group_measures import awake
from figures.group_runs import CURVES, GroupRun, choose_runs, dead_ids, read_group_run, spread_share
from figures.report import Item
from figures.runs import load_extraction
from figures.study import GROUP_METHODS, Source, describe_runs, extraction_file, finished, gaps, inputs_table
from figures.style import OTHER_MARKERS, save_figure
from figures.table_rewards import mean_rewards
from figures.tables import NONE, number, percent, save_table, setting, short, with_std
from rft_diagnose.statistics import dead
from rft_diagnose.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, house_style

CURVES_STEM = "groups"
GROUP_SIZE = 8
COLORS = dict(zip(GROUP_METHODS, (ORANGE, BLUE, GREEN, PURPLE, SKY, BLACK, GREY), strict=False))
TITLE = "Groups: GRPO and its kin beside PPO"
CAPTION = (
    "Rewards: train and test inputs, ten generations each. All runs of a task generate as many tokens (to "
    "within an iteration), with the task's weight of the KL penalty, at the learning rate that the study's "
    "rule chooses (after SFT, with a scaled reward, and the last four of the hard question: GRPO's). Dead: "
    "inputs without gradient under the pretrained model; awake: share of them with a mean of 0.1 or more "
    "after. Spread, dead: share of the groups with spread that are of dead inputs."
)
COLUMNS = {
    "task": "name of the task",
    "method": "algorithm, or what came before and after it",
    "learning_rate": "of the rollouts' training",
    "iterations": "updates of a group algorithm",
    "tokens": "generated in training",
    "texts_per_input": "texts generated for each train input",
    "groups_per_kept": "groups generated for each that is trained on",
    "spread_dead": "share of the groups with spread that are of dead inputs",
    "dead": "share of the train inputs that are dead under the pretrained model",
    "awake": "share of these with a mean of 0.1 or more after",
    "start": "train reward before: of the pretrained model",
    "train": "train reward after",
    "test": "test reward after",
    "seeds": "how many the means are over",
}


def groups_numbers(inputs: pd.DataFrame, runs: Sequence[GroupRun]) -> pd.DataFrame:
    """Means over seeds, a row per task and method: `COLUMNS`, with `train_std`, `test_std` (ddof 1)."""
    logged = {(run.source.task, run.source.method, run.source.seed): run.numbers for run in runs}
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    tests = {
        (task, seed): models
        for task, seed, models in models_by_task(inputs, needed=("pretrained",), split="test")
    }
    for task, seed, models in models_by_task(inputs, needed=("pretrained",)):
        start = models["pretrained"]
        for method in [name for name in GROUP_METHODS if name in models]:
            test = tests.get((task, seed), {}).get(method)
            row = {
                "dead": float(dead(start["mean"], start["std"]).mean()),
                "awake": awake(start, models[method]),
                "start": float(mean_rewards(models, "pretrained").mean()),
                "train": float(models[method]["mean"].mean()),
                "test": math.nan if test is None else float(test["mean"].mean()),
            }
            rows.setdefault((task, method), []).append(row | logged.get((task, method, seed), {}))
    numbers = []
    for (task, method), seeds in rows.items():
        frame = pd.DataFrame(seeds)
        stds = {f"{name}_std": frame[name].std(ddof=1) for name in ("train", "test")}
        numbers.append(
            {"task": task, "method": method} | frame.mean().to_dict() | stds | {"seeds": len(seeds)}
        )
    columns = [*COLUMNS, "train_std", "test_std"]
    table = pd.DataFrame(numbers, columns=columns)
    order = {name: place for place, name in enumerate(GROUP_METHODS)}
    tasks = {name: place for place, name in enumerate(dict.fromkeys(table["task"]))}
    return table.sort_values(
        ["task", "method"], key=lambda column: column.map(tasks if column.name == "task" else order)
    ).reset_index(drop=True)


def groups_shown(numbers: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Write `groups_numbers` as text; labels: task -> how it is called."""

    def column(name: str, shown: Any) -> list[str]:
        return [shown(value) for value in numbers[name]]

    def count(value: float) -> str:
        return NONE if np.isnan(value) else f"{value:,.0f}"

    return pd.DataFrame(
        {
            "task": [labels.get(task, task).replace("\n", ", ") for task in numbers["task"]],
            "algorithm": [GROUP_METHODS[method] for method in numbers["method"]],
            "learning rate": column("learning_rate", setting),
            "iterations": column("iterations", count),
            "tokens": column("tokens", count),
            "texts per input": column("texts_per_input", short),
            "groups per kept": column("groups_per_kept", short),
            "spread, dead": column("spread_dead", percent),
            "dead": column("dead", percent),
            "awake": column("awake", number),
            "train before": column("start", number),
            "train": [with_std(*pair) for pair in zip(numbers["train"], numbers["train_std"], strict=True)],
            "test": [with_std(*pair) for pair in zip(numbers["test"], numbers["test_std"], strict=True)],
            "seeds": numbers["seeds"],
        }
    )


MOSTLY = 0.75  # of the points without a value: what is left is one input's luck


def groups_figure(curves: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draw the reward of all rollouts, and of the dead inputs' below, over tokens; means over seeds.

    curves: rows of `CURVES` with `point`, of the runs at the learning rates that were chosen.
    """
    tasks = list(dict.fromkeys(curves["task"]))
    with house_style():
        figure = Figure(figsize=(3.6 * len(tasks) + 0.4, 5.6), layout="constrained")
        grid = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
        for column, task in enumerate(tasks):
            rows = curves[curves["task"] == task]
            _draw(grid[0][column], rows, "reward")
            _draw(grid[1][column], rows, "dead_reward")
            grid[0][column].set_title(labels.get(task, task))
            grid[1][column].set_xlabel("generated tokens")
        grid[0][0].set_ylabel("reward of all rollouts")
        grid[1][0].set_ylabel("of inputs that were dead")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(7, len(names)))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, quantity: str) -> None:
    if rows[quantity].isna().mean() > MOSTLY:
        axes.text(0.5, 0.5, "hardly an input was dead", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
        return
    for place, (method, color) in enumerate(COLORS.items()):
        lines = rows[rows["method"] == method].groupby("point")[["tokens", quantity]].mean()
        if not lines.empty:
            marker = ("o" + OTHER_MARKERS)[place]
            axes.plot(
                lines["tokens"], lines[quantity], color=color, marker=marker, label=GROUP_METHODS[method]
            )
    axes.set_ylim(bottom=0)


def draw_groups(
    extractions: Sequence[Source],
    trainings: Sequence[Source],
    labels: Mapping[str, str],
    results: Results,
    folder: Path,
    command: str,
) -> Item:
    """Save table and figure of the finished runs into `folder`; the inputs go into `results`.

    Raises NoRunsError: see `inputs_table`.
    """
    sources = [*extractions, *trainings]
    inputs = results.groups = inputs_table(extractions)
    with_rollouts = [source for source in finished(trainings) if source.method not in ("short", "sft")]
    runs = choose_runs([read_group_run(source, inputs) for source in with_rollouts])
    numbers = groups_numbers(inputs, runs)
    shown = groups_shown(numbers, labels)
    described = describe_runs(finished(sources))
    note = "".join(
        f" With the pretrained model {share:.0%} of the hard question's groups with spread would be of dead "
        "inputs, all inputs drawn equally often."
        for share in _expected_share(extractions, inputs)
    )
    meta = {"command": command, "missing": gaps(sources)}
    save_table(shown, numbers, folder / GROUPS_ITEM, CAPTION + note, described, **meta)
    compared = [run.curve.assign(point=range(len(run.curve))) for run in runs if run.source.method in COLORS]
    curves = pd.concat(compared)[[*CURVES, "point"]]
    tasks = [
        task
        for task in dict.fromkeys(curves["task"])
        if "ppo" in set(curves["method"][curves["task"] == task])
    ]
    curves = curves[curves["task"].isin(tasks)]
    save_figure(groups_figure(curves, labels), folder / CURVES_STEM, curves, described, **meta)
    stems = [folder / CURVES_STEM, folder / GROUPS_ITEM]
    return Item(GROUPS_ITEM, TITLE, CAPTION + note, stems, shown, described, gaps(sources))


def _expected_share(extractions: Sequence[Source], inputs: pd.DataFrame) -> list[float]:
    """`spread_share` of the hard question's pretrained model, by its second sample; [] without one."""
    for source in finished(extractions):
        if (source.task, source.method, source.sample) == (HARD_TASK, "pretrained", 2):
            assert source.path is not None
            extraction = load_extraction(extraction_file(source.path))
            rewards = extraction["all_metric_values"][source.reward].double().numpy()
            ids = dead_ids(inputs, source)
            is_dead = np.array([name in ids for name in extraction["ids"]])
            if rewards.shape[1] >= GROUP_SIZE:
                return [spread_share(rewards, is_dead, GROUP_SIZE)]
    return []
