"""Rewards of inputs with differing numbers of generations, and what counts as spread among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDING = 1e-9  # of the reward's range: what differs by less is the same reward, computed in another order


class DiagnosisError(Exception):
    """Rewards that nothing can be said about as they are; the message is for the user."""


def inputs_text(count: int) -> str:
    """A number of inputs in words."""
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


def group(codes: Ints, rewards: Floats) -> Groups:
    """The rewards [M] by input; codes: [M], the number of each one's input, 0 to N - 1, each occurring."""
    order = np.lexsort((rewards, codes))
    sizes = np.bincount(codes)
    return Groups(rewards[order], sizes, np.cumsum(sizes) - sizes)


def later_within(groups: Groups, width: float) -> Ints:
    """For each reward, how many later ones of its input lie at most `width` above it, [M]."""
    low, high = groups.rewards.min(), groups.rewards.max()
    unit = max(high - low, width, 1e-300)
    # One ascending array for all inputs: each has its own stretch of the line, wider than any width.
    places = (groups.rewards - low) / unit + 3.0 * groups.owners
    last = np.searchsorted(places, places + (width / unit + ROUNDING), side="right")
    return last - np.arange(len(places)) - 1


def most_within(groups: Groups, width: float) -> Ints:
    """The most generations of each input whose rewards lie within `width` of each other, [N]."""
    return np.maximum.reduceat(later_within(groups, width) + 1, groups.starts)


def spread_probability(groups: Groups, width: float, size: int) -> Floats:
    """Probability that the rewards of `size` generations of an input differ by more than `width`, [N].

    The share of all subsets of its generations that do: unbiased, whatever the reward's distribution. For
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
    equal = np.add.reduceat(np.exp(table[later] - np.repeat(subsets, groups.sizes)), groups.starts)
    share = np.where(equal > 1 - ROUNDING, 0.0, 1 - equal)
    return np.where(enough, share, np.nan)
