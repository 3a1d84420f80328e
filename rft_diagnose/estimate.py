"""An estimate of the share of inputs that are dead: the pass rates as a mixture, by maximum likelihood.

A handful of generations tells of no single input that it is dead, but of many together how many are. Methods
and measured coverage: docs/diagnosis.md, docs/decisions.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.classes import SIGNAL, rate_with_signal
from rft_diagnose.groups import Floats, Groups, Ints, Scale, most_within
from rft_diagnose.statistics import normal_quantile

GRID = 160  # pass rates, as far apart in units of what generations resolve near 0 and 1 as in the middle
MOST_CELLS = 120  # different outcomes of an input, beyond which like ones are pooled
# Standard errors of a pass rate within which outcomes are pooled: the first that leaves few enough.
POOLED = tuple(0.1 * 1.1**i for i in range(25))
MOST_GENERATIONS = 1024  # of an input: of more their share counts as if it were of so many
UNLIKELY = 0.05  # a count off the bulk: then only that it is so large counts
GAP = 1e-3  # of the log-likelihood: fits are that close to the best
CENTRED = 1.0  # of the log-likelihood: mixtures so near the best are as good, and their middle errs less
SHRINK = 0.1  # of the barrier in a step
LARGEST_STEP = 0.995  # of the way to where a weight is 0
MOST_STEPS = 200  # a fit takes 10 to 20
NEAREST = 5e-4  # to an interval's end
FARTHEST = 1e3  # standard errors, of what cannot be at all

NO_GROUPS_OF_TWO = "in groups of 2 at most half have spread whatever the pass rate"
NO_DIFFERENCE = "the two rewards differ by no more than the tolerance"


@dataclass(frozen=True)
class Estimate:
    """A share of the inputs, with its 95% interval; None, and why, where there is no estimate.

    method: two_values, or off_the_bulk (see `estimate_dead_low`).
    """

    share: float | None
    low: float | None
    high: float | None
    method: Literal["two_values", "off_the_bulk"]
    reason: str | None = None


@dataclass(frozen=True)
class Mixture:
    """How probable J different outcomes of an input are, if it is of one of M kinds.

    likelihood: [J, M], up to a factor of each outcome; dead: [M], whether that kind is; shares: [J], of the
    inputs with that outcome; inputs: their number.
    """

    likelihood: Floats
    dead: NDArray[np.bool_]
    shares: Floats
    inputs: int


def estimate_dead_low(groups: Groups, scale: Scale, tolerance: float, size: int) -> dict[str, Any]:
    """Estimate the share of inputs that a verdict of dead-low is of: field -> value, see Estimate.

    That is those of whose groups of `size` at most half have spread, below 0.9 of the range. Two values: the
    pass rates of inputs are a mixture of whatever shape. Others: so are the probabilities to be off the bulk,
    as if all rewards within the tolerance were one, and half of the groups have no spread where (1 - q)^size
    is a half. tolerance: in units of reward.
    """
    if scale.values is None:
        return asdict(_of_other_rewards(groups, scale, tolerance, size))
    return asdict(_of_two_values(groups, scale, scale.values, tolerance, size))


def _of_two_values(
    groups: Groups, scale: Scale, values: tuple[float, float], tolerance: float, size: int
) -> Estimate:
    low, high = values
    if size == 2:
        return Estimate(None, None, None, "two_values", NO_GROUPS_OF_TWO)
    if high - low <= tolerance:
        return Estimate(None, None, None, "two_values", NO_DIFFERENCE)
    if low >= scale.near_best:
        return Estimate(0.0, 0.0, 0.0, "two_values")
    passed = np.add.reduceat((groups.rewards > (low + high) / 2).astype(np.int64), groups.starts)
    largest = rate_with_signal(SIGNAL, size)
    dead = [(0.0, largest)] if high >= scale.near_best else [(0.0, largest), (1 - largest, 1.0)]
    share, ends = fit_share(make_mixture(passed, groups.sizes, dead))
    return Estimate(share, *ends, "two_values")


def _of_other_rewards(groups: Groups, scale: Scale, tolerance: float, size: int) -> Estimate:
    several = groups.sizes > 1
    low = several & (groups.medians < scale.near_best)
    if not low.any():
        return Estimate(0.0, 0.0, 0.0, "off_the_bulk")
    outside = groups.sizes - most_within(groups, tolerance)
    largest = 1 - (1 - SIGNAL) ** (1 / size)
    n = groups.sizes[low]
    mixture = make_mixture(outside[low], n, [(0.0, largest)], beyond(n, largest))
    share, ends = fit_share(_with_others(mixture, int((several & ~low).sum())))
    return Estimate(share, *ends, "off_the_bulk")


def beyond(n: Ints, rate: float) -> Ints:
    """Find the smallest count of n generations that such a rate reaches in UNLIKELY of cases at most."""
    from scipy.special import bdtrc

    sizes, places = np.unique(n, return_inverse=True)
    limits = np.ones_like(sizes)
    while (open_cases := bdtrc(limits - 1, sizes, rate) > UNLIKELY).any():
        limits[open_cases] += 1
    return limits[places.ravel()]


def make_mixture(
    counts: Ints, n: Ints, dead: list[tuple[float, float]], limits: Ints | None = None
) -> Mixture:
    """Make the mixture of binomial distributions, so many of n generations of each input [N].

    dead: intervals of their probabilities. Their ends inside (0, 1) stand for a dead kind and for one next to
    it that is not: what cannot be told apart must not be. limits: [N], counts from which on it is only known
    that they are so large, perhaps of a kind that is never dead and never less, binomial or not.
    """
    large = np.zeros(len(n), dtype=bool) if limits is None else counts >= limits
    cells, weights = pool(counts if limits is None else np.minimum(counts, limits), n, large)
    ends = sorted({end for interval in dead for end in interval} - {0.0, 1.0})
    grid = np.sin(np.linspace(0, np.pi / 2, GRID)) ** 2
    inside = np.zeros(GRID, dtype=bool)
    for low, high in dead:
        inside |= (grid >= low) & (grid <= high)
    rates = np.concatenate([grid, ends, ends])
    is_dead = np.concatenate([inside, np.ones(len(ends), dtype=bool), np.zeros(len(ends), dtype=bool)])
    likelihood = _likelihood(cells[0], cells[1], cells[2], rates)
    if limits is not None:
        likelihood, is_dead = np.column_stack([likelihood, cells[2]]), np.append(is_dead, False)
    return Mixture(likelihood, is_dead, weights / weights.sum(), int(weights.sum()))


def _with_others(mixture: Mixture, others: int) -> Mixture:
    """Add inputs that are surely of no kind in the mixture, and not dead."""
    if not others:
        return mixture
    total = mixture.inputs + others
    outcomes, kinds = mixture.likelihood.shape
    likelihood = np.zeros((outcomes + 1, kinds + 1))
    likelihood[:-1, :-1], likelihood[-1, -1] = mixture.likelihood, 1.0
    shares = np.append(mixture.shares * mixture.inputs, others) / total
    return Mixture(likelihood, np.append(mixture.dead, False), shares, total)


def pool(counts: Ints, n: Ints, large: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Count inputs of the same outcome: counts, n and large (0 or 1) [3, J]; how many inputs each is of [J].

    A binomial log-likelihood is linear in both: inputs whose outcomes say nearly the same of their rate,
    where there are many different ones, have those of their mean.
    """
    scale = np.minimum(1.0, MOST_GENERATIONS / n)
    cells, weights = np.unique(np.stack([counts * scale, n * scale, large]), axis=1, return_counts=True)
    for width in POOLED:
        if len(weights) <= MOST_CELLS:
            break
        of_size = np.floor(np.log(cells[1]) / np.log1p(width))
        typical = (1 + width) ** of_size
        place = np.floor(np.arcsin(np.sqrt(cells[0] / cells[1])) * 2 * np.sqrt(typical) / width)
        _, kind = np.unique(np.stack([of_size, place, cells[2]]), axis=1, return_inverse=True)
        kind = kind.ravel()
        together = np.bincount(kind, weights)
        cells = np.stack([np.bincount(kind, row * weights) / together for row in cells])
        weights = together
    return cells, np.asarray(weights, dtype=np.float64)


def _likelihood(counts: Floats, n: Floats, large: Floats, rates: Floats) -> Floats:
    """Compute binomial likelihoods [J, M]: of a count, its largest being 1, or of at least as large a one."""
    from scipy.special import betainc, xlogy

    k, failed = counts[:, None], (n - counts)[:, None]
    logs = xlogy(k, rates) + xlogy(failed, 1 - rates)
    exact = np.exp(logs - logs.max(1, keepdims=True))
    return np.where(large[:, None] > 0, betainc(np.maximum(k, 1e-9), failed + 1, rates), exact)


def fit_share(mixture: Mixture) -> tuple[float, tuple[float, float]]:
    """Estimate the share of dead kinds by maximum likelihood; its 95% interval by the profile likelihood.

    The estimate is that of the middle of the mixtures that are as good as the best but for CENTRED.
    In the interval is each share with which some mixture fits the data nearly as well as the best one does
    (likelihood ratio of one degree of freedom): where they cannot tell, it is wide.
    """
    from scipy.optimize import brentq

    best, _ = fit(mixture, None)
    _, weights = fit(mixture, None, CENTRED)
    share = float(np.clip(weights[mixture.dead].sum(), 0.0, 1.0))
    limit = normal_quantile()

    def excess(value: float) -> float:
        """Say by how many standard errors too little or too much a share is."""
        loss = best - fit(mixture, value)[0]
        return min(float(np.sqrt(2 * mixture.inputs * max(loss, 0.0))), FARTHEST) - limit

    ends: list[float] = []
    for end in (0.0, 1.0):
        if end == share or excess(end) <= 0:
            ends.append(end)
        else:
            ends.append(float(brentq(excess, *sorted((end, share)), xtol=NEAREST)))
    return share, (ends[0], ends[1])


def fit(mixture: Mixture, share: float | None, gap: float = GAP) -> tuple[float, Floats]:
    """Fit the weights of the kinds by maximum likelihood, those of the dead ones adding up to a given share.

    Returns the mean log-likelihood of an input, and the weights [M]. share: None, any; gap: how far the
    log-likelihood may be from the best.
    """
    kinds = np.ones(len(mixture.dead), dtype=bool)
    if share is None:
        blocks, masses = np.ones((1, len(kinds))), np.ones(1)
    elif 0 < share < 1:
        blocks = np.stack([mixture.dead, ~mixture.dead]).astype(np.float64)
        masses = np.array([share, 1 - share])
    else:
        kinds = mixture.dead if share == 1 else ~mixture.dead
        blocks, masses = np.ones((1, int(kinds.sum()))), np.ones(1)
    likelihood = mixture.likelihood[:, kinds]
    if not likelihood.any(1).all():  # an outcome that these kinds cannot have
        return -np.inf, np.zeros(len(kinds))
    weights = np.zeros(len(kinds))
    weights[kinds] = maximise(likelihood, mixture.shares, blocks, masses, gap / mixture.inputs)
    return float(mixture.shares @ np.log(mixture.likelihood @ weights)), weights


def maximise(likelihood: Floats, shares: Floats, blocks: Floats, masses: Floats, gap: float) -> Floats:
    """Find the weights w >= 0 that maximise sum_j shares_j log (likelihood w)_j, each block's adding up.

    likelihood: [J, M]; shares: [J]; blocks: [K, M], 1 for the weights [M] of a block; masses: [K], what these
    add up to; gap: how far the sum may be from the best. A primal-dual interior-point method: its point is in
    the middle of equally good ones.
    """
    from scipy.linalg import cho_factor, cho_solve

    weights = (masses / blocks.sum(1)) @ blocks
    slopes = likelihood.T @ (shares / (likelihood @ weights))
    prices = 1.1 * (blocks * slopes).max(1) + 0.1  # of a block's mass
    slacks = prices @ blocks - slopes
    for _ in range(MOST_STEPS):
        fitted = likelihood @ weights
        slopes = likelihood.T @ (shares / fitted)
        if masses @ (blocks * slopes).max(1) - 1 < gap:  # no weights can gain more
            break
        barrier = SHRINK * (weights @ slacks) / len(weights)
        residual = slopes - prices @ blocks + barrier / weights
        ratio = weights / slacks
        columns = ratio[:, None] * np.column_stack([residual, *blocks])
        # (likelihood' D likelihood + slacks / weights)^-1 by Woodbury's identity: J x J.
        small = (likelihood * ratio) @ likelihood.T + np.diag(fitted**2 / shares)
        inner = cho_solve(cho_factor(small, check_finite=False), likelihood @ columns, check_finite=False)
        columns -= ratio[:, None] * (likelihood.T @ inner)
        price_step = np.linalg.solve(
            blocks @ columns[:, 1:], blocks @ columns[:, 0] - masses + blocks @ weights
        )
        step = columns[:, 0] - columns[:, 1:] @ price_step
        slack_step = barrier / weights - slacks - slacks / weights * step
        length, dual_length = _room(weights, step), _room(slacks, slack_step)
        weights = weights + length * step
        slacks = slacks + dual_length * slack_step
        prices = prices + dual_length * price_step
    return weights


def _room(values: Floats, step: Floats) -> float:
    """Say what part of a step leaves positive values positive."""
    falling = step < 0
    if not falling.any():
        return 1.0
    return min(1.0, LARGEST_STEP * float((-values[falling] / step[falling]).min()))
