"""The diagnosis against planted truth: exact enumeration for two values, simulation for the rest."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from rft_diagnose import diagnose
from rft_diagnose.classes import (
    ERROR_RATE,
    NO_SIGNAL,
    SIGNAL,
    further_generations,
    rate_with_signal,
    verdicts,
)
from rft_diagnose.groups import group, most_within, spread_probability
from rft_diagnose.intervals import clopper_pearson, pooled_kurtosis
from rft_diagnose.over_inputs import at_least, signal_shares, std_percentile

SIZES = (2, 3, 4, 8, 16)
N_OF_TRIALS = (2, 4, 8, 10, 16, 35, 64, 250)
NEARLY_95 = 0.95 - 3 * math.sqrt(0.95 * 0.05 / 4000)  # of 4,000 simulated inputs, three standard errors off


def ragged(rng, sizes):
    """Groups of rounded rewards, so that ties occur, and the rewards as lists."""
    rewards = [rng.normal(size=size).round(1) for size in sizes]
    codes = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(codes))
    return group(codes[order], np.concatenate(rewards)[order]), rewards


def of_all_counts(n):
    """Rewards [n + 1, n]: 0, 1, ..., n of n passed."""
    return (np.arange(n)[None] < np.arange(n + 1)[:, None]).astype(float)


# Spread


@pytest.mark.parametrize("width", [0.0, 0.25, 1.0])
def test_spread_counts_are_those_of_all_subsets(width):
    groups, rewards = ragged(np.random.default_rng(0), [1, 2, 3, 5, 9, 9])
    near = width + 1e-7
    expected = [max(sum((v >= x) & (v <= x + near)) for x in v) for v in rewards]
    assert most_within(groups, width).tolist() == expected
    for size in (2, 3, 6):
        for value, v in zip(spread_probability(groups, width, size), rewards, strict=True):
            subsets = list(itertools.combinations(v, size))
            if subsets:
                assert value == pytest.approx(np.mean([max(s) - min(s) > near for s in subsets]), abs=1e-12)
            else:
                assert math.isnan(value)


def test_spread_of_two_values_has_the_closed_form():
    n = 12
    result = diagnose(of_all_counts(n), group_size=5)
    expected = [1 - (math.comb(k, 5) + math.comb(n - k, 5)) / math.comb(n, 5) for k in range(n + 1)]
    assert result.inputs.signal == pytest.approx(expected)


def test_probability_of_equal_rewards():
    """The numbers that are often misread: pass rate 0.1 looks dead with probability .43, .19, .03."""
    for size, looks_dead in ((8, 0.43), (16, 0.19), (32, 0.03)):
        assert rate_with_signal(1 - (0.1**size + 0.9**size), size) == pytest.approx(0.1)
        assert 0.1**size + 0.9**size == pytest.approx(looks_dead, abs=0.005)
    assert diagnose([[0.0] * 8, [1.0] + [0.0] * 7]).inputs.rate_at_most[0] == pytest.approx(0.31, abs=0.003)


# Intervals


@pytest.mark.parametrize("n", [2, 5, 8, 16, 40])
def test_intervals_of_two_values_cover_whatever_the_rate(n):
    inputs = diagnose(of_all_counts(n)).inputs
    for p in (0.003, 0.02, 0.1, 0.31, 0.5, 0.7, 0.999):
        weight = binom.pmf(np.arange(n + 1), n, p)
        std = math.sqrt(p * (1 - p))
        assert weight[(inputs.mean_low <= p) & (p <= inputs.mean_high)].sum() >= 0.95
        assert weight[(inputs.std_low <= std + 1e-12) & (std <= inputs.std_high + 1e-12)].sum() >= 0.95
        assert (
            weight[inputs.rate_at_most >= p].sum() >= 0.95 and weight[inputs.rate_at_least <= p].sum() >= 0.95
        )


def covered(rewards, mean, std):
    """Shares of simulated inputs whose intervals hold the true mean and std."""
    inputs = diagnose(rewards, reward_range=(-60, 60), tolerance=1e-6).inputs
    of_mean = (inputs.mean_low <= mean) & (mean <= inputs.mean_high)
    return of_mean.mean(), ((inputs.std_low <= std) & (std <= inputs.std_high)).mean()


@pytest.mark.parametrize("n", [2, 4, 8, 30])
def test_intervals_of_normal_rewards_cover_at_their_nominal_rate(n):
    rng = np.random.default_rng(n)
    of_mean, of_std = covered(rng.normal(3, 2, (4000, n)), 3, 2)
    assert NEARLY_95 <= of_mean <= 1 - (NEARLY_95 - 0.9)
    assert NEARLY_95 <= of_std <= 0.975  # a little wide: a kurtosis below the normal's is not believed


DISTRIBUTIONS = {  # draw, mean, std, least coverage of the mean's interval at 8 generations
    "uniform": (lambda rng, shape: rng.random(shape), 0.5, 12**-0.5, 0.935),
    "u-shaped": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5, 8**-0.5, 0.93),
    "skewed": (lambda rng, shape: rng.beta(1, 5, shape), 1 / 6, math.sqrt(5 / 252), 0.90),
    "heavy tails": (lambda rng, shape: rng.laplace(0, 1, shape), 0.0, math.sqrt(2), 0.945),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_of_other_rewards_cover_about_at_their_nominal_rate(name):
    draw, mean, std, least = DISTRIBUTIONS[name]
    of_mean, of_std = covered(draw(np.random.default_rng(1), (4000, 8)), mean, std)
    assert of_mean >= least and of_std >= NEARLY_95


@pytest.mark.parametrize("chance", [0.1, 0.25])  # ten generations miss the latter with probability 0.056
def test_intervals_without_spread_allow_for_what_was_not_seen(chance):
    """Mostly 0, else a reward in [0.9, 1]: inputs that showed only zeros must not claim a std of 0."""
    rng = np.random.default_rng(0)
    rewards = np.where(rng.random((4000, 10)) < chance, 0.9 + rng.random((4000, 10)) / 10, 0.0)
    inputs = diagnose(rewards, reward_range=(0, 1)).inputs
    std = math.sqrt(chance * (0.95**2 + 0.1**2 / 12) - (chance * 0.95) ** 2)
    flat = inputs.looks == "flat_low"
    assert flat.mean() == pytest.approx((1 - chance) ** 10, abs=0.02) and inputs.std_ddof0[flat].max() == 0
    assert (inputs.std_high[flat] >= std).all() and (inputs.mean_high[flat] >= chance * 0.95).all()


def test_intervals_of_the_std_stay_within_what_the_range_allows():
    rng = np.random.default_rng(0)
    rewards = np.where(rng.random((40, 6)) < 0.03, rng.random((40, 6)), 0.02 * rng.random((40, 6)))
    inputs = diagnose(rewards, reward_range=(0, 1), tolerance=1e-3).inputs
    assert np.isfinite(inputs.std_high).all() and inputs.std_high.max() <= 0.5
    assert (inputs.std_low <= inputs.std).all() and (inputs.std <= inputs.std_high).all()


def test_kurtosis_is_pooled_over_inputs():
    rng = np.random.default_rng(0)
    for draw, expected in ((rng.laplace, 6.0), (rng.normal, 3.0), (rng.uniform, 3.0)):
        groups = group(np.repeat(np.arange(5000), 6), draw(size=30_000))
        deviations = groups.rewards - np.repeat(np.add.reduceat(groups.rewards, groups.starts) / 6, 6)
        assert pooled_kurtosis(groups, deviations) == pytest.approx(expected, abs=0.45)


# Classes


@pytest.mark.parametrize(("n", "size"), list(itertools.product(N_OF_TRIALS, SIZES)))
def test_classes_of_two_values_err_at_the_stated_rate(n, size):
    counts = np.arange(n + 1)
    outside = np.minimum(counts, n - counts)
    called = verdicts(np.full(n + 1, n), outside, outside, size, two_values=True)
    live_from, dead_to = rate_with_signal(SIGNAL, size), rate_with_signal(NO_SIGNAL, size)
    for p in np.linspace(live_from, 0.5, 20):
        assert binom.pmf(counts, n, p)[called == "dead"].sum() <= ERROR_RATE + 1e-12
    for p in np.linspace(0, dead_to, 20):
        assert binom.pmf(counts, n, p)[called == "live"].sum() <= ERROR_RATE + 1e-12


def seldom(rng, rate, inputs, n):
    """Rewards next to 0 but for a share `rate` anywhere in [0.3, 1]."""
    high = rng.random((inputs, n)) < rate
    return np.where(high, 0.3 + 0.7 * rng.random((inputs, n)), 0.01 * rng.random((inputs, n)))


@pytest.mark.parametrize("n", [4, 10, 40, 130])
def test_classes_of_other_rewards_err_at_the_stated_rate(n):
    """Groups of 8 have spread unless all are next to 0 (or, negligibly, next to each other elsewhere)."""
    rng, size = np.random.default_rng(n), 8
    limit = ERROR_RATE + 3 * math.sqrt(ERROR_RATE / 4000)
    barely_live = seldom(rng, 1 - (1 - SIGNAL) ** (1 / size), 4000, n)
    labels = diagnose(barely_live, reward_range=(0, 1), group_size=size).inputs.label
    assert (labels == "dead_low").mean() <= limit and (labels != "dead_high").all()
    barely_dead = seldom(rng, 1 - (1 - NO_SIGNAL) ** (1 / size), 4000, n)
    labels = diagnose(barely_dead, reward_range=(0, 1), group_size=size).inputs.label
    assert (labels == "live").mean() <= limit


def test_clear_cases_are_settled_with_few_generations():
    rng = np.random.default_rng(0)
    shape = (300, 40)
    rewards = np.concatenate(
        [0.01 * rng.random(shape), 1 - 0.01 * rng.random(shape), rng.beta(2, 2, shape), np.full(shape, 0.5)]
    )
    labels = diagnose(rewards, reward_range=(0, 1)).inputs.label.reshape(4, -1)
    assert [set(part.tolist()) for part in labels] == [{"dead_low"}, {"dead_high"}, {"live"}, {"dead_low"}]
    assert (diagnose(rng.beta(2, 2, (500, 5)), reward_range=(0, 1)).inputs.label == "live").mean() > 0.98
    binary = diagnose((rng.random((500, 16)) < 0.4).astype(float)).inputs.label
    assert (binary == "live").mean() > 0.98


def test_how_many_more_generations_settle():
    inputs = diagnose([[0.0] * 8, [0.0] * 7 + [1.0], [0.0] * 3 + [1.0] * 5], group_size=8).inputs
    assert inputs.label.tolist() == ["uncertain", "uncertain", "live"]
    assert inputs.more[0] == 35 - 8 and inputs.more[2] == 0  # 0 of 34 is not enough, 0 of 35 is
    for k, n in ((0, 8), (1, 8), (1, 30), (3, 100)):
        more = int(further_generations(*(np.array([v]) for v in (n, k, k)), 8, True)[0])
        later = [round(k * (n + m) / n) for m in range(more + 1)]
        called = [verdicts(*(np.array([v]) for v in (n + m, c, c)), 8, True)[0] for m, c in enumerate(later)]
        assert "uncertain" not in called[-1] and (more > 256 or set(called[:-1]) <= {"uncertain"})


def test_the_planned_group_size_decides():
    """0 of 40: enough for groups of 8, not for groups of 16, of which more have spread at the same rate."""
    rewards = np.zeros((2, 40))
    rewards[1, 0] = 1
    for size, label in ((8, "dead_low"), (16, "uncertain")):
        assert diagnose(rewards, group_size=size).inputs.label[0] == label


# Over inputs


def population(rng, inputs, n):
    """Pass rates, a third 0, and rewards [inputs, n]."""
    rates = np.where(rng.random(inputs) < 0.35, 0.0, rng.beta(0.6, 1.5, inputs))
    return rates, (rng.random((inputs, n)) < rates[:, None]).astype(float)


def test_share_of_a_batch_with_signal():
    """What is said from 8 generations holds of fresh groups of 4 to 64, within its 95% intervals."""
    rng = np.random.default_rng(0)
    rates, _ = population(rng, 200_000, 1)
    truth = {size: float((1 - rates**size - (1 - rates) ** size).mean()) for size in (4, 8, 16, 32, 64)}
    held = {size: 0 for size in truth}
    estimates = []
    for _ in range(200):
        _, rewards = population(rng, 300, 8)
        rows = signal_shares(group(np.repeat(np.arange(300), 8), rewards.ravel()), 0.03)
        for row in rows:
            held[row["group_size"]] += row["low"] <= truth[row["group_size"]] <= row["high"]
        estimates.append([row["share"] for row in rows[:2]])
        assert [row["share"] for row in rows[2:]] == [None] * 3
    assert min(held.values()) >= 0.92 * 200
    assert np.mean(estimates, axis=0) == pytest.approx([truth[4], truth[8]], abs=0.006)


def test_least_share_of_inputs_without_signal():
    rng = np.random.default_rng(0)
    live_from = rate_with_signal(SIGNAL, 8)
    bounds = []
    for _ in range(300):
        rates, rewards = population(rng, 300, 10)
        flat = rewards.sum(1) == 0
        bounds.append(at_least(flat, np.full(300, 10), 8) - (rates < live_from).mean())
    assert (np.array(bounds) <= 0).mean() >= 0.95
    all_flat = at_least(np.full(300, True), np.full(300, 10), 8)
    assert 0.97 < all_flat < 1
    some = at_least(np.array([True] * 150 + [False] * 150), np.array([10, 40, 1] * 100), 8)
    assert 0 < some < 0.5


@pytest.mark.parametrize("n", [4, 8, 16, 40])
def test_inputs_that_are_just_live_are_seldom_counted_as_not(n):
    """All have groups of 8 that show spread half the time: the true share is 0, and so are 95% of bounds."""
    rng, rate = np.random.default_rng(0), rate_with_signal(SIGNAL, 8)
    flat = rng.random((1000, 300)) < (1 - rate) ** n + rate**n
    bounds = np.array([at_least(row, np.full(300, n), 8) for row in flat])
    assert (bounds == 0).mean() >= 0.93


def test_percentile_has_the_bootstraps_interval():
    rng = np.random.default_rng(0)
    rewards = rng.normal(0, rng.gamma(2, 1, (301, 1)), (301, 6))
    result = diagnose(rewards, reward_range=(-50, 1000))
    stds = rewards.std(1)
    found = std_percentile(result.inputs, result.scale)
    assert found["inputs"] == 301 and found["value"] == pytest.approx(np.percentile(stds, 10))
    resamples = np.percentile(rng.choice(stds, (20_000, 301)), 10, axis=1)
    assert [found["low"], found["high"]] == pytest.approx(
        np.percentile(resamples, [2.5, 97.5]).tolist(), rel=0.04
    )
    # A tenth of such inputs' stds are below the true percentile.
    truth = np.percentile(rng.normal(0, rng.gamma(2, 1, (100_000, 1)), (100_000, 6)).std(1), 10)
    held = 0
    for _ in range(200):
        sample = diagnose(rng.normal(0, rng.gamma(2, 1, (200, 1)), (200, 6)), reward_range=(-90, 1000))
        row = sample.summary["std_percentile"]
        held += row["low"] <= truth <= row["high"]
    assert held >= 0.92 * 200


def test_percentile_leaves_out_what_is_solved():
    rewards = np.array([[1.0] * 10] * 90 + [[0.0, 1.0] * 5] * 10)
    row = diagnose(rewards, reward_range=(0, 1)).summary["std_percentile"]
    assert row == {"value": 0.5, "low": 0.5, "high": 0.5, "inputs": 10}
    assert diagnose(rewards[:9]).summary["std_percentile"]["value"] is None


@pytest.mark.parametrize("within, between", [(1.0, 2.0), (2.0, 0.5), (1.0, 0.0)])
def test_variance_within_and_between_inputs(within, between):
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 12, 3000)
    codes = np.repeat(np.arange(3000), sizes)
    rewards = rng.normal(0, between, 3000)[codes] + rng.normal(0, within, len(codes))
    found = diagnose(rewards, codes).summary["variance"]
    assert found["within_std"] == pytest.approx(within, rel=0.03)
    assert found["between_std"] == pytest.approx(between, rel=0.06, abs=0.15)
    assert found["batch_std"] == pytest.approx(math.hypot(within, between), rel=0.03)
    assert found["within_share"] == pytest.approx(within**2 / (within**2 + between**2), abs=0.03)


def test_shares_have_exact_intervals():
    low, high = clopper_pearson(np.array([0, 2, 4]), np.array([4, 4, 4]), 0.025)
    assert low.tolist() == pytest.approx([0, 0.0676, 0.3976], abs=1e-4)
    assert high.tolist() == pytest.approx([0.6024, 0.9324, 1], abs=1e-4)
