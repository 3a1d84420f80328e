"""What a diagnosis says of dividing by a group's std: rare rewards, small scales, groups that are kept."""

import itertools
import math

import numpy as np
import pytest

from rft_diagnose import diagnose
from rft_diagnose.advice import advise
from rft_diagnose.group_signal import effective_std, group_amplification
from rft_diagnose.words import number_rows


def rewards_of(successes, n, better=1.0):
    """Rewards [inputs, n], of which so many are `better`, the others 0."""
    return np.array([[better] * k + [0.0] * (n - k) for k in successes])


def test_two_levels_are_estimated_from_all_subsets():
    rewards = rewards_of([0, 1, 3, 20], 40)
    inputs = diagnose(rewards).inputs
    for i, row in enumerate(rewards[1:3], 1):
        drawn = np.random.default_rng(0).permuted(np.tile(row, (40_000, 1)), axis=1)[:, :8]
        expected = drawn.std(1).mean() * math.sqrt(7 / 8) / row.std(ddof=1)
        assert inputs.effective_std[i] == pytest.approx(expected, rel=0.03)
    assert inputs.effective_std[0] == 0 and np.isnan(inputs.amplification[0])
    # One success: the limit of rare rewards, (G - 1) / sqrt(G); many: that of their rate.
    assert inputs.amplification[1] == pytest.approx(7 / math.sqrt(8))
    assert inputs.amplification[3] == pytest.approx(
        math.sqrt(7 / 8) * float(group_amplification(0.5, 8)), rel=0.02
    )
    assert (inputs.amplification[1:] <= 7 / math.sqrt(8) * (1 + 1e-12)).all()


def test_a_rare_reward_has_the_amplification_of_its_rate_on_average():
    """Mean std of groups and variance are unbiased, over all numbers of successes."""
    p, n, size = 0.1, 24, 8
    k = np.arange(n + 1)
    weights = np.array([math.comb(n, int(i)) * p**i * (1 - p) ** (n - i) for i in k])
    inputs = diagnose(rewards_of(k, n), group_size=size).inputs
    group_std = weights @ np.nan_to_num(inputs.effective_std * inputs.std)
    assert group_std == pytest.approx(effective_std([0, 1], [1 - p, p], size) * math.sqrt(p * (1 - p)))


def test_graded_rewards_are_estimated_from_below():
    generator = np.random.default_rng(1)
    levels, shares = np.array([0.0, 0.5, 1.0]), np.array([0.7, 0.2, 0.1])
    rewards = generator.choice(levels, p=shares, size=(1, 400))
    exact = effective_std(levels, [(rewards == level).mean() for level in levels], 4)
    estimate = float(diagnose(rewards, group_size=4).inputs.effective_std[0])
    assert 0.9 * exact < estimate < 1.01 * exact


def test_what_a_kept_group_costs():
    """DAPO drops groups of equal rewards; any difference counts, below the tolerance too."""
    noise = 0.5 + 1e-4 * np.random.default_rng(0).random(12)
    inputs = diagnose(np.stack([noise, *rewards_of([0, 2], 12)]), reward_range=(0, 1)).inputs
    assert inputs.per_kept_group[0] == pytest.approx(8)
    assert np.isnan(inputs.per_kept_group[1])
    without = sum(not any(chosen) for chosen in itertools.combinations([1, 1] + [0] * 10, 8))
    assert inputs.per_kept_group[2] == pytest.approx(8 / (1 - without / math.comb(12, 8)))


def test_fewer_generations_than_a_group_say_nothing():
    result = diagnose(rewards_of([0, 1, 2], 4), group_size=8)
    for name in ("effective_std", "amplification", "per_kept_group"):
        assert np.isnan(getattr(result.inputs, name)).all()
    numbers = result.summary["group_normalisation"]
    assert numbers["inputs"] == 0 and numbers["effective_std"] is None
    assert not any(name.startswith("effective std") for name, _ in number_rows(result.summary))


def texts(result):
    rows = dict(number_rows(result.summary))
    pieces = advise(result.summary, {}, None)
    return rows, " ".join(f"{piece.what} {piece.ground}" for piece in pieces)


def test_rare_rewards_are_not_woken():
    rows, advice = texts(diagnose(rewards_of([0] * 6 + [12] * 4, 40)))
    assert rows["dividing by the group's std"] == "will not wake 6 inputs (rare rewards: at most 2.47 times)"
    assert "RL alone will hardly move those that are dead, GRPO neither: dividing by " in advice
    assert "the group's std lengthens a rare reward's gradient at most 2.47 times (G = 8)." in advice
    assert "blows" not in advice


def test_a_small_scale_is_woken_and_its_noise_blown_up():
    generator = np.random.default_rng(0)
    rewards = np.concatenate([0.02 + 1e-3 * generator.random((3, 16)), generator.random((5, 16))])
    result = diagnose(rewards, reward_range=(0, 1))
    assert (result.inputs.effective_std[:3] > 0.7).all()
    assert (result.inputs.amplification[:3] > 1_000).all() and (result.inputs.amplification[3:] < 10).all()
    numbers = result.summary["group_normalisation"]
    assert numbers["blown_up"]["count"] == 3 and numbers["not_woken"]["count"] == 0
    times = f"{numbers['blown_up_amplification']:,.3g}"
    rows, advice = texts(result)
    assert rows["dividing by the group's std"] == (
        f"blows up 3 inputs that differ by less than the tolerance (median: {times} times)"
    )
    assert (
        "Dividing by the group's std (GRPO, DAPO) wakes 3 inputs whose rewards differ by less than the "
        f"tolerance: it blows whatever makes them differ up to unit size, {times} times (median). If that is "
        "noise, round the reward, or take RLOO or Dr. GRPO."
    ) in advice
    assert "GRPO neither" not in advice


def test_a_kl_penalty_inside_the_reward_is_blown_up():
    kl = np.random.default_rng(0).normal(size=(4, 40))
    result = diagnose(rewards_of([0, 0, 20, 20], 40), kl=kl, kl_coef=1e-3)
    assert result.summary["group_normalisation"]["blown_up"]["count"] == 2
    assert "The KL penalty inside the reward is such a difference." in texts(result)[1]


def test_rewards_that_rounding_alone_sets_apart_are_equal():
    rewards = np.array([[0.1 + 0.2, 0.3] * 8, [0.0, 1.0] * 8])
    inputs = diagnose(rewards).inputs
    assert inputs.effective_std[0] == 0 and np.isnan(inputs.per_kept_group[0])
