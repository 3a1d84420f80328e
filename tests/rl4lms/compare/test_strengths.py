"""Bradley-Terry strengths: the optimum, planted strengths, and comparisons that leave them infinite."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from rft_diagnose.statistics import CONFIDENCE
from rl4lms.compare.outcomes import by_scores, equal_texts
from rl4lms.compare.statistics import judge_models
from rl4lms.compare.strengths import ELO, StrengthError, bradley_terry, elo, expected_scores

NAMES = ("sft", "ppo", "ptx", "best")


def sigma(x):
    return 1 / (1 + np.exp(-x))


def optimum_of_scipy(wins: np.ndarray, ridge: float) -> np.ndarray:
    """Strengths of all models but the first, whose strength is 0, by a general optimiser."""

    def loss(free):
        strengths = np.array([0.0, *free])
        differences = strengths[:, None] - strengths[None, :]
        centred = strengths - strengths.mean()
        return (wins * np.log1p(np.exp(-differences))).sum() + ridge / 2 * centred @ centred

    return minimize(loss, np.zeros(len(wins) - 1), method="BFGS", options={"gtol": 1e-9}).x


@pytest.mark.parametrize("ridge", [0.0, 1.0, 25.0])
@pytest.mark.parametrize("models", [2, 3, 4])
def test_the_optimum_is_that_of_scipy(models, ridge):
    rng = np.random.default_rng(models)
    wins = rng.integers(1, 40, size=(models, models)) + 0.5
    np.fill_diagonal(wins, 99)  # of a model against itself: not looked at
    strengths = bradley_terry(wins, NAMES[:models], ridge)
    np.fill_diagonal(wins, 0)
    assert strengths[0] == 0
    assert strengths[1:] == pytest.approx(optimum_of_scipy(wins, ridge), abs=1e-5)
    assert expected_scores(wins, ridge) == pytest.approx(sigma(strengths))


def test_two_models_have_the_log_odds_of_their_wins():
    wins = np.array([[0, 30.0], [90.0, 0]])
    assert bradley_terry(wins, NAMES) == pytest.approx([0, math.log(3)])
    assert elo(expected_scores(wins)) == pytest.approx([0, 400 * math.log10(3)])
    assert pytest.approx(400 / math.log(10)) == ELO


def test_exact_odds_are_recovered_whatever_the_first_model():
    strengths = np.array([0.3, -1.0, 2.0, 0.0])
    games = np.array([[0, 5, 9, 0], [5, 0, 30, 2], [9, 30, 0, 7], [0, 2, 7, 0]])  # not all were compared
    wins = games * sigma(strengths[:, None] - strengths[None, :])
    assert bradley_terry(wins, NAMES) == pytest.approx(strengths - 0.3, abs=1e-9)
    order = [2, 0, 3, 1]
    permuted = bradley_terry(wins[np.ix_(order, order)], NAMES)
    assert permuted == pytest.approx(strengths[order] - 2, abs=1e-9)


def test_strong_odds_converge():
    wins = np.array([[0, 1e-6, 0], [1e6, 0, 1e-6], [0, 1e6, 0]])
    assert bradley_terry(wins, NAMES[:3]) == pytest.approx(
        [0, 12 * math.log(10), 24 * math.log(10)], rel=1e-6
    )


@pytest.mark.parametrize(
    ("wins", "message"),
    [
        ([[0, 0], [7, 0]], "ppo never lost to sft: by how much it is stronger has no finite answer"),
        ([[0, 3, 3], [2, 0, 4], [0, 0, 0]], "sft, ppo never lost to ptx: by how much"),
        ([[0, 0, 1], [2, 0, 1], [3, 0, 0]], "ppo never lost to sft, ptx: by how much"),
        (
            [[0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
            "ptx, best and sft, ppo were never compared with each other: they have no strengths on one scale",
        ),
    ],
)
def test_comparisons_without_finite_strengths_name_the_models(wins, message):
    wins = np.array(wins, dtype=float)
    with pytest.raises(StrengthError, match=message):
        bradley_terry(wins, NAMES[: len(wins)])
    assert np.isfinite(bradley_terry(wins, NAMES[: len(wins)], ridge=1)).all()


def test_expected_scores_are_the_limits_of_a_small_ridge():
    """Above all, below all, in the first one's own group, and joined to it by nothing."""
    wins = np.array(
        [[0, 2, 0, 3, 0], [1, 0, 0, 1, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=float
    )
    scores = expected_scores(wins)
    assert scores == pytest.approx([0.5, 1 / 3, 1, 0, math.nan], nan_ok=True)
    small = expected_scores(wins, ridge=1e-9)
    assert small[:4] == pytest.approx(scores[:4], abs=1e-6)
    assert elo(scores)[2:4].tolist() == [math.inf, -math.inf]


def one_text_each(prompts: int, models: int) -> list[list[list[str]]]:
    return [[[f"text {n} of {model}"] for n in range(prompts)] for model in range(models)]


@pytest.mark.slow
def test_planted_strengths_are_within_their_intervals_at_the_nominal_rate():
    """Comparisons of a prompt depend on each other: each text's quality counts in all of them.

    With Gumbel noise on the qualities the comparison of two texts is Bradley-Terry's.
    """
    rng, planted = np.random.default_rng(0), np.array([0.0, 0.4, -0.3, 1.0])
    prompts, repeats = 150, 250
    texts = one_text_each(prompts, 4)
    equal = equal_texts(texts)
    inside = np.zeros((repeats, 3))
    estimates = []
    for repeat in range(repeats):
        scores = list((planted + rng.gumbel(size=(prompts, 4))).T[:, :, None])
        verdict = judge_models(by_scores(scores, texts), texts, equal, NAMES, resamples=300)
        estimates.append([interval[0] for interval in verdict.elo[1:]])
        for place, (_, low, high) in enumerate(verdict.elo[1:]):
            inside[repeat, place] = low <= ELO * planted[place + 1] <= high
    error = np.mean(estimates, axis=0) - ELO * planted[1:]
    spread = np.std(estimates, axis=0) / math.sqrt(repeats)
    assert (np.abs(error) < 4 * spread + 0.03 * ELO * np.abs(planted[1:])).all()
    rate = inside.mean()
    assert abs(rate - CONFIDENCE) < 4 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / (repeats * 3) * 2)


def test_the_likelihood_is_maximal_in_every_direction():
    rng = np.random.default_rng(3)
    wins = rng.uniform(0.5, 9, size=(3, 3))
    strengths = bradley_terry(wins, NAMES[:3])

    def likelihood(values):
        return sum(
            wins[i, j] * math.log(sigma(values[i] - values[j]))
            for i, j in itertools.permutations(range(3), 2)
        )

    best = likelihood(strengths)
    for step in np.eye(3)[1:] * 1e-3:
        assert likelihood(strengths + step) < best and likelihood(strengths - step) < best
