"""Rewards of inputs with differing numbers of generations, their range, and what counts as spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.statistics import NEAR_OPTIMAL_MEAN, Floats

Ints = NDArray[np.int64]

LARGEST = 1e60  # of a reward: sums of its fourth powers are numbers, too
# Shares of the rewards that may be mistakes, at the lower and the upper end, or at least one reward.
RARE_LOW, RARE_HIGH = 0.01, 0.001
MOST = (0.05, 0.95)  # quantiles between which most rewards lie
FEWEST = 20  # rewards below which none is taken for a mistake
# A mistake lies beyond the others by more than so many times their range. At the upper end it may be a rare
# success instead, without which all others would look solved.
FAR_BELOW, FAR_ABOVE = 1, 5
FAR = 1e5  # tolerances from the middle reward: what lies beyond is as different from all others
AT_A_TIME = 1_000_000  # rewards of which a step is computed
ROUNDING = 1e-9  # of the reward's range: what differs by less is the same reward, computed in another order


def inputs_text(count: int) -> str:
    """Write a number of inputs in words."""
    return f"{count:,} input{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Groups:
    """M rewards of N inputs, those of an input next to each other and ascending.

    rewards: [M]; sizes: [N], at least 1 each; starts: [N], the place of each input's first reward.
    """

    rewards: Floats
    sizes: Ints
    starts: Ints

    @property
    def owners(self) -> Ints:
        """The input of each reward, [M]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def medians(self) -> Floats:
        """The middle reward of each input, the lower one of two, [N]."""
        return self.rewards[self.starts + (self.sizes - 1) // 2]


def number_values(values: NDArray[np.generic]) -> tuple[NDArray[np.generic], Ints]:
    """Give the distinct values, ascending, and the place of each value [M] among them, as `np.unique` does.

    Whole numbers from 0 on, as inputs have, need no sorting, which takes several times their memory.
    """
    if values.dtype.kind == "i" and len(values) and 0 <= values.min() and values.max() < 2 * len(values):
        whole: Ints = values.astype(np.int64, copy=False)
        there = np.bincount(whole) > 0
        return np.flatnonzero(there), whole if there.all() else (np.cumsum(there) - 1)[whole]
    distinct, places = np.unique(values, return_inverse=True)
    return distinct, places


def group(codes: Ints, rewards: Floats) -> Groups:
    """Sort the rewards [M] by input; codes: [M], the number of each one's input, all of 0 to N - 1."""
    order = np.lexsort((rewards, codes))
    sizes = np.bincount(codes)
    return Groups(rewards[order], sizes, np.cumsum(sizes) - sizes)


def later_within(groups: Groups, width: float) -> Ints:
    """Count for each reward the later ones of its input that lie at most `width` above it, [M]."""
    rewards = groups.rewards
    low, high = float(rewards.min()), float(rewards.max())
    if width:  # a reward far out must not make all differences between the others too small to see
        middle = float(np.median(rewards))
        least, most = middle - FAR * width, middle + FAR * width
        low, high = max(low, least), min(high, most)
    unit = max(high - low, width, 1e-300)
    later = np.empty(len(rewards), dtype=np.int64)
    for inputs, rows in blocks(groups):
        # One ascending array for all inputs: each has its own stretch of the line, wider than any width.
        places = np.clip(rewards[rows], least, most) if width else rewards[rows].copy()
        places -= low
        places /= unit
        places += np.repeat(3.0 * np.arange(inputs.start, inputs.stop), groups.sizes[inputs])
        last = np.searchsorted(places, places + (width / unit + ROUNDING), side="right")
        later[rows] = last - np.arange(1, len(places) + 1)
    return later


def blocks(groups: Groups) -> Iterator[tuple[slice, slice]]:
    """Give inputs with about AT_A_TIME rewards at a time, and these: what is computed of all takes memory."""
    ends = groups.starts + groups.sizes
    first = 0
    while first < len(ends):
        start = int(groups.starts[first])
        last = max(first + 1, int(np.searchsorted(ends, start + AT_A_TIME, side="right")))
        yield slice(first, last), slice(start, int(ends[last - 1]))
        first = last


def most_within(groups: Groups, width: float) -> Ints:
    """Count the most generations of each input with rewards within `width` of each other, [N]."""
    return np.maximum.reduceat(later_within(groups, width) + 1, groups.starts)


def spread_probability(groups: Groups, width: float, size: int) -> Floats:
    """Estimate how often rewards of `size` generations of an input differ by more than width, [N].

    This is the share of its subsets of generations that do: unbiased, whatever the reward's distribution. For
    rewards with two values, k of n high, it is 1 - (C(k, size) + C(n - k, size)) / C(n, size).
    NaN for inputs with fewer generations.
    """
    from scipy.special import gammaln

    def log_choose(n: Ints) -> Floats:  # C(n, size - 1); -inf if there is no such subset
        with np.errstate(invalid="ignore"):
            value = gammaln(n + 1) - gammaln(np.maximum(n - size + 2, 1)) - gammaln(size)
        return np.where(n >= size - 1, value, -np.inf)

    enough = groups.sizes >= size
    subsets = np.where(
        enough, log_choose(groups.sizes) + np.log(np.maximum(groups.sizes - size + 1, 1) / size), 0
    )
    # A subset without spread is counted once, at its lowest reward.
    later = later_within(groups, width)
    table = log_choose(np.arange(later.max() + 1))
    equal = np.empty(len(groups.sizes))
    for inputs, rows in blocks(groups):
        shares = np.exp(table[later[rows]] - np.repeat(subsets[inputs], groups.sizes[inputs]))
        equal[inputs] = np.add.reduceat(shares, groups.starts[inputs] - rows.start)
    share = np.where(equal > 1 - ROUNDING, 0.0, 1 - equal)
    return np.where(enough, share, np.nan)


@dataclass(frozen=True)
class Scale:
    """The reward's range, from worst to best, where it is from, and its two values if it has just two.

    outside: rewards that lie so far from all others that they do not count for the range, ascending.
    """

    low: float
    high: float
    source: Literal["given", "assumed", "observed"]
    values: tuple[float, float] | None
    outside: tuple[float, ...] = ()

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def near_best(self) -> float:
        """From where on a reward is next to the best: a small std there is no problem (Figure 2)."""
        return self.low + NEAR_OPTIMAL_MEAN * self.width


def find_scale(rewards: Floats, given: tuple[float, float] | None) -> Scale:
    """Choose the range to judge rewards [M] in: the given one, [0, 1] if they lie in it, else theirs.

    Without a given one, a few that lie far from all others do not count (see `bulk`).
    Raises DiagnosisError: the given one is none, or too small; or all rewards are one number outside [0, 1].
    """
    smallest, largest = float(rewards.min()), float(rewards.max())
    outside: tuple[float, ...] = ()
    if given is not None:
        low, high = given
        if not low < high:
            raise DiagnosisError(f"the range goes from worst to best reward: {low:g} is not below {high:g}")
        slack = ROUNDING * (high - low)
        if smallest < low - slack or largest > high + slack:
            seen = smallest if smallest < low - slack else largest
            raise DiagnosisError(f"reward {seen:g} lies outside the given range {low:g} to {high:g}")
        source: Literal["given", "assumed", "observed"] = "given"
    elif smallest == largest and not 0 <= smallest <= 1:
        raise DiagnosisError(
            f"every reward is {smallest:g}: without the range (--range) that is neither good nor bad"
        )
    else:
        low, high = bulk(rewards)
        outside = tuple(np.sort(rewards[(rewards < low) | (rewards > high)]).tolist())
        source = "observed"
        if 0 <= low and high <= 1:
            low, high, source = 0.0, 1.0, "assumed"
    near = ROUNDING * (high - low)
    at_ends = (rewards <= smallest + near) | (rewards >= largest - near)
    values: tuple[float, float] | None = None
    if largest - smallest > near:
        values = (smallest, largest) if at_ends.all() else None
    elif min(abs(smallest - low), abs(smallest - high)) <= near:
        values = (low, high)
    return Scale(low, high, source, values, outside)


def bulk(rewards: Floats) -> tuple[float, float]:
    """Find the range of the rewards [M] without a few that lie far from all others, if there are such.

    Up to RARE_LOW or RARE_HIGH of the rewards may be left out at an end: those beyond that percentile's
    reward by more than FAR_BELOW or FAR_ABOVE times the range between the two percentiles.
    """
    smallest, largest = float(rewards.min()), float(rewards.max())
    if len(rewards) < FEWEST:
        return smallest, largest
    first = max(1, int(RARE_LOW * len(rewards)))
    last = len(rewards) - 1 - max(1, int(RARE_HIGH * len(rewards)))
    ordered = np.partition(rewards, (first, last))
    low, high = float(ordered[first]), float(ordered[last])
    least, most = low - FAR_BELOW * (high - low), high + FAR_ABOVE * (high - low)
    if low == high:  # the others are all alike: then these few are what there is to learn from
        return smallest, largest
    inside = rewards[(rewards >= least) & (rewards <= most)]
    return float(inside.min()), float(inside.max())


def reject_far_ends(rewards: Floats, scale: Scale, tolerance: float) -> None:
    """Raise DiagnosisError if most rewards [M] differ, but count as equal on a range that few of them set."""
    if scale.source != "observed":
        return
    low, high = np.quantile(rewards, MOST).tolist()
    if ROUNDING * scale.width < high - low <= tolerance * scale.width:
        raise DiagnosisError(
            f"rewards go from {scale.low:g} to {scale.high:g}, but nine tenths of them lie within {low:g} to "
            f"{high:g} and would all count as equal: give the range from worst to best reward (--range)"
        )
