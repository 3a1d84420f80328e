"""Statistics that packages share: percentile of reward stds, correlations, intervals, paired differences."""

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


def std_percentile(
    mean: Floats, std: Floats, selection_mean: Floats | None = None, near_optimal: float = NEAR_OPTIMAL_MEAN
) -> tuple[float, int]:
    """10th percentile of the reward std over inputs that are not near-optimal, and how many these are.

    A small std matters only where the mean is not high already: inputs with a mean above `near_optimal` (0.9
    of the range; Figure 2) are left out. mean, std: [N]; selection_mean: the means to select by (those of the
    pretrained model), or None. NaN if no input is left.
    """
    kept = std[(mean if selection_mean is None else selection_mean) <= near_optimal]
    return (float(np.percentile(kept, 10)), len(kept)) if len(kept) else (float("nan"), 0)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation of x and y, both [N]; NaN if one of them is constant."""
    one: Floats = np.asarray(x, dtype=np.float64)
    other: Floats = np.asarray(y, dtype=np.float64)
    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return float("nan")
    one, other = one - one.mean(), other - other.mean()
    # Each to length 1 first: the product of two small variances may be 0.
    return float(np.clip((one / np.linalg.norm(one)) @ (other / np.linalg.norm(other)), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of x and y, both [N], ties at their mean rank; NaN if one of them is constant."""
    return pearson(_ranks(x), _ranks(y))


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float:
    """Rank correlation of x and y, all [N], without what the ranks of `given` explain linearly of both.

    NaN if they explain all of one.
    """
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz**2) * (1 - yz**2)
    return float(np.clip((xy - xz * yz) / np.sqrt(left), -1, 1)) if left > 1e-12 else float("nan")


def rank_interval(correlation: float, n: int, given: int = 0) -> tuple[float, float]:
    """95% interval of a rank correlation over n points, `given` variables held fixed.

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
    """95% percentile bootstrap interval of each number that `statistic` gives for a resample.

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
    ends = np.full((2, values.shape[1]), np.nan)
    for column, of_column in enumerate(values.T):
        defined = of_column[~np.isnan(of_column)]
        if len(defined) >= FEWEST_DEFINED * resamples:
            ends[:, column] = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return ends[0], ends[1]


def paired_difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """first - second, pair by pair (runs of the same seed). first, second: [N], N >= 1."""
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
    """How many standard errors reach to either end of a 95% interval of a normal variable."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
