"""One task under two rewards: inputs, references, model and SFT are the same, the pretrain std is not.

Of a task's rewards those of the smallest and of the largest percentile of Figure 2 are compared (where these
are the same, a tenth of the inputs having no spread under any: of the smallest and largest mean std). Gains
are shares of what full SFT gains under the same reward, so that rewards of other scales compare.
`share_of_sft` is the share under one reward that was made to break Figure 2's confounder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from figures.criterion import LEAST_GAIN
from figures.figure2_table1 import figure2_numbers, models_by_task
from figures.measured import Measured, NotTestedError
from figures.table_rewards import mean_rewards
from figures.tables import signed, with_interval
from rft_diagnose.statistics import paired_difference

FEWEST_PAIRS = 5  # of fewer tasks no order gives the sign test a p-value of 0.05 or less
PLACES = 6  # of percentiles that are compared
METHODS = {"rft": "RFT", "short": "short SFT"}
PAIRS = {
    "data": "name of the task",
    "seed": "of the finetunings",
    "small": "the task under its reward of the smallest percentile",
    "large": "the same under that of the largest",
    "small_percentile": "the 10th percentile of the pretrain std, mean over seeds",
    "large_percentile": "of the other",
    "small_rft": "RFT's gain of train reward over full SFT's, under the one",
    "large_rft": "under the other",
    "small_short": "short SFT's gain over full SFT's, under the one",
    "large_short": "under the other",
}


def pair_numbers(inputs: pd.DataFrame) -> pd.DataFrame:
    """A row for each task of two rewards or more and each seed: `PAIRS`. inputs: see `figures.study`.

    Tasks where full SFT gains less than `LEAST_GAIN` under one of the two (mean over seeds) are left out.
    """
    cases = figure2_numbers(inputs).dropna(subset=["percentile"])
    shares, stds = {}, {}
    for task, seed, models in models_by_task(inputs):
        shares[task, seed] = {name: _share(models, name) for name in METHODS}
        stds[task] = float(models["pretrained"]["std"].mean())  # of all seeds
    cases = cases.assign(mean_std=cases["task"].map(stds), percentile=cases["percentile"].round(PLACES))
    cases = cases.sort_values(["percentile", "mean_std"])
    rows = []
    for data, group in cases.groupby("data", sort=False):
        small, large = group.iloc[0], group.iloc[-1]
        least = min(small["sft_gain"], large["sft_gain"])
        same = (small[["percentile", "mean_std"]] == large[["percentile", "mean_std"]]).all()
        if same or least < LEAST_GAIN:
            continue
        for seed in sorted(seed for task, seed in shares if task == small["task"]):
            if (large["task"], seed) not in shares:
                continue
            row = {"data": data, "seed": seed}
            for end, case in (("small", small), ("large", large)):
                values = {f"{end}_{name}": shares[case["task"], seed][name] for name in METHODS}
                row |= {end: case["task"], f"{end}_percentile": case["percentile"], **values}
            rows.append(row)
    return pd.DataFrame(rows, columns=list(PAIRS))


def _share(models: dict[str, pd.DataFrame], method: str) -> float:
    """The gain of a model over that of full SFT; NaN without the model."""
    if method not in models:
        return math.nan
    start = mean_rewards(models, "pretrained").mean()
    return float((models[method]["mean"].mean() - start) / (models["sft"]["mean"].mean() - start))


def sign_test(differences: np.ndarray) -> float:
    """How likely so many positive ones or more are, of those that are not 0, if signs were fair coins."""
    from scipy.stats import binomtest

    kept = differences[~np.isclose(differences, 0)]  # up to rounding
    if not len(kept):
        return 1.0
    return float(binomtest(int((kept > 0).sum()), len(kept), alternative="greater").pvalue)


def order_over_tasks(numbers: pd.DataFrame, method: str) -> Measured:
    """The sign test over tasks of: under the reward of the smaller std a method gains the smaller share.

    Raises NotTestedError: with so few tasks it cannot tell.
    """
    by_task = _differences(numbers, method).groupby("data", sort=False).mean()
    if len(by_task) < FEWEST_PAIRS:
        raise NotTestedError(f"{len(by_task)} tasks can be compared, {FEWEST_PAIRS} are needed")
    value = sign_test(by_task.to_numpy())
    shown = ", ".join(f"{data} {difference:+.2f}" for data, difference in by_task.items())
    return Measured(value, f"{int((by_task > 0).sum())} of {len(by_task)} tasks: {shown}")


def order_over_seeds(numbers: pd.DataFrame, method: str, minus: str | None = None) -> Measured:
    """The lower end of the interval over seeds of the mean difference of shares, over tasks of all seeds.

    minus: a method whose difference is subtracted, task by task. Raises NotTestedError.
    """
    differences = _differences(numbers, method)
    if minus is not None:
        differences = (differences - _differences(numbers, minus)).dropna()
    by_seed = differences.unstack("seed").dropna()  # a row per task
    if by_seed.empty:
        raise NotTestedError("no task has finished runs of every seed")
    if by_seed.shape[1] < 2:
        raise NotTestedError("the interval is over seeds, and there is one")
    difference = paired_difference(by_seed.mean(), np.zeros(by_seed.shape[1]))
    interval = with_interval(difference.mean, difference.low, difference.high, signed)
    return Measured(difference.low, f"{interval} over {difference.pairs} seeds, {len(by_seed)} tasks")


def share_of_sft(inputs: pd.DataFrame, task: str, worst: Callable[[Sequence[float]], float]) -> Measured:
    """The share of full SFT's gain that RFT gains on a task under its reward; the worst seed's.

    Raises NotTestedError: no run, or full SFT gains less than `LEAST_GAIN` in the mean over seeds.
    """
    rows = inputs[inputs["task"] == task]
    shares = {seed: _share(models, "rft") for _, seed, models in models_by_task(rows)}
    if not shares:
        raise NotTestedError(f"no seed has finished extractions of pretrained, RFT and SFT model of {task}")
    (case,) = figure2_numbers(rows).to_dict("records")
    if case["sft_gain"] < LEAST_GAIN:
        raise NotTestedError(f"full SFT gains {case['sft_gain']:.3f} on {task}, {LEAST_GAIN:g} are needed")
    shown = ", ".join(f"{share:.3f}" for share in shares.values())
    start = f"mean before {case['pretrain_mean']:.3f}, 10th percentile of the std {case['percentile']:.3f}"
    return Measured(worst(list(shares.values())), f"seeds {', '.join(map(str, shares))}: {shown}; {start}")


def _differences(numbers: pd.DataFrame, method: str) -> pd.Series[float]:
    """Share under the reward of the larger std minus that of the smaller, by task and seed."""
    rows = numbers.dropna(subset=[f"small_{method}", f"large_{method}"]).set_index(["data", "seed"])
    if rows.empty:
        raise NotTestedError(f"no task has finished runs of {METHODS[method]} and SFT under two rewards")
    return rows[f"large_{method}"] - rows[f"small_{method}"]
