"""What dividing by a group's std (GRPO) makes of each input's rewards, estimated from its generations.

The advantage (r - mean) / std of the group is worth what it tells about r: its covariance with the reward is
the mean std of a group. Over the reward's std that is the *effective std*, what takes the std's place in the
paper's bound: exactly for two reward levels, from below for more (`group_signal`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rft_diagnose.group_signal import estimated_group_std, subsets_std_mean
from rft_diagnose.groups import (
    AT_A_TIME,
    ROUNDING,
    Floats,
    Groups,
    Ints,
    Scale,
    blocks,
    spread_probability,
)


@dataclass(frozen=True)
class Effects:
    """One value for each of N inputs, NaN where there are fewer generations than a group has.

    effective_std: of normalised rewards; amplification: that over the std as a share of the reward's range
    (NaN without spread); per_kept_group: generations drawn for each group whose rewards are not all equal, if
    the others are dropped (NaN: no such group seen).
    """

    effective_std: Floats
    amplification: Floats
    per_kept_group: Floats


def normalisation_effects(groups: Groups, std: Floats, scale: Scale, size: int) -> Effects:
    """Estimate what normalising in groups of `size` does. std: [N], with n - 1; 0 where rewards are equal.

    Groups are those of training, to which any difference counts, whatever the tolerance.
    """
    missing = groups.sizes < size
    group_std = _mean_group_std(groups, scale, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        effective = np.where(std > 0, math.sqrt(1 - 1 / size) * group_std / std, 0.0)
        amplification = np.where(std > 0, effective / (std / scale.width), np.nan)
        spread = spread_probability(groups, 0.0, size)
        per_kept = np.where(spread > 0, size / spread, np.nan)
    return Effects(*(np.where(missing, np.nan, values) for values in (effective, amplification, per_kept)))


def rare_at_most(size: int) -> float:
    """The largest amplification of a reward of two levels, that of a rare one: (G - 1) / sqrt(G)."""
    return (size - 1) / math.sqrt(size)


def _mean_group_std(groups: Groups, scale: Scale, size: int) -> Floats:
    """The mean population std of groups of `size` of each input, [N]; NaN with fewer generations."""
    means = np.where(groups.sizes >= size, 0.0, np.nan)
    levels, above = _levels(groups, ROUNDING * scale.width)
    top = groups.rewards[groups.starts + groups.sizes - 1]
    two = (levels == 2) & (groups.sizes >= size)
    if two.any():
        cases, places = np.unique(np.stack([above[two], groups.sizes[two]]), axis=1, return_inverse=True)
        gaps = (top - groups.rewards[groups.starts])[two]
        means[two] = estimated_group_std(cases[0], cases[1], size)[places.ravel()] * gaps
    more = (levels > 2) & (groups.sizes >= size)
    for n in np.unique(groups.sizes[more]):
        every = np.flatnonzero(more & (groups.sizes == n))
        for chosen in np.array_split(every, 1 + len(every) * n // AT_A_TIME):
            rows = groups.starts[chosen, None] + np.arange(n)
            means[chosen] = subsets_std_mean(groups.rewards[rows], size)
    return means


def _levels(groups: Groups, width: float) -> tuple[Ints, Ints]:
    """Count each input's reward levels, more than width apart, and its rewards of the highest, [N]."""
    levels, above = np.empty(len(groups.sizes), dtype=np.int64), np.empty(len(groups.sizes), dtype=np.int64)
    for inputs, rows in blocks(groups):
        rewards, sizes, starts = (
            groups.rewards[rows],
            groups.sizes[inputs],
            groups.starts[inputs] - rows.start,
        )
        jumps = np.zeros(len(rewards), dtype=np.int64)
        jumps[1:] = np.diff(rewards) > width
        jumps[starts] = 0  # an input's first reward comes after another's
        levels[inputs] = 1 + np.add.reduceat(jumps, starts)
        last = np.maximum.reduceat(np.where(jumps > 0, np.arange(len(jumps)), -1), starts)
        above[inputs] = np.where(last < 0, sizes, starts + sizes - last)
    return levels, above
