"""The range that rewards are judged in, where a few of them are mistakes or rare successes."""

import numpy as np
import pytest

from rft_diagnose import DiagnosisError, diagnose
from rft_diagnose.groups import find_scale


def normal(seed=0):
    return np.random.default_rng(seed).standard_normal((30, 40))


@pytest.mark.parametrize("wrong", [-10_000.0, 10_000.0, -1e12, 1e15, -30.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_one_outlier_does_not_set_the_scale(wrong, seed):
    rewards = normal(seed)
    rewards[7, 3] = wrong
    result = diagnose(rewards)
    assert result.summary["classes"]["live"]["count"] >= 28
    assert -4 < result.scale.low < result.scale.high < 4 and result.scale.source == "observed"
    assert f"1 reward lies far from all others and left out of that range: {wrong:g}" in result.caveats


def test_a_few_outliers_at_both_ends_are_named():
    rewards = np.random.default_rng(0).standard_normal((100, 40))
    rewards[:4, 0], rewards[:2, 1] = -500.0, [700.0, 900.0]
    result = diagnose(rewards)
    assert result.summary["classes"]["live"]["count"] >= 95
    assert "6 rewards lie far from all others and left out of that range: -500, 700, 900" in result.caveats


def test_small_tables_have_outliers_too():
    """An error code among rewards in [0, 1], of 12 inputs x 8 generations."""
    rewards = np.array([0.0] * 32 + [1.0] * 32 + [0.0, 1.0] * 16).reshape(12, 8)
    rewards[11, 7] = -100.0
    result = diagnose(rewards)
    assert (result.scale.low, result.scale.high, result.scale.source) == (0, 1, "assumed")
    assert result.inputs.looks.tolist() == ["flat_low"] * 4 + ["flat_high"] * 4 + ["spread"] * 4


def test_a_rare_success_is_no_outlier():
    """Right is worth more than the form of an answer, and once in 12,000 it was: nothing else is solved."""
    for success in (2.0, 5.0):
        rewards = np.tile([0.0, 1.0], (300, 20))
        rewards[:100] = 1.0
        rewards[250, 3] = success
        result = diagnose(rewards)
        assert result.scale.high == success and set(result.inputs.looks[:100].tolist()) == {"flat_low"}
    only = np.zeros((30, 40))
    only[3, 3] = 10.0
    assert find_scale(only.ravel(), None).high == 10 and not find_scale(only.ravel(), None).outside


def test_without_outliers_the_range_is_that_of_the_rewards():
    rewards = 3 * normal()
    scale = find_scale(rewards.ravel(), None)
    assert (scale.low, scale.high) == (rewards.min(), rewards.max()) and scale.outside == ()
    few = np.array([-1.0, -0.9, -0.95, -7.0])
    assert find_scale(few, None).low == -7


def test_a_given_range_is_kept():
    rewards = normal()
    rewards[7, 3] = -10_000.0
    result = diagnose(rewards, reward_range=(-10_000, 4))
    assert result.summary["classes"]["live"]["count"] == 0 and not result.scale.outside


def test_an_outlier_is_spread_for_its_own_input():
    """Three rewards of one input lie far from all others, on a scale that these do not set."""
    rewards = np.full((30, 40), 0.5)
    rewards[1:, ::2] += 0.3 * np.random.default_rng(0).random((29, 20))
    rewards[0, :1] = 1e9
    result = diagnose(rewards - 2)
    assert result.inputs.looks[0] == "spread" and result.inputs.outside[0] == 1


@pytest.mark.parametrize("number", [2, 3, 11])
def test_some_penalties_do_not_set_the_scale(number):
    """Up to a hundredth of the rewards, far below all others: else everything else would look solved."""
    rewards = normal()
    rewards.ravel()[:: 1_200 // number][:number] = -10_000.0
    result = diagnose(rewards)
    assert result.summary["classes"]["live"]["count"] >= 28
    assert len(result.scale.outside) == number


@pytest.mark.parametrize("ends", [(50, -10_000.0), (5, 1e5), (50, 1e5)])
def test_a_range_that_few_rewards_set_has_to_be_given(ends):
    """Whether the others differ depends on it, and the table does not tell."""
    number, value = ends
    rewards = normal()
    rewards.ravel()[:number] = value
    with pytest.raises(DiagnosisError) as error:
        diagnose(rewards)
    assert str(error.value).endswith(
        "and would all count as equal: give the range from worst to best reward (--range)"
    )
    assert f"{value:g}" in str(error.value) and "nine tenths of them lie within -" in str(error.value)
    assert diagnose(rewards, reward_range=(min(value, -4), max(value, 4))).scale.source == "given"


def test_a_right_answer_that_is_worth_much_sets_the_range():
    """Most get nothing at all: these are equal on any range."""
    rewards = np.zeros((30, 40))
    rewards[:3] = [0.0, 100.0] * 20
    assert diagnose(rewards).summary["classes"]["dead_low"]["count"] == 27
