"""Reward statistics: an input's mean and std, thresholds, the paper's percentile, correlations, intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

SMALL_STD, LOW_MEAN, NEAR_OPTIMAL_MEAN = 0.01, 0.1, 0.9  # of rewards between 0 and 1
CONFIDENCE = 0.95
RESAMPLES = 2_000
FEWEST_DEFINED = 0.9  # share of resamples with a defined statistic, for their quantiles to mean something


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, their std (ddof 1) and the 95% Student interval of the mean.

    std, low, high: NaN for a single pair.
    """

    mean: float
    std: float
    low: float
    high: float
    pairs: int


def input_statistics(rewards: Floats) -> tuple[Floats, Floats]:
    """Compute mean and std of each input's rewards. rewards: [..., G]. Returns two [...].

    The std divides by G, as the paper's does (ddof 0).
    """
    return rewards.mean(-1), rewards.std(-1)


def grouped_moments(
    rewards: Floats, sizes: NDArray[np.int64], starts: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Compute means [N], deviations from them [M] and sums of their squares [N] of groups of any sizes.

    rewards: [M], those of a group next to each other; sizes, starts: [N]. The std (ddof 0) is
    sqrt(squares / sizes).
    """
    mean = np.add.reduceat(rewards, starts) / sizes
    deviations = rewards - np.repeat(mean, sizes)
    return mean, deviations, np.add.reduceat(deviations**2, starts)


def variance_components(sizes: NDArray[np.int64], means: Floats, squares: Floats) -> tuple[float, float]:
    """Estimate the variance within groups and between their means: one-way random effects, by moments.

    sizes, means, squares: [N], of each group, the last its sum of squared deviations; there are more values
    than groups. The variance between may come out negative.
    """
    total, groups = int(sizes.sum()), len(sizes)
    within = float(squares.sum()) / (total - groups)
    if groups == 1:
        return within, 0.0
    grand = float((sizes * means).sum()) / total
    typical = (total - float((sizes.astype(float) ** 2).sum()) / total) / (groups - 1)
    mean_square = float((sizes * (means - grand) ** 2).sum()) / (groups - 1)
    return within, (mean_square - within) / typical


def dead(
    mean: ArrayLike, std: ArrayLike, small_std: float = SMALL_STD, low_mean: float = LOW_MEAN
) -> NDArray[np.bool_]:
    """Tell which inputs carry no gradient though their reward is low: std and mean below the thresholds."""
    return (np.asarray(std) < small_std) & (np.asarray(mean) < low_mean)


def std_percentile(
    mean: Floats, std: Floats, selection_mean: Floats | None = None, near_optimal: float = NEAR_OPTIMAL_MEAN
) -> tuple[float, int]:
    """Compute the 10th percentile of the reward std over inputs that are not near-optimal; count these.

    A small std matters only where the mean is not high already: inputs with a mean above `near_optimal` (0.9
    of the range; Figure 2) are left out. mean, std: [N]; selection_mean: the means to select by (those of the
    pretrained model), or None. NaN if no input is left.
    """
    kept = std[(mean if selection_mean is None else selection_mean) <= near_optimal]
    return (float(np.percentile(kept, 10)), len(kept)) if len(kept) else (float("nan"), 0)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Compute the correlation of x and y, both [N]; NaN if one of them is constant.

    scipy.stats.pearsonr gives the same to 1e-12 and takes ten times as long, in thousands of resamples.
    """
    first: Floats = np.asarray(x, dtype=np.float64)
    second: Floats = np.asarray(y, dtype=np.float64)
    if len(first) < 2 or first.min() == first.max() or second.min() == second.max():
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    # Each to length 1 first: the product of two small variances may be 0.
    return float(np.clip((first / np.linalg.norm(first)) @ (second / np.linalg.norm(second)), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Compute the rank correlation of x and y, both [N], ties at their mean rank; NaN if one is constant."""
    return pearson(_ranks(x), _ranks(y))


def partial_correlation(xy: ArrayLike, xz: ArrayLike, yz: ArrayLike) -> Floats:
    """Compute correlations of x and y without what z explains of both, from those of the three pairs.

    All of one shape, which the result has. NaN where z explains all of one.
    """
    pair, first, second = (np.asarray(values, dtype=np.float64) for values in (xy, xz, yz))
    left = (1 - first**2) * (1 - second**2)
    left = np.where(left > 1e-12, left, np.nan)
    return np.clip((pair - first * second) / np.sqrt(left), -1, 1)


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float:
    """Compute the rank correlation of x and y, all [N], without what the ranks of `given` explain of both.

    NaN if they explain all of one.
    """
    return float(partial_correlation(spearman(x, y), spearman(x, given), spearman(y, given)))


def rank_interval(correlation: float, n: int, given: int = 0) -> tuple[float, float]:
    """Compute the 95% interval of a rank correlation over n points, `given` variables held fixed.

    Fisher's z with the standard error sqrt((1 + r^2 / 2) / (n - 3 - given)) (Bonett and Wright 2000). A
    perfect order counts as half a swap of neighbours away from it: z would be infinite, and the interval a
    point. NaN with no more than 3 + given points.
    """
    if n <= 3 + given or np.isnan(correlation):
        return float("nan"), float("nan")
    largest = 1 - 6 / (n**3 - n)
    correlation = float(np.clip(correlation, -largest, largest))
    half = normal_quantile() * np.sqrt((1 + correlation**2 / 2) / (n - 3 - given))
    z = np.arctanh(correlation)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], ArrayLike], size: int, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Compute the 95% percentile bootstrap interval of each number that `statistic` gives for a resample.

    statistic: positions [size], drawn with replacement from 0 .. size - 1 -> number or [K]. Returns [K], [K];
    NaN where more than a tenth of the resamples leave it undefined.
    """
    rng = np.random.default_rng(seed)
    values = np.stack(
        [
            np.atleast_1d(np.asarray(statistic(rng.integers(size, size=size)), dtype=np.float64))
            for _ in range(resamples)
        ]
    )
    return percentile_interval(values)


def percentile_interval(resampled: Floats) -> tuple[Floats, Floats]:
    """Compute the 95% interval between quantiles of K numbers over resamples [R, K]. Returns [K], [K].

    NaN where more than a tenth of the resamples leave the number undefined.
    """
    ends = np.full((2, resampled.shape[1]), np.nan)
    for column, values in enumerate(resampled.T):
        defined = values[~np.isnan(values)]
        if len(defined) >= FEWEST_DEFINED * len(values):
            ends[:, column] = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return ends[0], ends[1]


def paired_difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Subtract second from first, pair by pair (runs of the same seed). first, second: [N], N >= 1."""
    from scipy.stats import t

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return Difference(mean, float("nan"), float("nan"), float("nan"), 1)
    std = float(differences.std(ddof=1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / np.sqrt(n)
    return Difference(mean, std, mean - half, mean + half, n)


def _ranks(values: ArrayLike) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def normal_quantile() -> float:
    """Say how many standard errors reach to either end of a 95% interval of a normal variable."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class RewardSummary:
    """Statistics over the inputs.

    mean, std: averages over inputs of each input's mean and std; std_percentile: 10th percentile of std over
    the inputs whose mean is at most 0.9 (x axis of Figure 2), NaN if there is none; small_low: share of the
    inputs with std below `small_std` and mean below `low_mean`, with its 95% interval over inputs;
    unseen: a reward that none of G generations showed has a probability below this (95%).
    """

    inputs: int
    generations: int
    mean: float
    std: float
    std_percentile: float
    percentile_inputs: int
    small_std: float
    low_mean: float
    small_low: float
    small_low_interval: tuple[float, float]
    unseen: float


def summarise(rewards: Floats, small_std: float = SMALL_STD, low_mean: float = LOW_MEAN) -> RewardSummary:
    """Summarise rewards [N, G]."""
    from scipy.stats import binomtest

    mean, std = input_statistics(rewards)
    percentile, kept = std_percentile(mean, std)
    count, total = int(dead(mean, std, small_std, low_mean).sum()), len(mean)
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    generations = rewards.shape[1]
    return RewardSummary(
        inputs=total,
        generations=generations,
        mean=float(mean.mean()),
        std=float(std.mean()),
        std_percentile=percentile,
        percentile_inputs=kept,
        small_std=small_std,
        low_mean=low_mean,
        small_low=count / total,
        small_low_interval=(float(interval.low), float(interval.high)),
        unseen=1 - (1 - CONFIDENCE) ** (1 / generations),
    )


def describe(summary: RewardSummary, reward: str) -> list[str]:
    """Put the summary into lines for a reader."""
    low, high = summary.small_low_interval
    return [
        f"{reward}: {summary.inputs:,} inputs, {summary.generations} generations each",
        f"  mean over inputs: reward {summary.mean:.4f}, reward std {summary.std:.4f}",
        f"  10th percentile of the reward std: {summary.std_percentile:.4f} "
        f"({summary.percentile_inputs:,} inputs, without those of mean above {NEAR_OPTIMAL_MEAN})",
        f"  std below {summary.small_std:g} and mean below {summary.low_mean:g}: {summary.small_low:.1%} of "
        f"the inputs (95% interval {low:.1%} to {high:.1%})",
        f"  {summary.generations} equal rewards do not prove a std of 0: another reward may still have "
        f"a probability of up to {summary.unseen:.2f} (95%)",
    ]
