"""Numbers over all inputs: shares with their intervals, variances, signal by group size, change over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose import statistics
from rft_diagnose.classes import SIGNAL, Inputs
from rft_diagnose.groups import ROUNDING, Floats, Groups, Ints, Scale, group, most_within, spread_probability
from rft_diagnose.intervals import clopper_pearson
from rft_diagnose.statistics import CONFIDENCE, grouped_moments

GROUP_SIZES = (4, 8, 16, 32, 64)
SHORT_GROUPS = 0.05  # share of the inputs that may be left out for having too few generations


def share(chosen: NDArray[np.bool_]) -> dict[str, Any]:
    """Count the chosen inputs; give their share, and its exact 95% interval over inputs."""
    count, total = int(chosen.sum()), len(chosen)
    low, high = clopper_pearson(np.array(count), np.array(total), (1 - CONFIDENCE) / 2)
    return {"count": count, "share": count / total, "low": float(low), "high": float(high)}


def at_least(flat: NDArray[np.bool_], n: Ints, size: int) -> float:
    """Bound (95%) from below the share of inputs that are not live, though not known which these are.

    flat: [N], shows no spread, where it counts; n: [N]. A live input shows none with probability
    (1 - SIGNAL)^(n / size) at most (Finner's inequality), or if n < size, with 1 - SIGNAL times the chance
    that lowest and highest of `size` generations are among n of them.
    """
    fewer = 1 - SIGNAL * n * (n - 1) / (size * (size - 1))
    chance = np.where(n < size, fewer, (1 - SIGNAL) ** (n / size))
    chance = np.where(n > 1, chance, 0.0)  # a single generation counts for neither side
    excess = (flat - chance) / (1 - chance)
    smallest = float((-chance / (1 - chance)).min())
    scaled = (excess - smallest) / (1 - smallest)
    low, _ = clopper_pearson(np.array(scaled.sum()), np.array(len(n)), 1 - CONFIDENCE)
    return max(0.0, float(smallest + (1 - smallest) * low))


def std_percentile(inputs: Inputs, scale: Scale) -> dict[str, Any]:
    """Compute the 10th percentile of the std (ddof 0) over inputs with means up to 0.9 of the range.

    The interval is that of the bootstrap over inputs with infinitely many resamples: the rank that a
    resample's percentile has among the values is a binomial number's.
    """
    from scipy.stats import binom

    several = inputs.n > 1
    mean, std = inputs.mean[several], inputs.std_ddof0[several]
    value, n = statistics.std_percentile(mean, std, near_optimal=scale.near_best)
    kept = np.sort(std[mean <= scale.near_best])
    if n == 0:
        return {"value": None, "low": None, "high": None, "inputs": 0}
    rank = int(0.1 * (n - 1))  # of the value at or below the percentile, from 0
    # P(resample's value of that rank <= value j) = P(Bin(n, (j + 1) / n) > rank).
    reached = binom.sf(rank, n, np.arange(1, n + 1) / n)
    low, high = (
        kept[np.searchsorted(reached, tail)] for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    )
    return {"value": value, "low": float(low), "high": float(high), "inputs": n}


def variances(inputs: Inputs, groups: Groups, scale: Scale) -> dict[str, Any]:
    """Split the variance: std within inputs, between them and of all rewards; the share within.

    One-way random effects, by the method of moments: E r = mean of the input + what its generations vary.
    Rounding counts as 0.
    """
    n = inputs.n
    least = (ROUNDING * scale.width) ** 2
    batch_variance = float(groups.rewards.var())
    batch_std = math.sqrt(batch_variance) if batch_variance > least else 0.0
    if int(n.sum()) == len(n):
        return {"within_std": None, "between_std": None, "batch_std": batch_std, "within_share": None}
    within, between = statistics.variance_components(n, inputs.mean, n * inputs.std_ddof0**2)
    between = between if between > least else 0.0
    return {
        "within_std": math.sqrt(within),
        "between_std": math.sqrt(between),
        "batch_std": batch_std,
        "within_share": within / (within + between) if within + between > 0 else None,
    }


def common_size(n: Ints) -> int:
    """Find the group size that all but a twentieth of the inputs have generations for."""
    return int(np.percentile(n, 100 * SHORT_GROUPS, method="lower"))


def signal_shares(groups: Groups, width: float, sizes: Sequence[int] = GROUP_SIZES) -> list[dict[str, Any]]:
    """Estimate the share of a batch whose group of each size has spread, with 95% intervals.

    Up to the number of generations, unbiased. Beyond it `share` is None and the interval holds whatever the
    generations leave possible: with f(m) the probability that m generations show no spread, averaged over
    inputs, f(m + 1) <= f(m), and f(m + 1) / f(m) does not fall (Hausdorff; exact for discrete rewards).
    """
    largest = common_size(groups.sizes)
    rows = []
    for size in sizes:
        if size <= largest:
            spread = spread_probability(groups, width, size)
            spread = spread[~np.isnan(spread)]
            count, total = np.array(spread.sum()), np.array(len(spread))
            low, high = clopper_pearson(count, total, (1 - CONFIDENCE) / 2)
            rows.append(_row(size, float(spread.mean()), float(low), float(high)))
        elif largest < 2:
            rows.append(_row(size, None, 0.0, 1.0))
        else:
            rows.append(_beyond(groups, width, size, largest))
    return rows


def _beyond(groups: Groups, width: float, size: int, largest: int) -> dict[str, Any]:
    equal, before = (1 - spread_probability(groups, width, m) for m in (largest, largest - 1))
    before = before[~np.isnan(equal)]
    equal = equal[~np.isnan(equal)]
    total = len(equal)
    low, here = clopper_pearson(np.array((1 - equal).sum()), np.array(total), (1 - CONFIDENCE) / 2)
    steps, high = size - largest, 1.0
    if equal.mean() > 0:
        # f(size) >= f(m) (f(m) / f(m - 1))^steps; its logarithm's standard error by the delta method.
        terms = (steps + 1) * equal / equal.mean() - steps * before / before.mean()
        error = float(terms.std()) / math.sqrt(total)
        bound = (steps + 1) * math.log(equal.mean()) - steps * math.log(before.mean())
        high = max(float(here), 1 - math.exp(bound - statistics.normal_quantile() * error))
    return _row(size, None, float(low), high)


def _row(size: int, share: float | None, low: float, high: float) -> dict[str, Any]:
    return {"group_size": size, "share": share, "low": low, "high": high}


def over_time(codes: Ints, steps: Ints, rewards: Floats, scale: Scale, width: float) -> list[dict[str, Any]]:
    """Summarise each step (or stretch of steps, at most 60): groups, those without spread, rewards.

    A group is the generations of one input at one step. codes, steps, rewards: [M].
    """
    distinct, step_numbers = np.unique(steps, return_inverse=True)
    pairs, members = np.unique(step_numbers * (int(codes.max()) + 1) + codes, return_inverse=True)
    groups = group(members, rewards)
    several = groups.sizes > 1
    flat = several & (most_within(groups, width) == groups.sizes)
    best = groups.medians >= scale.near_best
    mean, _, squares = grouped_moments(groups.rewards, groups.sizes, groups.starts)
    step_of_group = pairs // (int(codes.max()) + 1)
    stretch = np.arange(len(distinct)) * min(len(distinct), 60) // len(distinct)
    rows = []
    for i in range(int(stretch[-1]) + 1):
        inside = (stretch[step_of_group] == i) & several
        if inside.any():
            freedom = int((groups.sizes[inside] - 1).sum())
            rows.append(
                {
                    "first_step": int(distinct[stretch == i][0]),
                    "last_step": int(distinct[stretch == i][-1]),
                    "groups": int(inside.sum()),
                    "no_spread": float(flat[inside].mean()),
                    "no_spread_low": float((flat & ~best)[inside].mean()),
                    "no_spread_high": float((flat & best)[inside].mean()),
                    "mean": float(np.average(mean[inside], weights=groups.sizes[inside])),
                    "within_std": math.sqrt(float(squares[inside].sum()) / freedom),
                }
            )
    return rows
