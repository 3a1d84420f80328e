"""What is measured of rewards, against numbers by hand and models whose quality is known."""

import math

import numpy as np
import pytest

from rl4lms.rankings import Comparison, Ranking
from rl4lms.reward_model.measure import (
    Comparisons,
    accuracy,
    accuracy_interval,
    accuracy_table,
    calibration,
    calibration_error,
    calibration_error_by_chance,
    centred,
    gold_pairs,
    labelled,
    measure,
    name_margins,
    within_share,
)


def comparisons(difference, weight=None, prompt=None) -> Comparisons:
    difference = np.asarray(difference, dtype=float)
    weight = np.ones(len(difference)) if weight is None else np.asarray(weight, dtype=float)
    prompt = np.arange(len(difference)) if prompt is None else np.asarray(prompt)
    return Comparisons(difference, weight, prompt)


def test_accuracy_by_hand():
    assert accuracy(comparisons([1, -2, 0, 3])) == 2.5 / 4
    assert accuracy(comparisons([1, -2, 0, 3], weight=[1, 3, 2, 0.5])) == (1 + 1 + 0.5) / 6.5
    assert accuracy(comparisons([2, -2], weight=[0.5, 0.5])) == 0.5  # a tie, both ways
    assert math.isnan(accuracy(comparisons([])))


def test_the_interval_is_over_prompts():
    """Ten comparisons that agree tell as much as one."""
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(100) < 0.7, 10)
    many = comparisons(np.where(right, 1, -1), prompt=np.repeat(np.arange(100), 10))
    low, high = accuracy_interval(many)
    assert low < accuracy(many) < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.7 * 0.3 / 100), rel=0.2)


def test_a_calibrated_model_has_the_error_that_chance_leaves():
    rng = np.random.default_rng(1)
    difference = rng.normal(size=4000)
    wins = rng.random(4000) < 1 / (1 + np.exp(-difference))
    good = comparisons(np.where(wins, difference, -difference))
    error, by_chance = calibration_error(calibration(good)), calibration_error_by_chance(good)
    assert error == pytest.approx(by_chance, abs=0.01) and by_chance < 0.03
    sure = comparisons(3 * good.difference)
    assert calibration_error(calibration(sure)) > 0.15 > 5 * calibration_error_by_chance(sure)


def test_calibration_by_hand():
    """Differences of log 3: predicted 3/4; four of five right. In both orientations, two bins."""
    d = math.log(3)
    table = calibration(comparisons([d, d, d, d, -d]), bins=2)
    assert table[1] == pytest.approx({"predicted": 0.75, "frequency": 0.8, "weight": 5})
    assert table[0] == pytest.approx({"predicted": 0.25, "frequency": 0.2, "weight": 5})
    assert calibration_error(table) == pytest.approx(0.05)


def test_a_model_that_does_not_tell_is_calibrated():
    table = calibration(comparisons(np.zeros(50)))
    assert len(table) == 10 and calibration_error(table) == 0
    assert calibration_error_by_chance(comparisons(np.zeros(50))) == 0


def test_calibration_does_not_depend_on_the_order():
    rng = np.random.default_rng(2)
    difference = rng.integers(-3, 4, 200).astype(float)  # many are equal
    for row, other in zip(
        calibration(comparisons(difference)), calibration(comparisons(difference[::-1])), strict=True
    ):
        assert row == pytest.approx(other)


def test_the_share_of_variance_within_prompts():
    prompt = np.asarray([0, 0, 1, 1])
    assert within_share(np.asarray([1.0, -1, 1, -1]), prompt) == 1
    assert within_share(np.asarray([1.0, 1, -1, -1]), prompt) == 0
    assert within_share(np.asarray([3.0, 1, -1, -3]), prompt) == pytest.approx(1 / 5)
    assert math.isnan(within_share(np.zeros(4), prompt))
    assert centred(np.asarray([3.0, 1, 5, 5]), prompt).tolist() == [1, -1, 0, 0]


def test_a_table_has_a_row_for_each_group():
    given = comparisons([1, -1, 1, 2], weight=[1, 1, 2, 1], prompt=[0, 0, 1, 2])
    assert accuracy_table(given, ["4", "4", "2", "4"]) == {
        "4": {"comparisons": 3, "prompts": 2, "accuracy": pytest.approx(2 / 3)},
        "2": {"comparisons": 2, "prompts": 1, "accuracy": 1},
    }


def test_few_margins_have_a_group_each_and_many_are_quartered():
    assert name_margins(np.asarray([1.0, 0.5, 1])) == ["1", "0.5", "1"]
    names = name_margins(np.arange(100.0))
    assert len(set(names)) == 4 and names[0] == "0 to 24.75" and names[99] == "74.25 to 99"
    assert [names.count(name) for name in dict.fromkeys(names)] == [25, 25, 25, 25]


def ranking(number: int, scores: list[float], **meta) -> Ranking:
    order = np.argsort(scores)[::-1].tolist()
    pairs = [Comparison(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    texts = ["x" * (i + 1) for i in range(len(scores))]
    return Ranking(number, "p", texts, pairs, [], meta)


def test_gold_pairs_are_all_that_differ_whatever_the_labels_say():
    rankings = [ranking(0, [1, 2, 3], gold=[5.0, 5.0, 1.0]), ranking(1, [1, 2])]
    rewards = [[0.5, 0.1, 0.2], [0.0, 1.0]]
    gold = gold_pairs(rankings, rewards)
    assert gold.difference.tolist() == pytest.approx([0.3, -0.1]) and gold.prompt.tolist() == [0, 0]
    assert labelled(rankings, rewards).prompt.tolist() == [0, 0, 0, 1]


def test_all_measurements_of_rewards_that_are_the_lengths():
    rankings = [ranking(0, [1, 2, 3], subset="a"), ranking(1, [1, 2], subset="b")]
    rewards = [[1.0, 2, 3], [11, 12]]
    numbers, tables = measure(rankings, rewards)
    assert numbers["accuracy"] == 1 and "gold_accuracy" not in numbers
    assert numbers["length_correlation_within"] == pytest.approx(1) != numbers["length_correlation"]
    flat = np.asarray([1.0, 2, 3, 11, 12])
    within = ((flat - [2, 2, 2, 11.5, 11.5]) ** 2).mean() / flat.var()
    assert numbers["within_share"] == pytest.approx(within)
    assert (numbers["reward_mean"], numbers["reward_std"]) == pytest.approx((flat.mean(), flat.std()))
    assert tables["accuracy_by_k"]["3"] == {"comparisons": 3, "prompts": 1, "accuracy": 1}
    assert tables.keys() == {"calibration", "accuracy_by_k", "accuracy_by_subset"}
