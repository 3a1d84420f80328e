"""Does an input's reward std predict its gain, its mean reward held fixed? Within tasks, mean over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from figures.figure2_table1 import models_by_task
from figures.measured import Measured, NotTestedError
from figures.resampling import draw_weights, weigh_all, weighted_correlations
from figures.tables import signed, with_interval
from rft_diagnose.statistics import Floats, partial_correlation, percentile_interval

NAMES = ("rft", "difference")  # RFT's partial correlation, and that minus SFT's


@dataclass(frozen=True)
class GivenMean:
    """Partial correlations of the pretrain std with the gain, given the mean, of each task and over them.

    values: of each task and name of `NAMES` [tasks, 2], mean over seeds, NaN where it is not defined;
    low, high: [2], the 95% bootstrap interval over inputs of the mean over the tasks where it is;
    independent: every task has a second sample of the pretrained model, from which gains are measured.
    """

    tasks: Sequence[str]
    values: Floats
    low: Floats
    high: Floats
    independent: bool


def given_mean(inputs: pd.DataFrame) -> GivenMean:
    """Correlate std and gain, given the mean; std and mean are of the first sample. inputs: `figures.study`.

    A resample draws the inputs of a task, the same for all its seeds and rewards.
    """
    seeds: dict[str, list[Floats]] = {}
    data: dict[str, str] = {}
    independent = True
    for task, _, models in models_by_task(inputs):
        first, second = models["pretrained"], models.get("second", models["pretrained"])
        gains = [models[name]["mean"] - second["mean"] for name in ("rft", "sft")]
        seeds.setdefault(task, []).append(np.stack([first["std"], first["mean"], *gains]).astype(np.float64))
        data[task] = str(first["data"].iloc[0])
        independent = independent and "second" in models
    if not seeds:
        return GivenMean([], np.empty((0, 2)), np.full(2, np.nan), np.full(2, np.nan), independent)
    sizes = {(data[task], values.shape[1]) for task, of_task in seeds.items() for values in of_task}
    rng = np.random.default_rng(0)
    drawn: dict[str, dict[int, Floats]] = {}
    for name, size in sorted(sizes):
        drawn.setdefault(name, {})[size] = draw_weights(size, rng)
    whole = {size: weigh_all(size) for _, size in sizes}
    values = np.concatenate([_partials(of_task, whole) for of_task in seeds.values()])
    resampled = [_partials(of_task, drawn[data[task]]) for task, of_task in seeds.items()]
    low, high = percentile_interval(_mean_of_defined(np.stack(resampled)))
    return GivenMean(list(seeds), values, low, high, independent)


def measure_given_mean(numbers: GivenMean, name: str) -> Measured:
    """The lower end of the interval of the mean over tasks. Raises NotTestedError: it is defined for none."""
    if not numbers.tasks:
        raise NotTestedError("no task has finished runs of RFT and SFT")
    column = NAMES.index(name)
    by_task = dict(zip(numbers.tasks, numbers.values[:, column], strict=True))
    undefined = [task for task, value in by_task.items() if np.isnan(value)]
    left_out = f"not defined, left out: {', '.join(undefined)}"
    if len(undefined) == len(by_task):
        raise NotTestedError(left_out)
    mean, low, high = (
        float(_mean_of_defined(numbers.values)[column]),
        numbers.low[column],
        numbers.high[column],
    )
    shown = [f"{with_interval(mean, low, high, signed)} over {len(by_task) - len(undefined)} tasks"]
    shown += [
        ", ".join(f"{task} {signed(value)}" for task, value in by_task.items() if task not in undefined)
    ]
    shown += [left_out] if undefined else []
    shown += [] if numbers.independent else ["without a second sample, biased"]
    return Measured(float(low), "; ".join(shown))


def _partials(seeds: Sequence[Floats], weights: Mapping[int, Floats]) -> Floats:
    """`NAMES` of a task in each resample [R, 2], mean over seeds; NaN where they are not defined.

    seeds: std, mean, RFT's and SFT's gain [4, N] of each; weights: N -> of inputs, rows sum to 1 [R, N].
    """
    return np.mean([_partials_of_seed(values, weights[values.shape[1]]) for values in seeds], axis=0)


def _partials_of_seed(values: Floats, weights: Floats) -> Floats:
    correlations = weighted_correlations(values, weights)
    std, mean, gains = 0, 1, slice(2, 4)
    given = np.repeat(correlations[:, std, mean, None], 2, axis=1)
    partial = partial_correlation(correlations[:, std, gains], given, correlations[:, mean, gains])
    return np.stack([partial[:, 0], partial[:, 0] - partial[:, 1]], axis=1)


def _mean_of_defined(values: Floats) -> Floats:
    """Means over the first axis of what is not NaN; NaN where all are."""
    is_defined = ~np.isnan(values)
    count = is_defined.sum(0)
    total = np.where(is_defined, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
