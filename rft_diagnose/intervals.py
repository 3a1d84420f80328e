"""Intervals for an input's mean and std; docs/diagnosis.md states the methods and their measured coverage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.groups import Floats, Groups, Ints, Scale
from rft_diagnose.statistics import CONFIDENCE


def clopper_pearson(count: Floats | Ints, n: Ints, tail: float) -> tuple[Floats, Floats]:
    """Bound a probability exactly, each bound wrong with probability `tail` at most; count of n trials.

    With fractional counts, a sum of n numbers in [0, 1], it is conservative.
    """
    from scipy.special import betaincinv

    count, n = np.asarray(count, float), np.asarray(n, float)
    low = np.where(count > 0, betaincinv(np.maximum(count, 1e-300), n - count + 1, tail), 0.0)
    high = np.where(count < n, betaincinv(count + 1, np.maximum(n - count, 1e-300), 1 - tail), 1.0)
    return low, high


def two_value_intervals(groups: Groups, values: tuple[float, float]) -> dict[str, Floats]:
    low, high = values
    n = groups.sizes
    passed = np.add.reduceat((groups.rewards > (low + high) / 2).astype(np.int64), groups.starts)
    cases, inverse = np.unique(np.stack([passed, n]), axis=1, return_inverse=True)
    inverse = inverse.ravel()
    two_sided = clopper_pearson(cases[0], cases[1], (1 - CONFIDENCE) / 2)
    one_sided = clopper_pearson(cases[0], cases[1], 1 - CONFIDENCE)
    # sqrt(p (1 - p)) rises to p = 1/2 and falls: its extremes over an interval are at the ends, or there.
    ends = [np.sqrt(p * (1 - p)) for p in two_sided]
    largest = np.where((two_sided[0] <= 0.5) & (two_sided[1] >= 0.5), 0.5, np.maximum(*ends))
    columns = {
        "mean_low": low + (high - low) * two_sided[0],
        "mean_high": low + (high - low) * two_sided[1],
        "std_low": (high - low) * np.minimum(*ends),
        "std_high": (high - low) * largest,
        "rate": cases[0] / cases[1],
        "rate_at_least": one_sided[0],
        "rate_at_most": one_sided[1],
    }
    return {name: column[inverse] for name, column in columns.items()}


def intervals(
    groups: Groups,
    scale: Scale,
    tolerance: float,
    mean: Floats,
    std: Floats,
    deviations: Floats,
    flat: NDArray[np.bool_],
) -> dict[str, Floats]:
    """Compute Student's t for means, chi-square with degrees of freedom by pooled kurtosis for stds.

    Rewards without spread: what n generations did not show may still have probability 1 - 0.05^(1/(n-1)).
    """
    from scipy.special import chdtri, stdtrit

    n, tail = groups.sizes, (1 - CONFIDENCE) / 2
    several = np.maximum(n, 2)
    half = stdtrit(several - 1, 1 - tail) * std / np.sqrt(n)
    # Var(s^2) = sigma^4 (kurtosis - (n - 3) / (n - 1)) / n is a chi-square's with these degrees (Box 1953).
    degrees = 2 * several / (pooled_kurtosis(groups, deviations) - (several - 3) / (several - 1))
    degrees = np.maximum(degrees, 1.0)
    std_low = np.sqrt(degrees / chdtri(degrees, tail)) * std
    std_high = np.sqrt(degrees / chdtri(degrees, 1 - tail)) * std
    largest_std = max(scale.width, float(np.ptp(groups.rewards))) / 2  # of any distribution on the range

    unseen = 1 - (1 - CONFIDENCE) ** (1 / (several - 1))
    smallest, largest = groups.rewards[groups.starts], groups.rewards[groups.starts + n - 1]
    below, above = smallest - tolerance, largest + tolerance
    farthest = np.maximum(above - scale.low, scale.high - below)
    bulk = (1 - unseen) * ((above - below) / 2) ** 2
    flat_std = np.sqrt(bulk + unseen * farthest**2)
    mean_low = np.where(flat, (1 - unseen) * below + unseen * scale.low, mean - half)
    mean_high = np.where(flat, (1 - unseen) * above + unseen * scale.high, mean + half)
    if scale.source == "given":
        mean_low, mean_high = np.maximum(mean_low, scale.low), np.minimum(mean_high, scale.high)
    nothing = np.full(len(n), np.nan)
    return {
        "mean_low": mean_low,
        "mean_high": mean_high,
        "std_low": np.where(flat, 0.0, std_low),
        "std_high": np.minimum(np.where(flat, flat_std, std_high), largest_std),
        "rate": nothing,
        "rate_at_least": nothing,
        "rate_at_most": nothing,
    }


def pooled_kurtosis(groups: Groups, deviations: Floats) -> float:
    """Estimate the kurtosis of rewards around their input's mean, over all inputs, at least 3 (normal).

    From unbiased estimates of each input's fourth cumulant and squared variance (k-statistics), which a
    handful of generations alone could not give. deviations: [M], from the mean.
    """
    n = groups.sizes.astype(float)
    enough = n >= 4
    if not enough.any():
        return 3.0
    second, fourth = (np.add.reduceat(deviations**power, groups.starts)[enough] for power in (2, 4))
    n = n[enough]
    second, fourth = second / n, fourth / n
    cumulant = n**2 * ((n + 1) * fourth - 3 * (n - 1) * second**2) / ((n - 1) * (n - 2) * (n - 3))
    squared = ((second * n / (n - 1)) ** 2 - cumulant / n) * (n - 1) / (n + 1)
    return max(3.0, 3.0 + float(cumulant.sum() / squared.sum())) if squared.sum() > 0 else 3.0
