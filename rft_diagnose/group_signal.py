"""What algorithms that normalise rewards within groups (GRPO and its kin) make of an input's reward std.

Of one input, with rewards r(y) of outputs y ~ p(.|x), a group is G independent outputs y_1..y_G. By symmetry
the expected gradient is E[A_1 grad log p(y_1|x)] = sum_y p(y|x) a(r(y)) grad log p(y|x), where a(r) = E[A_1 |
r_1 = r] is a finite sum. REINFORCE with the exact baseline, and RLOO, have a(r) = r - V; then sqrt(E a(r)^2)
is the reward std of the paper's Theorem 1. Under GRPO it is the *effective std*, and takes the reward std's
place in the bound: |E g| <= effective std * sqrt(largest eigenvalue of the Fisher information).

With two reward levels, the better one of probability p, the expected GRPO gradient is F_G'(p) grad p:
parallel to that of the expected reward, and at most sqrt(G - 1) times as long. So a std that is small because
one of the levels is rare stays small: F_G'(p) = (effective std) / (reward std). Derived and checked by
enumeration in tests/rft_diagnose/test_group_signal.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Advantage = Literal["rloo", "dr_grpo", "grpo"]

INFINITE = 0  # the group size that stands for the limit of large groups
_SUBSETS_AT_MOST = 256  # of an input's generations: their mean std is off by 1 to 4%, less than by chance
_AT_A_TIME = 4_000_000  # rewards in memory


def group_std_mean(p: ArrayLike, group_size: int, q: ArrayLike | None = None) -> Floats:
    """D_G(p), the mean population std of G independent rewards that are 1 with probability p, else 0.

    p: [...]; q: 1 - p, given where p rounds to 1. D_G(p) is what GRPO has in the place of p (1 - p), the
    weight of grad log(p / (1 - p)); infinite groups (0): sqrt(p (1 - p)).
    """
    p = np.asarray(p, float)
    q = 1 - p if q is None else np.asarray(q, float)
    if group_size == INFINITE:
        return np.sqrt(p * q)
    k = np.arange(1, group_size)
    return (_binomial(k, group_size, p, q) * np.sqrt(k * (group_size - k)) / group_size).sum(-1)


def group_amplification(p: ArrayLike, group_size: int, q: ArrayLike | None = None) -> Floats:
    """F_G'(p), by how much GRPO lengthens the gradient of an input with two reward levels; at most sqrt(G -
    1).

    p: [...], the probability of the better level; q: 1 - p. Population std, no epsilon; the unbiased std
    gives sqrt((G - 1) / G) times as much. G = 2 and 3: constants.
    """
    p = np.asarray(p, float)
    q = 1 - p if q is None else np.asarray(q, float)
    if group_size == INFINITE:
        return 1 / np.sqrt(p * q)
    j = np.arange(group_size - 1)
    terms = _binomial(j, group_size - 2, p, q) / np.sqrt((j + 1) * (group_size - 1 - j))
    return (group_size - 1) * terms.sum(-1)


def group_objective(p: ArrayLike, group_size: int) -> Floats:
    """F_G(p), what GRPO maximises in expectation in the place of p. p: [...].

    F_G(p) = sum over k of P(Bin(G - 1, p) >= k) / sqrt(k (G - k)), from 0; infinite groups: 2 arcsin sqrt(p).
    """
    p = np.asarray(p, float)
    if group_size == INFINITE:
        return 2 * np.arcsin(np.sqrt(p))
    k = np.arange(1, group_size)
    at_least = _binomial(k, group_size - 1, p, 1 - p)[..., ::-1].cumsum(-1)[..., ::-1]
    return (at_least / np.sqrt(k * (group_size - k))).sum(-1)


def spread_probability(probabilities: ArrayLike, group_size: int) -> Floats:
    """The probability that a group's rewards are not all equal. probabilities: [..., levels] -> [...]."""
    probabilities = np.asarray(probabilities, float)
    # 1 - sum p^G without the loss of digits where one level has nearly all the mass.
    top = probabilities.argmax(-1)[..., None]
    others = probabilities.copy()
    np.put_along_axis(others, top, 0.0, -1)
    missing = -np.expm1(group_size * np.log1p(-np.minimum(others.sum(-1), 1.0)))
    return missing - (others**group_size).sum(-1)


def expected_advantages(
    levels: ArrayLike,
    probabilities: ArrayLike,
    group_size: int,
    advantage: Advantage = "grpo",
    epsilon: float = 0.0,
    unbiased: bool = True,
) -> Floats:
    """a(r) = E[A_1 | r_1 = r] of each reward level, exact. levels, probabilities: [m] -> [m].

    epsilon is added to the group's std, which has n - 1 in the denominator if `unbiased`. The others of the
    group are summed over: C(G - 2 + m, m - 1) terms.
    """
    levels, probabilities = np.asarray(levels, float), np.asarray(probabilities, float)
    centred = levels - probabilities @ levels
    if advantage == "rloo":
        return centred
    if advantage == "dr_grpo":
        return (1 - 1 / group_size) * centred
    from scipy.special import gammaln

    expected = np.zeros(len(levels))
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
    for counts in _compositions(group_size - 1, len(levels)):
        others = np.array(counts)
        used = others > 0
        log_weight = gammaln(group_size) - gammaln(others + 1).sum() + (others[used] * logs[used]).sum()
        weight = math.exp(log_weight)
        if weight == 0:
            continue
        for i in range(len(levels)):
            group = others.copy()
            group[i] += 1
            expected[i] += weight * _grpo_advantage(levels, group, i, epsilon, unbiased)
    return expected


def effective_std(
    levels: ArrayLike,
    probabilities: ArrayLike,
    group_size: int,
    advantage: Advantage = "grpo",
    epsilon: float = 0.0,
    unbiased: bool = True,
) -> float:
    """sqrt(E a(r)^2): what stands in the place of the reward std in the bound on the gradient's norm."""
    a = expected_advantages(levels, probabilities, group_size, advantage, epsilon, unbiased)
    return float(np.sqrt(np.asarray(probabilities, float) @ a**2))


def estimated_group_std(successes: ArrayLike, n: ArrayLike, group_size: int) -> Floats:
    """D_G(p) estimated without bias from n >= G rewards of two levels, of which so many are the better one.

    successes, n: [...] -> [...]: the mean of the population std over all subsets of G of the n (with the
    levels 0 and 1), by the hypergeometric distribution. NaN where n < G.
    """
    from scipy.stats import hypergeom

    successes, n = np.broadcast_arrays(np.asarray(successes, int), np.asarray(n, int))
    j = np.arange(1, group_size)
    weights = hypergeom.pmf(j, np.maximum(n, group_size)[..., None], successes[..., None], group_size)
    means = (weights * np.sqrt(j * (group_size - j)) / group_size).sum(-1)
    return np.where(n >= group_size, means, np.nan)


def subsets_std_mean(rewards: Floats, group_size: int, seed: int = 0) -> Floats:
    """The mean population std of groups of G, estimated without bias from n >= G rewards of each input.

    rewards: [N, n] -> [N]: the mean over all subsets of G of the n, or over some, the same for all inputs.
    """
    subsets = _subsets(rewards.shape[1], group_size, seed)
    means = np.empty(len(rewards))
    step = max(1, _AT_A_TIME // subsets.size)
    for first in range(0, len(rewards), step):
        means[first : first + step] = rewards[first : first + step][:, subsets].std(-1).mean(-1)
    return means


def _grpo_advantage(
    levels: Floats, counts: NDArray[np.int64], i: int, epsilon: float, unbiased: bool
) -> float:
    """The advantage of an output of level i in a group with so many outputs of each level; 0 without
    spread.
    """
    present = levels[counts > 0]
    if present.max() == present.min():
        return 0.0
    size = counts.sum()
    mean = counts @ levels / size
    std = math.sqrt(counts @ (levels - mean) ** 2 / (size - unbiased))
    return float((levels[i] - mean) / (std + epsilon))


def _binomial(k: NDArray[np.int64], n: int, p: Floats, q: Floats) -> Floats:
    """P(Bin(n, p) = k), [..., K], from p and q = 1 - p that are both exact. k: [K]."""
    from scipy.special import gammaln, xlogy

    log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.exp(log_choose + xlogy(k, p[..., None]) + xlogy(n - k, q[..., None]))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to share `total` out to so many parts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _subsets(n: int, size: int, seed: int) -> NDArray[np.int64]:
    """Subsets [S, size] of n indices: all if they are few, else drawn, every index about as often."""
    if math.comb(n, size) <= _SUBSETS_AT_MOST:
        return np.array(list(combinations(range(n), size)))
    disjoint = n // size  # subsets of one order of the indices: these differ more than independent ones
    orders = np.tile(np.arange(n), (math.ceil(_SUBSETS_AT_MOST / disjoint), 1))
    order = np.random.default_rng(seed).permuted(orders, axis=1)
    return order[:, : disjoint * size].reshape(-1, size)[:_SUBSETS_AT_MOST]
