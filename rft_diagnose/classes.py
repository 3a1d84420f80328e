"""Statistics of each input's rewards, with intervals, and its class (methods: docs/diagnosis.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.groups import ROUNDING, Floats, Groups, Ints, Scale, most_within
from rft_diagnose.intervals import intervals, two_value_intervals
from rft_diagnose.normalisation import normalisation_effects
from rft_diagnose.statistics import grouped_moments

ERROR_RATE = 0.05
NO_SIGNAL, SIGNAL = 0.1, 0.5  # shares of an input's groups with spread: at most, at least
CLASSES = ("dead_low", "dead_high", "live", "uncertain")
LARGEST_LOOK_AHEAD = 100_000
Strings = NDArray[np.str_]


@dataclass(frozen=True)
class Inputs:
    """One value for each of N inputs.

    n: generations; mean; std (divides by n - 1; NaN for n = 1), std_ddof0 (by n, the paper's); *_low, *_high:
    95% intervals; rate_*: of rewards with two values the probability of the higher one, with one-sided 95%
    bounds, else NaN; outside: generations outside the tolerance around the bulk; signal: share of groups of
    the planned size with spread (NaN: fewer generations); effective_std, amplification, per_kept_group: see
    `normalisation.Effects`; label: one of CLASSES; looks: spread, or at which
    end of the range there is none (flat_low, flat_high); more: further generations that settle an uncertain
    one if they look like those so far (0: settled, -1: it stays at the border).
    """

    n: Ints
    mean: Floats
    std: Floats
    std_ddof0: Floats
    mean_low: Floats
    mean_high: Floats
    std_low: Floats
    std_high: Floats
    rate: Floats
    rate_at_least: Floats
    rate_at_most: Floats
    outside: Ints
    signal: Floats
    effective_std: Floats
    amplification: Floats
    per_kept_group: Floats
    label: Strings
    looks: Strings
    more: Ints

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Give the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def rate_with_signal(share: float, size: int) -> float:
    """Find the pass rate p <= 1/2 at which a group of `size` has spread with probability `share`.

    G equal rewards happen with probability p^G + (1 - p)^G.
    """
    from scipy.optimize import brentq

    return float(brentq(lambda p: share - 1 + p**size + (1 - p) ** size, 0.0, 0.5))


def verdicts(n: Ints, outside: Ints, far_outside: Ints, size: int, two_values: bool) -> Strings:
    """Call inputs dead, live or uncertain for groups of `size`; each is wrong in ERROR_RATE of cases at most.

    n: generations; outside, far_outside: those outside the best window of one and of two tolerances.
    Wrong is "dead" where at least half of the groups have spread, "live" where at most a tenth has.
    Two values: exact binomial tests. Else, with f(m) the probability that m generations show no spread:
    f(n) <= f(size)^(n / size) (Finner's inequality), and some window of two tolerances holds at least
    f(2) >= f(size)^(2 / size) of the distribution.
    """
    from scipy.special import bdtr, bdtrc, gammaln

    if two_values:
        # At p = 1/2, where groups of two have their most signal, both tails count.
        rate = rate_with_signal(SIGNAL, size)
        dead = bdtr(outside, n, rate) + bdtrc(n - outside - 1, n, rate) <= ERROR_RATE
        rare = rate_with_signal(NO_SIGNAL, size)
    else:
        ways = gammaln(n + 1) - gammaln(outside + 1) - gammaln(n - outside + 1)
        dead = ways + (n - outside) / size * math.log(1 - SIGNAL) <= math.log(ERROR_RATE)
        rare = 1 - (1 - NO_SIGNAL) ** (2 / size)
    # P(at least that many far outside); of none it is 1.
    live = np.where(far_outside > 0, bdtrc(np.maximum(far_outside, 1) - 1, n, rare), 1.0) <= ERROR_RATE
    return np.select([live, dead], ["live", "dead"], "uncertain")


def dead_needs(size: int, two_values: bool) -> int:
    """Find the fewest generations that, all alike, make an input dead for groups of `size`."""
    none = np.zeros(1, dtype=np.int64)
    return 1 + int(further_generations(none + 1, none, none, size, two_values)[0])


def further_generations(n: Ints, outside: Ints, far_outside: Ints, size: int, two_values: bool) -> Ints:
    """Count generations until `verdicts` settle, if further ones fall outside as often as those so far.

    Exact up to 256, within 5% beyond; -1 if not within LARGEST_LOOK_AHEAD.
    """
    cases, inverse = np.unique(np.stack([n, outside, far_outside]), axis=1, return_inverse=True)
    steps = [*range(257)]
    while steps[-1] < LARGEST_LOOK_AHEAD:
        steps.append(math.ceil(steps[-1] * 1.05))
    later = cases[0][:, None] + np.array(steps)
    share = later / cases[0][:, None]
    counts = [np.rint(case[:, None] * share).astype(np.int64) for case in cases[1:]]
    settled = verdicts(later, counts[0], counts[1], size, two_values) != "uncertain"
    first = np.array(steps)[settled.argmax(1)]
    return np.where(settled.any(1), first, -1)[inverse.ravel()]


def describe_inputs(groups: Groups, scale: Scale, tolerance: float, size: int, signal: Floats) -> Inputs:
    """Compute statistics, intervals and classes of inputs, see Inputs. tolerance: in units of reward."""
    n = groups.sizes
    mean, deviations, squares = grouped_moments(groups.rewards, n, groups.starts)
    squares[squares <= n * (ROUNDING * scale.width) ** 2] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        std = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
    outside = n - most_within(groups, tolerance)
    far_outside = n - most_within(groups, 2 * tolerance)
    flat = (outside == 0) & (n > 1)

    two_values = scale.values is not None
    verdict = verdicts(n, outside, far_outside, size, two_values)
    best = groups.medians >= scale.near_best
    dead = verdict == "dead"
    open_cases = verdict == "uncertain"
    more = np.zeros_like(n)
    more[open_cases] = further_generations(
        n[open_cases], outside[open_cases], far_outside[open_cases], size, two_values
    )
    effects = normalisation_effects(groups, std, scale, size)
    if scale.values is not None:
        numbers = two_value_intervals(groups, scale.values)
    else:
        numbers = intervals(groups, scale, tolerance, mean, std, deviations, flat)
    return Inputs(
        n=n,
        mean=mean,
        std=std,
        std_ddof0=np.sqrt(squares / n),
        outside=outside,
        signal=signal,
        effective_std=effects.effective_std,
        amplification=effects.amplification,
        per_kept_group=effects.per_kept_group,
        label=np.where(dead, np.where(best, "dead_high", "dead_low"), verdict),
        looks=np.where(flat, np.where(best, "flat_high", "flat_low"), np.where(n > 1, "spread", "single")),
        more=more,
        **numbers,
    )
