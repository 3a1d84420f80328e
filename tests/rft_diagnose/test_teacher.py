"""Statistics of a reward model as a teacher: closed forms, enumeration, planted rewards."""

import math
from itertools import combinations, product

import numpy as np
import pytest

from rft_diagnose.diagnose import diagnose
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.teacher import (
    accuracy,
    best_of_n,
    best_of_n_kl,
    judge_teacher,
    normalise,
    ordered_pairs,
    teacher_rows,
)

RNG = np.random.default_rng(0)


def tied_rewards(shape):
    """Rewards with many ties."""
    return RNG.integers(0, 4, shape).astype(float)


def test_best_of_n_is_the_mean_over_all_subsets():
    rewards, values = tied_rewards((6, 7)), RNG.normal(size=(6, 7))
    expected = np.zeros((6, 7))
    for row, n in product(range(6), range(1, 8)):
        best = []
        for subset in combinations(range(7), n):
            top = max(rewards[row, i] for i in subset)
            best.append(np.mean([values[row, i] for i in subset if rewards[row, i] == top]))
        expected[row, n - 1] = np.mean(best)
    assert best_of_n(rewards, values) == pytest.approx(expected, abs=1e-12)


def test_best_of_n_of_evenly_spaced_rewards_is_a_closed_form():
    """The largest of n of 1 to G has mean n (G + 1) / (n + 1); also where the binomials are huge."""
    for size in (5, 1_500):
        rewards = RNG.permutation(np.arange(1.0, size + 1))[None]
        n = np.arange(1, size + 1)
        assert best_of_n(rewards, rewards)[0] == pytest.approx(n * (size + 1) / (n + 1), rel=1e-9)


def test_the_kl_of_the_best_of_n():
    """By enumeration for a policy of many equally likely texts, which the formula is the limit of."""
    texts = 200_000
    assert best_of_n_kl([1]) == pytest.approx(0)
    for n in (2, 5, 32):
        rank = np.arange(1, texts + 1)
        probability = (rank / texts) ** n - ((rank - 1) / texts) ** n
        known = probability > 0
        kl = float((probability[known] * np.log(probability[known] * texts)).sum())
        assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-3)
    assert best_of_n_kl(8) == pytest.approx(math.log(8) - 7 / 8)


def test_pairs_are_counted_one_by_one(monkeypatch):
    monkeypatch.setattr("rft_diagnose.teacher._PAIRS_AT_A_TIME", 40)
    rewards, gold = tied_rewards((9, 6)), tied_rewards((9, 6))
    gold[2, 3] = gold[5] = np.nan
    right, pairs = ordered_pairs(rewards, gold)
    for row in range(9):
        score, count = 0.0, 0
        for i, j in combinations(range(6), 2):
            difference = gold[row, i] - gold[row, j]
            if difference and not math.isnan(difference):
                count += 1
                agrees = (rewards[row, i] - rewards[row, j]) * difference
                score += 0.5 if agrees == 0 else float(agrees > 0)
        assert (right[row], pairs[row]) == (score, count)
    assert pairs[5] == 0 and 0 < pairs[2] <= 10


def test_accuracy_of_planted_orders():
    gold = RNG.normal(size=(40, 5))
    assert accuracy(3 * gold + 7, gold)["share"] == 1
    assert accuracy(-gold, gold)["share"] == 0
    constant = accuracy(np.zeros_like(gold), gold)
    assert (constant["share"], constant["low"], constant["high"], constant["pairs"]) == (0.5, 0.5, 0.5, 400)
    # A level of its own at each prompt changes nothing.
    assert accuracy(gold + RNG.normal(size=(40, 1)) * 100, gold)["share"] == 1
    assert accuracy(gold, np.zeros_like(gold)) == {
        "share": None, "low": None, "high": None, "pairs": 0, "prompts": 0
    }  # fmt: skip


def test_the_interval_of_the_accuracy_is_over_prompts():
    """All pairs of a prompt right or all wrong: as wide as that of so many coins, not of so many pairs."""
    gold = RNG.normal(size=(100, 8))
    signs = np.where(np.arange(100) < 70, 1, -1)[:, None]
    row = accuracy(gold * signs, gold)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 100)
    assert row["share"] == pytest.approx(0.7) and row["pairs"] == 2800
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.15)


def test_variance_within_prompts_of_planted_rewards():
    """Levels of std 2, spread of std 1 about them: a fifth of the variance is within prompts."""
    rewards = 50 + 3 * (RNG.normal(size=(4_000, 1)) * 2 + RNG.normal(size=(4_000, 10)))
    teacher = judge_teacher(rewards)
    summary = teacher.summary
    assert summary["within_share"] == pytest.approx(0.2, abs=0.01)
    spread = summary["variance"]
    assert spread["low"] < summary["within_share"] < spread["high"] < spread["low"] + 0.02
    assert summary["variance"]["value"] == pytest.approx(float((teacher.std**2).mean()))
    assert summary["within_share"] == pytest.approx(diagnose(rewards).summary["variance"]["within_share"])
    normalised = (rewards - rewards.mean()) / rewards.std()
    assert teacher.mean == pytest.approx(normalised.mean(1))
    assert teacher.std == pytest.approx(normalised.std(1, ddof=1))
    assert summary["std"] == pytest.approx(teacher.std.mean())
    assert summary["best_of_n"][0] == {"n": 1, "kl": 0, "reward": pytest.approx(0, abs=1e-9)}


def test_the_interval_of_the_variance_holds_its_rate():
    """Where prompts differ in their spread, and the std of all rewards is an estimate, too."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(500):
        level, spread = rng.normal(size=(300, 1)), rng.uniform(0, 1, (300, 1)) * 3**0.5
        row = judge_teacher(level + spread * rng.normal(size=(300, 2))).summary["variance"]
        covered += row["low"] < 0.5 < row["high"]
    assert 0.92 < covered / 500 < 0.97


def test_a_linear_change_of_all_rewards_changes_nothing():
    rewards, gold = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4))
    summary, changed = (judge_teacher(r, gold, "gold").summary for r in (rewards, 1e-3 * rewards - 40))
    for name in ("std", "within_share", "accuracy", "dead", "dead_low"):
        assert changed[name] == pytest.approx(summary[name], rel=1e-6), name
    assert changed["best_of_n"][-1] == pytest.approx(summary["best_of_n"][-1], rel=1e-6)


def test_dead_prompts_are_those_whose_rewards_hardly_differ():
    rewards = RNG.uniform(0, 10, (50, 6))
    rewards[0], rewards[49] = 0.0, 10.0
    rewards[:20] = rewards[:20, :1] + RNG.uniform(0, 0.01, (20, 6))  # a thousandth of the range
    rewards[:5] = RNG.uniform(0, 0.01, (5, 6))
    summary = judge_teacher(rewards).summary
    assert summary["dead"]["count"] == 21 and summary["dead"]["share"] == pytest.approx(0.42)
    low = (rewards[:20].mean(1) < 1).sum()
    assert summary["dead_low"]["count"] == low >= 5


def test_a_constant_reward_teaches_nothing():
    summary = judge_teacher(np.full((5, 3), 7.0), RNG.normal(size=(5, 3)), "gold").summary
    assert summary["variance"]["value"] == 0 and summary["within_share"] is None
    assert summary["dead"]["share"] == 1 and summary["accuracy"]["share"] == 0.5
    assert {row["reward"] for row in summary["best_of_n"]} == {0}
    assert [row["gold"] for row in summary["best_of_n"]] == pytest.approx(
        [summary["best_of_n"][0]["gold"]] * 3
    )
    assert (normalise(np.full((2, 2), 0.1)) == 0).all()
    assert len(teacher_rows(summary)) == 5


def test_gold_that_is_not_known_everywhere():
    rewards, gold = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4))
    gold[0, 1] = np.nan
    curve = judge_teacher(rewards, gold, "gold").summary["best_of_n"]
    assert curve[0]["gold"] == pytest.approx(gold[1:].mean())
    assert curve[-1]["gold"] == pytest.approx(gold[1:][np.arange(5), rewards[1:].argmax(1)].mean())
    assert curve[-1]["gold_best"] == pytest.approx(gold[1:].max(1).mean())
    nothing = judge_teacher(rewards, np.full((6, 4), np.nan), "gold").summary
    assert "gold" not in nothing["best_of_n"][0] and nothing["accuracy"]["share"] is None
    assert ("accuracy on the policy's texts", "undefined: gold tells no two texts of a prompt apart") in (
        teacher_rows(nothing)
    )


def test_the_lines_for_a_reader():
    gold = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 3.0]])
    rows = dict(teacher_rows(judge_teacher(2 * gold, gold, "meteor").summary))
    assert rows["accuracy on the policy's texts"] == (
        "100.0% (100.0% to 100.0%) of 5 pairs of texts that meteor tells apart, in 2 prompts"
    )
    assert rows["best of 3 by it"] == (
        f"its reward rises by {(3.5 - gold.mean()) / gold.std():.3g} stds; meteor 2.667 -> 3.5 (0.56 to "
        "6.44), at most 3.5 (KL 0.43)"
    )
    assert rows["dead prompts"].startswith("0.0% (0.0% to 84.2%) with a std below 1% of the rewards' range")


@pytest.mark.parametrize("rewards", [[[1.0], [2.0]], [1.0, 2.0], np.empty((0, 3)), [[1.0, math.nan]]])
def test_what_cannot_be_judged(rewards):
    with pytest.raises(DiagnosisError, match=r"two texts or more of each prompt|no finite number"):
        judge_teacher(rewards)
