"""Statistics of rewards against hand computations and simulation."""

import numpy as np
import pytest

from rft_diagnose.statistics import dead, describe, grouped_moments, input_statistics, summarise


def test_std_divides_by_the_number_of_generations():
    mean, std = input_statistics(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 3.0]]))
    assert mean.tolist() == [0.5, 0.5, 2.0]
    assert std.tolist() == [0.5, 0.0, 1.0]


def test_groups_of_any_sizes_have_the_same_moments():
    rewards = np.random.default_rng(0).random((4, 6))
    mean, std = input_statistics(rewards)
    sizes = np.array([6, 6, 6, 6])
    grouped, deviations, squares = grouped_moments(rewards.ravel(), sizes, np.cumsum(sizes) - sizes)
    assert grouped == pytest.approx(mean) and np.sqrt(squares / sizes) == pytest.approx(std)
    assert deviations.reshape(4, 6).sum(1) == pytest.approx(np.zeros(4))


def test_dead_is_a_small_std_at_a_low_mean():
    assert dead([0.0, 0.0, 0.5, 0.1], [0.0, 0.01, 0.0, 0.005]).tolist() == [True, False, False, False]


def test_share_of_small_std_and_low_mean():
    rewards = np.array([[0.0, 0.0], [0.05, 0.05], [0.5, 0.5], [0.0, 1.0]])
    summary = summarise(rewards)
    assert summary.small_low == 0.5
    low, high = summary.small_low_interval
    assert low == pytest.approx(0.0676, abs=1e-4) and high == pytest.approx(
        0.9324, abs=1e-4
    )  # Clopper-Pearson
    assert summary.mean == pytest.approx(0.2625) and summary.inputs == 4 and summary.generations == 2


def test_bound_on_what_was_not_seen():
    """At that probability, G generations miss the other reward in exactly 5% of cases."""
    summary = summarise(np.zeros((3, 10)))
    assert (1 - summary.unseen) ** 10 == pytest.approx(0.05)
    assert summarise(np.zeros((3, 8))).unseen == pytest.approx(0.31, abs=0.005)


def test_interval_of_the_share_covers():
    """The exact interval covers a known share at least 95% of the time."""
    rng, p, covered = np.random.default_rng(0), 0.3, 0
    for _ in range(300):
        dead = rng.random(80) < p
        rewards = np.where(dead[:, None], 0.0, rng.random((80, 5)) + 0.5)
        low, high = summarise(rewards).small_low_interval
        covered += low <= p <= high
    assert covered / 300 > 0.93


def test_lines_say_that_equal_rewards_prove_little():
    lines = "\n".join(describe(summarise(np.zeros((5, 10))), "rouge"))
    assert "10 equal rewards do not prove a std of 0" in lines and "0.26" in lines
    assert "10th percentile" in lines and "95% interval" in lines
