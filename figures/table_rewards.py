"""The mean rewards of every task under every model, on train and test inputs: RFT, SFT, RFT after SFT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from figures.figure2_table1 import models_by_task
from figures.study import METHODS
from figures.tables import percent, signed, with_interval, with_std
from rft_diagnose.statistics import (
    Difference,
    Floats,
    dead,
    normal_quantile,
    paired_difference,
    std_percentile,
)

SPLITS = ("train", "test")
# Sums of models' rewards: method -> its sign.
DIFFERENCES = {
    "over_rft": {"sft_rft": 1, "rft": -1},
    "over_sft": {"sft_rft": 1, "sft": -1},
    "over_short": {"short_rft": 1, "short": -1},
    "gain": {"short_rft": 1, "short": -1, "rft": -1, "pretrained": 1},
}
SHOWN_DIFFERENCES = {
    "over_rft": f"{METHODS['sft_rft']} minus {METHODS['rft']}",
    "over_sft": f"{METHODS['sft_rft']} minus {METHODS['sft']}",
    "over_short": f"{METHODS['short_rft']} minus {METHODS['short']}",
    "gain": f"gain of RFT after {METHODS['short']} minus alone",
}


def rewards_numbers(inputs: pd.DataFrame) -> pd.DataFrame:
    """Mean rewards over seeds, a row per task and split; NaN where there is no run.

    Tasks come by the percentile of Figure 2. Columns: task, split, dead (share of the split's inputs without
    gradient under the pretrained model), for each of `METHODS` the mean reward and its `_std` over seeds
    (ddof 1), for each of `DIFFERENCES` the mean difference and its 95% interval `_low`, `_high`, inputs,
    seeds. The pretrained model's train reward is that of both its samples, as in Figure 2. inputs: see
    `figures.study`.
    """
    rows = []
    order: dict[str, float] = {}
    for split in SPLITS:
        seeds: dict[str, list[Mapping[str, pd.DataFrame]]] = {}
        for task, _, models in models_by_task(inputs, needed=("pretrained",), split=split):
            seeds.setdefault(task, []).append(models)
        for task, group in seeds.items():
            first = group[0]["pretrained"]
            percentile, _ = std_percentile(first["mean"].to_numpy(), first["std"].to_numpy())
            order.setdefault(task, percentile)
            rows.append({"task": task, "split": split} | _row(group))
    values = [f"{method}{end}" for method in METHODS for end in ("", "_std")]
    differences = [f"{name}{end}" for name in DIFFERENCES for end in ("", "_low", "_high")]
    columns = ["task", "split", "dead", *values, *differences, "inputs", "seeds"]
    tasks = sorted(order, key=lambda task: order[task])
    rows.sort(key=lambda row: (tasks.index(row["task"]), SPLITS.index(row["split"])))
    return pd.DataFrame(rows, columns=columns)


def rewards_shown(numbers: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Write `rewards_numbers` as text; labels: task -> how it is called."""
    rows = numbers.to_dict("records")

    def models(method: str) -> list[str]:
        return [with_std(row[method], row[f"{method}_std"]) for row in rows]

    def difference(name: str) -> list[str]:
        return [with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], signed) for row in rows]

    return pd.DataFrame(
        {
            "task": [labels.get(row["task"], row["task"]) for row in rows],
            "inputs": numbers["split"],
            "dead": [percent(row["dead"]) for row in rows],
            **{label: models(method) for method, label in METHODS.items()},
            **{label: difference(name) for name, label in SHOWN_DIFFERENCES.items()},
            "seeds": numbers["seeds"],
        }
    )


def _row(seeds: Sequence[Mapping[str, pd.DataFrame]]) -> dict[str, Any]:
    """The numbers of a task and split. seeds: each one's models, with their rows by input."""
    starts = [models["pretrained"] for models in seeds]
    row: dict[str, Any] = {"dead": np.mean([dead(start["mean"], start["std"]).mean() for start in starts])}
    for method in METHODS:
        means = [mean_rewards(models, method).mean() for models in seeds if method in models]
        row[method] = np.mean(means) if means else math.nan
        # The pretrained model's statistics are the same runs for every seed.
        row[f"{method}_std"] = np.std(means, ddof=1) if len(set(means)) > 1 else math.nan
    for name, signs in DIFFERENCES.items():
        complete = [models for models in seeds if signs.keys() <= models.keys()]
        terms = [
            [sign * mean_rewards(models, method) for method, sign in signs.items()] for models in complete
        ]
        difference = seeds_difference([np.sum(rewards, axis=0) for rewards in terms])
        row |= {name: difference.mean, f"{name}_low": difference.low, f"{name}_high": difference.high}
    return row | {"inputs": len(starts[0]), "seeds": len(seeds)}


def mean_rewards(models: Mapping[str, pd.DataFrame], method: str) -> Floats:
    """Mean rewards of the inputs [N]; the pretrained model's are over both its samples, if there are two."""
    rewards = models[method]["mean"].to_numpy(dtype=np.float64)
    if method != "pretrained" or "second" not in models:
        return rewards
    return (rewards + models["second"]["mean"].to_numpy(dtype=np.float64)) / 2


def seeds_difference(seeds: Sequence[Floats]) -> Difference:
    """Mean difference with its 95% interval: Student's over seeds; with one seed, normal over its inputs.

    seeds: the inputs' differences [N] of each.
    """
    if not seeds:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    difference = paired_difference([values.mean() for values in seeds], np.zeros(len(seeds)))
    if difference.pairs > 1:
        return difference
    (values,) = seeds
    half = (
        normal_quantile() * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else math.nan
    )
    return Difference(difference.mean, math.nan, difference.mean - half, difference.mean + half, 1)
