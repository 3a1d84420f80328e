"""The estimated share of dead inputs: near the truth, with intervals that cover it or are wide."""

import time

import numpy as np
import pytest
from clones import REPO

from rft_diagnose import diagnose, estimate
from rft_diagnose.classes import SIGNAL, rate_with_signal
from rft_diagnose.estimate import beyond, estimate_dead_low, fit, fit_share, make_mixture
from rft_diagnose.groups import Scale, group

ZERO_TO_ONE = Scale(0.0, 1.0, "given", (0.0, 1.0))
OTHERS = Scale(0.0, 1.0, "given", None)
DEAD, SOLVED = 0.41, 0.1  # shares of the inputs; of the others all pass rates are as frequent


def rates(rng, inputs, highest):
    """Pass rates: dead inputs from 0 to `highest`, solved ones at 1, the others Beta(1, 1)."""
    kind, drawn = rng.random(inputs), rng.random(inputs)
    return np.where(kind < DEAD, highest * drawn, np.where(kind > 1 - SOLVED, 1.0, drawn))


def truth(size, highest):
    """The share of these whose groups have spread in at most half of the cases, at a low reward."""
    largest = rate_with_signal(SIGNAL, size)
    reached = 1.0 if highest <= largest else largest / highest
    return DEAD * reached + (1 - DEAD - SOLVED) * largest


def estimated(rewards, size=8, scale=ZERO_TO_ONE):
    inputs, generations = rewards.shape
    groups = group(np.repeat(np.arange(inputs), generations), rewards.ravel().astype(float))
    result = estimate_dead_low(groups, scale, 0.03, size)
    return result["share"], result["low"], result["high"]


def passed(rng, pass_rates, generations):
    return rng.random((len(pass_rates), generations)) < pass_rates[:, None]


def check_coverage(inputs, highest, tables):
    """Returns mean error and mean width of the interval, and the share that cover the truth."""
    rng, expected = np.random.default_rng(inputs), truth(8, highest)
    results = np.array([estimated(passed(rng, rates(rng, inputs, highest), 8)) for _ in range(tables)])
    share, low, high = results.T
    assert ((low <= share) & (share <= high)).all()
    error, width = abs(share - expected).mean(), (high - low).mean()
    covered = ((low <= expected) & (expected <= high)).mean()
    assert error <= 0.1 and covered >= 0.92
    return error, width, covered


@pytest.mark.parametrize("highest", [0.0, 0.05])
@pytest.mark.parametrize("inputs", [200, 1000])
def test_eight_generations_tell_the_share_of_dead_inputs(inputs, highest):
    check_coverage(inputs, highest, 15)


@pytest.mark.slow
@pytest.mark.parametrize("highest", [0.0, 0.05])
@pytest.mark.parametrize("inputs", [200, 1000])
def test_five_hundred_tables_of_eight_generations_cover_as_documented(inputs, highest):
    error, width, covered = check_coverage(inputs, highest, 500)
    row = f"| {inputs:,} | {100 * highest:.0f}% | {100 * error:.1f} | {100 * width:.0f} | {covered:.1%} |"
    assert row in (REPO / "docs" / "diagnosis.md").read_text()


def partial_credit(rng, pass_rates, generations):
    credit = rng.uniform(0.2, 1, (len(pass_rates), generations))
    return np.where(passed(rng, pass_rates, generations), credit, 0.0)


def three_levels(rng, pass_rates, generations):
    levels = rng.choice([0.5, 1.0], (len(pass_rates), generations))
    return np.where(passed(rng, pass_rates, generations), levels, 0.0)


@pytest.mark.parametrize("generations", [4, 8, 16])
@pytest.mark.parametrize("draw", [partial_credit, three_levels])
def test_so_do_rewards_with_more_values(draw, generations):
    rng = np.random.default_rng(generations)
    # Of these solved inputs differ, too: the other threshold is that of no more than one value in a group.
    expected = DEAD + (1 - DEAD - SOLVED) * (1 - 0.5 ** (1 / 8))
    results = np.array(
        [estimated(draw(rng, rates(rng, 200, 0.02), generations), scale=OTHERS) for _ in range(8)]
    )
    assert abs(results[:, 0] - expected).mean() <= 0.1
    assert ((results[:, 1] <= expected) & (expected <= results[:, 2])).sum() >= 7


def test_spread_below_the_tolerance_is_none():
    """Half of the inputs vary by a normal std of .003, where groups of 8 span .009: no spread."""
    rng = np.random.default_rng(0)
    std = np.repeat([0.003, 0.2], 100)[:, None]
    share, low, high = estimated(np.clip(0.5 + std * rng.standard_normal((200, 8)), 0, 1), scale=OTHERS)
    assert abs(share - 0.5) < 0.05 and low <= 0.5 <= high


# What cannot be told


def test_few_generations_of_few_inputs_tell_little():
    rng = np.random.default_rng(0)
    for _ in range(5):
        _, low, high = estimated(passed(rng, rates(rng, 10, 0.05), 4))
        assert high - low > 0.4
    assert estimated(np.zeros((2, 3)))[1] < 0.2


def test_a_rate_that_generations_do_not_resolve_leaves_the_interval_wide():
    """Groups of 64 have spread in half of the cases at a pass rate of 1%, which 8 generations cannot see."""
    rng = np.random.default_rng(0)
    for pass_rate, is_dead in ((0.0, 1.0), (0.03, 0.0)):
        _, low, high = estimated(passed(rng, np.full(1000, pass_rate), 8), size=64)
        assert low <= is_dead <= high
    assert high - low > 0.5
    _, low, high = estimated(passed(rng, np.full(1000, 0.03), 256), size=64)
    assert high < 0.1


@pytest.mark.parametrize("side", [0.8, 1.25])
def test_the_threshold_is_that_of_the_verdict(side):
    """Just below the rate at which half of the groups have spread all inputs are dead, just above none."""
    rng = np.random.default_rng(0)
    pass_rate = side * rate_with_signal(SIGNAL, 8)
    share, low, high = estimated(passed(rng, np.full(300, pass_rate), 400))
    expected = float(side < 1)
    assert abs(share - expected) < 0.02 and low <= expected <= high and high - low < 0.2


def test_dead_is_what_lies_below_nine_tenths_of_the_range():
    rng = np.random.default_rng(0)
    solved, mixed = passed(rng, np.full(100, 1.0), 8), passed(rng, np.full(100, 0.5), 8)
    assert estimated(np.concatenate([solved, mixed]))[0] < 0.03
    low_range = Scale(0.0, 2.0, "given", (0.0, 1.0))  # 1 is far from the best there
    assert estimated(np.concatenate([solved, mixed]), scale=low_range)[0] == pytest.approx(0.5, abs=0.05)
    high_range = Scale(-20.0, 1.0, "given", (0.0, 1.0))
    assert estimated(np.concatenate([solved, mixed]), scale=high_range) == (0, 0, 0)
    noise = 0.95 + 0.01 * rng.random((50, 8))
    assert estimated(noise, scale=OTHERS) == (0, 0, 0)
    # Of inputs at the upper end it is known that they are not dead-low.
    share, low, high = estimated(np.concatenate([noise, np.zeros((50, 8))]), scale=OTHERS)
    assert abs(share - 0.5) < 0.05 and low < 0.5 < high < 0.7


def test_without_an_estimate_the_reason_is_given():
    two = diagnose([[0.0, 1.0, 0.0, 0.0], [0.0] * 4], group_size=2).summary["est_dead_low"]
    assert two == {
        "share": None, "low": None, "high": None, "method": "two_values",
        "reason": "in groups of 2 at most half have spread whatever the pass rate",
    }  # fmt: skip
    near = diagnose([[0.5, 0.51, 0.5], [0.5] * 3], reward_range=(0, 1)).summary["est_dead_low"]
    assert near["share"] is None and near["reason"] == "the two rewards differ by no more than the tolerance"
    assert diagnose([[0.0, 1.0], [0.0, 0.0]], estimate=False).summary["est_dead_low"] is None


# The fit


def em(mixture, share, rounds=20_000):
    """The same by expectation and maximisation, which is slow and simple."""
    blocks = [mixture.dead, ~mixture.dead]
    weights = np.zeros(len(mixture.dead))
    for block, mass in zip(blocks, (share, 1 - share), strict=True):
        weights[block] = mass / block.sum()
    for _ in range(rounds):
        weights *= mixture.likelihood.T @ (mixture.shares / (mixture.likelihood @ weights))
        for block, mass in zip(blocks, (share, 1 - share), strict=True):
            weights[block] *= mass / weights[block].sum()
    return float(mixture.shares @ np.log(mixture.likelihood @ weights))


def test_the_fit_is_that_of_expectation_and_maximisation():
    rng = np.random.default_rng(0)
    counts = rng.binomial(8, rates(rng, 300, 0.05))
    mixture = make_mixture(counts, np.full(300, 8), [(0.0, rate_with_signal(SIGNAL, 8))])
    for share in (0.2, 0.6):
        loglikelihood, weights = fit(mixture, share)
        assert (weights >= 0).all() and weights[mixture.dead].sum() == pytest.approx(share)
        assert weights.sum() == pytest.approx(1)
        assert 300 * abs(loglikelihood - em(mixture, share)) < 0.01


def test_the_ends_are_where_the_profile_likelihood_falls_by_its_quantile():
    rng = np.random.default_rng(0)
    counts = rng.binomial(16, rates(rng, 300, 0.0))
    mixture = make_mixture(counts, np.full(300, 16), [(0.0, rate_with_signal(SIGNAL, 8))])
    best = fit(mixture, None)[0]
    for end in fit_share(mixture)[1]:
        assert 2 * 300 * (best - fit(mixture, end)[0]) == pytest.approx(3.84, abs=0.15)


def test_outcomes_that_are_pooled_change_little(monkeypatch):
    rng = np.random.default_rng(0)
    n = rng.integers(8, 40, 1000)
    counts = rng.binomial(n, rates(rng, 1000, 0.05))
    dead = [(0.0, rate_with_signal(SIGNAL, 8))]
    pooled = make_mixture(counts, n, dead)
    assert pooled.likelihood.shape[0] <= estimate.MOST_CELLS
    monkeypatch.setattr(estimate, "MOST_CELLS", 10**6)
    exact = make_mixture(counts, n, dead)
    assert exact.likelihood.shape[0] > 200
    assert np.ravel(fit_share(pooled)[1]) == pytest.approx(np.ravel(fit_share(exact)[1]), abs=0.02)


def test_large_counts_are_taken_for_no_more_than_that():
    limits = beyond(np.array([4, 8, 8, 16, 1]), 0.083)
    assert limits.tolist() == [2, 3, 3, 4, 2]  # P(Bin(8, .083) >= 3) = .026, P(Bin(8, .083) >= 2) = .14


def test_the_same_rewards_give_the_same_numbers_in_any_order():
    rng = np.random.default_rng(0)
    rewards = passed(rng, rates(rng, 200, 0.05), 8)
    first = estimated(rewards)
    assert first == estimated(rewards) == estimated(rng.permutation(rewards)[:, ::-1])


def test_a_thousand_inputs_take_a_fraction_of_a_second_and_so_do_many():
    rng = np.random.default_rng(0)
    for inputs in (1_000, 100_000):
        rewards = passed(rng, rates(rng, inputs, 0.05), 8)
        begin = time.process_time()
        _, low, high = estimated(rewards)
        assert time.process_time() - begin < 1 and low <= truth(8, 0.05) <= high
