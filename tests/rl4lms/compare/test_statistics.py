"""Outcomes and what follows of them: by hand, and intervals by enumerating all resamples."""

import itertools
import math

import numpy as np
import pytest

from rft_diagnose.statistics import CONFIDENCE
from rl4lms.compare.choices import Choice
from rl4lms.compare.outcomes import average_outcomes, by_choices, by_scores, equal_texts
from rl4lms.compare.statistics import agreement, judge_models

NAMES = ("sft", "ppo", "ptx")
PROMPTS = ["p", "q", "r"]
TEXTS = [
    [["a", "bb"], ["c", "c"], ["d", "e"]],  # two texts a prompt
    [["bb"], ["x"], ["e"]],
]
SCORES = [np.array([[1.0, 3.0], [2.0, 2.0], [0.0, math.nan]]), np.array([[2.0], [2.0], [5.0]])]


def judged(outcomes, texts=TEXTS, names=NAMES, **options):
    return judge_models(outcomes, texts, equal_texts(texts), names[: len(texts)], **options)


def test_each_text_meets_each_and_equal_texts_tie():
    outcomes = by_scores(SCORES, TEXTS)
    # "bb" against "bb" has scores 3 and 2, "e" against "e" NaN and 5: the same text all the same.
    assert outcomes[0, 1][:, :, 0].tolist() == [[0, 0.5], [0.5, 0.5], [0, 0.5]]
    wins = average_outcomes(outcomes, 2)
    assert wins[:, 0, 1].tolist() == [0.25, 0.5, 0.25]
    assert wins[:, 1, 0].tolist() == [0.75, 0.5, 0.75]
    assert np.isnan(wins[:, [0, 1], [0, 1]]).all()


def test_undefined_scores_are_no_comparisons():
    texts = [[["a", "b"]], [["c"]]]
    outcomes = by_scores([np.array([[1.0, math.nan]]), np.array([[0.0]])], texts)
    assert outcomes[0, 1].ravel() == pytest.approx([1, math.nan], nan_ok=True)
    result = judged(outcomes, texts).pairs[0, 1]
    assert (result.prompts, result.comparisons, result.rate[0]) == (1, 1, 1)


def test_win_rate_ties_and_lengths_by_hand():
    result = judged(by_scores(SCORES, TEXTS)).pairs[0, 1]
    assert result.rate[0] == pytest.approx((0.25 + 0.5 + 0.25) / 3)
    assert result.wins == 0
    assert result.ties == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert (result.prompts, result.comparisons) == (3, 6)
    assert result.equal == pytest.approx(2 / 6)
    # Decided are "a" against "bb", by the longer text, and "d" against "e", of equal lengths.
    assert result.longer_won == 1
    assert (result.winner_length, result.loser_length) == (1.5, 1)


def test_intervals_are_the_quantiles_of_all_resamples():
    texts = [[[f"{model}{n}"] for n in range(5)] for model in range(3)]
    rng = np.random.default_rng(2)
    scores = [rng.normal(size=(5, 1)) for _ in range(3)]
    scores[0][:3], scores[1][:3] = scores[1][:3] + 0.0, scores[0][:3] + 0.0
    outcomes = by_scores(scores, texts)
    outcomes[0, 1][4] = 0.5
    wins = average_outcomes(outcomes, 3)
    resamples = np.array(list(itertools.product(range(5), repeat=5)))  # each as likely
    verdict = judged(outcomes, texts, resamples=5_000)
    spread = 0
    for (i, j), result in verdict.pairs.items():
        every = wins[:, i, j][resamples].mean(1)
        ends = np.quantile(every, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
        assert result.rate[0] == pytest.approx(wins[:, i, j].mean())
        if 0 < result.rate[0] < 1:
            assert result.rate[1:] == pytest.approx(tuple(ends), abs=0.03)
            spread += 1
    assert spread >= 2


@pytest.mark.parametrize("won", [True, False])
def test_a_win_on_every_prompt_has_the_exact_binomial_interval(won):
    texts = [[["a"]] * 20, [["b"]] * 20]
    scores = [np.full((20, 1), float(won)), np.full((20, 1), float(not won))]
    verdict = judged(by_scores(scores, texts), texts)
    low = 0.025 ** (1 / 20)
    expected = (1, low, 1) if won else (0, 0, 1 - low)
    assert verdict.pairs[0, 1].rate == pytest.approx(expected)
    assert verdict.elo == []
    winner, loser = ("sft", "ppo") if won else ("ppo", "sft")
    assert verdict.no_strengths.startswith(f"{winner} never lost to {loser}")


def test_ties_everywhere_are_strengths_of_0():
    texts = [[["a"]] * 4, [["b"]] * 4, [["c"]] * 4]
    verdict = judged(by_scores([np.zeros((4, 1))] * 3, texts), texts)
    assert all(result.rate == (0.5, 0.5, 0.5) for result in verdict.pairs.values())
    assert verdict.elo == [pytest.approx((0, 0, 0), abs=1e-6)] * 3


def test_resamples_without_a_loss_leave_an_end_open():
    texts = [[["a"]] * 10, [["b"]] * 10]
    scores = [np.zeros((10, 1)), np.array([[1.0]] * 9 + [[-1.0]])]  # .9^10 = .35 of the resamples
    ((_, *_), (estimate, low, high)) = judged(by_scores(scores, texts), texts).elo
    assert estimate == pytest.approx(400 * math.log10(9))
    assert 0 < low < estimate and high == math.inf
    ridged = judged(by_scores(scores, texts), texts, ridge=1).elo[1]
    assert 0 < ridged[0] < estimate and math.isfinite(ridged[2])


def test_choices_count_for_all_models_that_wrote_the_texts():
    texts = [[["a"], ["c"]], [["b"], ["d"]], [["b"], ["c"]]]
    choices = [
        Choice("p", "b", "a", 1.0),  # the second text is the first model's
        Choice("p", "a", "b", 0.5),
        Choice("q", "c", "d", 1.0),
        Choice("q", "c", "zzz", 1.0),
        Choice("nowhere", "a", "b", 1.0),
        Choice("q", "c", "c", 1.0),  # of equal texts
    ]
    outcomes, strangers = by_choices(choices, ["p", "q"], texts)
    assert strangers == 3
    nan = math.nan
    for pair, values in {(0, 1): [0.25, 1], (0, 2): [0.25, nan], (1, 2): [nan, 0]}.items():
        assert outcomes[pair].ravel() == pytest.approx(values, nan_ok=True)
    # Who was never compared with whom on a prompt is left out of its rate.
    assert judged(outcomes, texts).pairs[1, 2].prompts == 1


def test_agreement_by_hand():
    first = {(0, 1): np.array([[[1.0]], [[0.0]], [[0.5]], [[math.nan]]])}
    second = {(0, 1): np.array([[[1.0]], [[1.0]], [[1.0]], [[0.0]]])}
    (value, low, high), comparisons = agreement(first, second)
    assert (value, comparisons) == (pytest.approx((1 + 0 + 0.5) / 3), 3)
    assert low < value < high
    assert agreement(first, first)[0] == (1, 1, 1)


def test_agreement_averages_a_prompt_first():
    first = {(0, 1): np.array([[[1.0, 1.0, 1.0]], [[1.0, math.nan, math.nan]]])}
    second = {(0, 1): np.array([[[1.0, 1.0, 1.0]], [[0.0, 1.0, 1.0]]])}
    assert agreement(first, second)[0][0] == 0.5
