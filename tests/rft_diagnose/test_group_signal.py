"""The expected gradient of group algorithms: sums against enumeration, limits, and the table of its sizes."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from rft_diagnose.group_signal import (
    INFINITE,
    effective_std,
    estimated_group_std,
    expected_advantages,
    group_amplification,
    group_objective,
    group_std_mean,
    spread_probability,
    subsets_std_mean,
)


def enumerated(levels, probabilities, group_size, epsilon, unbiased):
    """E[A_1 | r_1] by all groups of outputs."""
    sums = np.zeros(len(levels))
    for outputs in itertools.product(range(len(levels)), repeat=group_size):
        rewards = levels[list(outputs)]
        advantage = 0.0
        if rewards.max() > rewards.min():
            advantage = (rewards[0] - rewards.mean()) / (rewards.std(ddof=int(unbiased)) + epsilon)
        sums[outputs[0]] += np.prod(probabilities[list(outputs)]) * advantage
    return sums / probabilities


@pytest.mark.parametrize("group_size", [2, 3, 4])
@pytest.mark.parametrize("epsilon", [0.0, 0.01])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_expected_advantage_is_that_of_all_groups(group_size, epsilon, unbiased):
    generator = np.random.default_rng(group_size)
    levels, probabilities = generator.random(4), generator.dirichlet(np.ones(4))
    a = expected_advantages(levels, probabilities, group_size, epsilon=epsilon, unbiased=unbiased)
    assert a == pytest.approx(enumerated(levels, probabilities, group_size, epsilon, unbiased), abs=1e-12)
    assert probabilities @ a == pytest.approx(0, abs=1e-12)


def test_rloo_keeps_the_reward_s_deviation_and_dr_grpo_a_share_of_it():
    levels, probabilities = np.array([0.0, 0.5, 2.0]), np.array([0.5, 0.3, 0.2])
    mean = probabilities @ levels
    std = math.sqrt(probabilities @ (levels - mean) ** 2)
    assert expected_advantages(levels, probabilities, 4, "rloo") == pytest.approx(levels - mean)
    assert effective_std(levels, probabilities, 4, "rloo") == pytest.approx(std)
    assert effective_std(levels, probabilities, 4, "dr_grpo") == pytest.approx(0.75 * std)


@pytest.mark.parametrize("group_size", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("p", [1e-6, 0.01, 0.3, 0.5, 0.99])
def test_two_levels_have_closed_forms(group_size, p):
    """The success mass, its derivative and integral, and the advantage of either level, agree."""
    unbiased = math.sqrt((group_size - 1) / group_size)
    success_mass = float(group_std_mean(p, group_size))
    worse, better = expected_advantages([-3.0, 5.0], [1 - p, p], group_size)
    assert unbiased * success_mass == pytest.approx(p * better, rel=1e-9)
    assert unbiased * success_mass == pytest.approx(-(1 - p) * worse, rel=1e-9)
    amplification = float(group_amplification(p, group_size))
    assert amplification == pytest.approx(success_mass / (p * (1 - p)), rel=1e-9)
    assert amplification <= math.sqrt(group_size - 1) * (1 + 1e-12)
    integral = quad(lambda x: float(group_amplification(x, group_size)), 0, p, epsabs=1e-14)[0]
    assert float(group_objective(p, group_size)) == pytest.approx(integral, rel=1e-7)
    std = math.sqrt(p * (1 - p))
    assert effective_std([0, 1], [1 - p, p], group_size) == pytest.approx(unbiased * amplification * std)


def test_groups_of_two_and_three_are_plain_reinforce():
    p = np.array([1e-9, 0.2, 0.5, 1 - 1e-9])
    assert group_amplification(p, 2) == pytest.approx(np.ones(4))
    assert group_amplification(p, 3) == pytest.approx(np.full(4, math.sqrt(2)))


def test_rare_and_common_successes_are_amplified_by_at_most_sqrt_of_g_less_1():
    for group_size in (2, 8, 64):
        ends = group_amplification([1e-12, 1 - 1e-12], group_size)
        assert ends == pytest.approx(np.full(2, math.sqrt(group_size - 1)), rel=1e-8)
    # Only infinite groups have the power 1 of the std in the place of 2.
    for group_size, exponent in ((8, 2.0), (64, 2.0), (INFINITE, 1.0)):
        p = np.array([1e-6, 1.21e-6])
        masses = group_std_mean(p, group_size)
        local = np.log(masses[1] / masses[0]) / np.log(np.sqrt(p[1] / p[0]))
        assert local == pytest.approx(exponent, abs=0.02)


def test_large_groups_tend_to_the_infinite_one():
    p = np.array([0.1, 0.4])
    assert group_std_mean(p, 4_000) == pytest.approx(group_std_mean(p, INFINITE), rel=1e-3)
    assert group_amplification(p, 4_000) == pytest.approx(group_amplification(p, INFINITE), rel=1e-3)
    assert group_objective(p, 20_000) == pytest.approx(group_objective(p, INFINITE), rel=2e-2)


def test_solved_inputs_keep_their_digits():
    """q is given where p rounds to 1."""
    q = np.array([1e-30])
    for group_size in (8, INFINITE):
        rare, solved = group_std_mean(q, group_size, 1 - q), group_std_mean(1 - q, group_size, q)
        assert solved == pytest.approx(rare, rel=1e-12) and rare > 0


# std -> G -> gradient norm of an input with 10 labels, one of them right, in its logits (unbiased std).
TABLE = {
    0.5: {2: 1.9e-1, 4: 3.7e-1, 8: 4.6e-1, 16: 4.9e-1, 64: 5.2e-1, INFINITE: 5.3e-1},
    0.3: {2: 6.7e-2, 4: 1.4e-1, 8: 2.1e-1, 16: 2.6e-1, 64: 3.1e-1, INFINITE: 3.2e-1},
    0.1: {2: 7.5e-3, 4: 1.6e-2, 8: 2.6e-2, 16: 3.8e-2, 64: 7.0e-2, INFINITE: 1.05e-1},
    0.03: {2: 6.7e-4, 4: 1.4e-3, 8: 2.3e-3, 16: 3.6e-3, 64: 7.4e-3, INFINITE: 3.2e-2},
    0.01: {2: 7.5e-5, 4: 1.6e-4, 8: 2.6e-4, 16: 4.0e-4, 64: 8.3e-4, INFINITE: 1.05e-2},
    0.001: {2: 7.5e-7, 4: 1.6e-6, 8: 2.6e-6, 16: 4.0e-6, 64: 8.3e-6, INFINITE: 1.05e-3},
}
REINFORCE = {0.5: 2.6e-1, 0.3: 9.5e-2, 0.1: 1.05e-2, 0.03: 9.5e-4, 0.01: 1.05e-4, 0.001: 1.05e-6}


@pytest.mark.parametrize("std", TABLE)
def test_the_table_of_gradient_norms(std):
    p = (1 - math.sqrt(1 - 4 * std**2)) / 2
    margin = np.array([1.0, *[-1 / 9] * 9])  # gradient of log(p / (1 - p)) in the logits
    norm = float(np.linalg.norm(margin))
    assert std**2 * norm == pytest.approx(REINFORCE[std], rel=0.02)
    for group_size, expected in TABLE[std].items():
        unbiased = math.sqrt((group_size - 1) / group_size) if group_size else 1.0
        assert unbiased * norm * float(group_std_mean(p, group_size)) == pytest.approx(expected, rel=0.035)


def test_groups_without_spread():
    assert spread_probability([0.5, 0.5], 8) == pytest.approx(1 - 2 * 0.5**8)
    assert spread_probability([0.2, 0.3, 0.5], 2) == pytest.approx(1 - 0.04 - 0.09 - 0.25)
    assert spread_probability([1 - 1e-14, 1e-14], 4) == pytest.approx(4e-14, rel=1e-3)
    assert spread_probability([[1.0, 0.0], [0.0, 1.0]], 8).tolist() == [0.0, 0.0]


def test_the_bound_holds_on_random_bandits():
    """|E g| <= effective std * sqrt(largest eigenvalue of the Fisher information of the logits)."""
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(100):
        probabilities = generator.dirichlet(np.full(4, generator.choice([0.1, 1.0])))
        levels = generator.random(4)
        a = expected_advantages(levels, probabilities, 4)
        gradient = probabilities * a  # sum_y p(y) a(y) (e_y - p), where E a = 0
        fisher = np.diag(probabilities) - np.outer(probabilities, probabilities)
        bound = effective_std(levels, probabilities, 4) * math.sqrt(np.linalg.eigvalsh(fisher)[-1])
        ratios.append(np.linalg.norm(gradient) / bound)
        assert effective_std(levels, probabilities, 4, unbiased=False) <= math.sqrt(
            spread_probability(probabilities, 4)
        ) * (1 + 1e-9)
    assert 0.5 < max(ratios) <= 1 + 1e-9


@pytest.mark.parametrize("group_size", [2, 5, 8])
def test_the_estimate_from_more_outputs_than_a_group_has_no_bias(group_size):
    p, n = 0.13, 10
    k = np.arange(n + 1)
    weights = [math.comb(n, int(i)) * p**i * (1 - p) ** (n - i) for i in k]
    assert weights @ estimated_group_std(k, n, group_size) == pytest.approx(
        float(group_std_mean(p, group_size))
    )
    subsets = [np.isin(chosen, [0, 1, 2]).std() for chosen in itertools.combinations(range(n), group_size)]
    assert estimated_group_std(3, n, group_size) == pytest.approx(np.mean(subsets))
    assert np.isnan(estimated_group_std([1, 1], [group_size - 1, group_size], group_size)).tolist() == [
        True,
        False,
    ]


def test_the_mean_std_of_all_subsets_or_of_some():
    generator = np.random.default_rng(2)
    rewards = generator.random((3, 10))
    exact = [
        np.mean([row[list(chosen)].std() for chosen in itertools.combinations(range(10), 8)])
        for row in rewards
    ]
    assert subsets_std_mean(rewards, 8) == pytest.approx(exact)  # 45 subsets: all
    rewards = generator.random((3, 12))  # 495 subsets: some
    some = subsets_std_mean(rewards, 4)
    exact = [
        np.mean([row[list(chosen)].std() for chosen in itertools.combinations(range(12), 4)])
        for row in rewards
    ]
    assert some == pytest.approx(exact, rel=0.05)
    assert (some == subsets_std_mean(rewards, 4)).all()


def test_repeated_levels_are_one():
    a = expected_advantages([0.0, 0.0, 1.0], [0.3, 0.2, 0.5], 4)
    assert a == pytest.approx(expected_advantages([0.0, 1.0], [0.5, 0.5], 4)[[0, 0, 1]])


@pytest.mark.parametrize("group_size", [2, 3, 4])
def test_the_mean_group_std_is_what_the_advantage_tells_of_the_reward(group_size):
    """E[A r] = E[group std]: over the std at most the effective std, equal for two levels."""
    levels, probabilities = np.array([0.0, 0.3, 1.0]), np.array([0.6, 0.3, 0.1])
    for m in (2, 3):
        r, p = levels[-m:], probabilities[-m:] / probabilities[-m:].sum()
        a = expected_advantages(r, p, group_size, unbiased=False)
        mean_std = sum(
            float(np.prod(p[list(group)])) * r[list(group)].std()
            for group in itertools.product(range(m), repeat=group_size)
        )
        std = math.sqrt(p @ r**2 - (p @ r) ** 2)
        assert p @ (a * r) == pytest.approx(mean_std, abs=1e-12)
        effective = effective_std(r, p, group_size, unbiased=False)
        told = float(p @ (a * r)) / std
        assert told <= effective * (1 + 1e-12)
        if m == 2:
            assert told == pytest.approx(effective)
