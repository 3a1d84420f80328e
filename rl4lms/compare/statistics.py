"""What a judge's outcomes say of the models: win rates, strengths, lengths; and how far judges agree.

All are averages over prompts of what each prompt's comparisons say; their 95% intervals are by bootstrap over
prompts, since comparisons of the same prompt depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.intervals import clopper_pearson
from rft_diagnose.statistics import CONFIDENCE, RESAMPLES, bootstrap_interval
from rl4lms.compare.outcomes import Floats, Outcomes, Texts, average_outcomes, mean_known
from rl4lms.compare.strengths import StrengthError, bradley_terry, elo, expected_scores

Interval = tuple[float, float, float]  # estimate, low, high; infinite or NaN where there is none


@dataclass(frozen=True)
class PairResult:
    """One model against another by a judge: means over `prompts` prompts with any comparison of the two.

    rate: of the first winning, ties half. wins, ties: shares. comparisons: of texts, in all. equal: the share
    of pairs of texts that are the same, judged or not. longer_won: share of comparisons that the longer text
    won, of those with a winner and different lengths; winner_length, loser_length: in characters. NaN where
    nothing is to be averaged.
    """

    prompts: int
    comparisons: int
    rate: Interval
    wins: float
    ties: float
    equal: float
    longer_won: float
    winner_length: float
    loser_length: float


@dataclass(frozen=True)
class Verdict:
    """What a judge's outcomes say. pairs: of models i < j. elo: differences to the first model, one a model.

    no_strengths: why there are no Elo differences (`elo` is empty then).
    """

    pairs: dict[tuple[int, int], PairResult]
    elo: list[Interval]
    no_strengths: str = ""


def judge_models(
    outcomes: Outcomes,
    texts: Texts,
    equal: dict[tuple[int, int], NDArray[np.bool_]],
    names: Sequence[str],
    ridge: float = 0.0,
    resamples: int = RESAMPLES,
) -> Verdict:
    """Compute all that one judge's outcomes say. equal: see `equal_texts`; ridge: see `bradley_terry`."""
    models, pairs = len(texts), list(outcomes)
    wins = average_outcomes(outcomes, models)
    prompts = len(wins)
    known = ~np.isnan(wins)
    flat, counted = np.where(known, wins, 0.0).reshape(prompts, -1), known.reshape(prompts, -1).astype(float)

    def statistic(positions: NDArray[np.intp]) -> Floats:
        weights = np.bincount(positions, minlength=prompts).astype(float)
        total, count = ((weights @ part).reshape(models, models) for part in (flat, counted))
        with np.errstate(invalid="ignore"):
            rates = total / count
        return np.concatenate([[rates[pair] for pair in pairs], expected_scores(total, ridge)])

    everything = np.arange(prompts)
    estimate = statistic(everything)
    low, high = bootstrap_interval(statistic, prompts, resamples=resamples)
    rates = [_interval(estimate, low, high, place) for place in range(len(pairs))]
    results = {}
    for pair, rate in zip(pairs, rates, strict=True):
        per_prompt = wins[:, pair[0], pair[1]]
        per_prompt = per_prompt[~np.isnan(per_prompt)]
        if len(per_prompt) and rate[0] in (0, 1):  # on every prompt, so that every resample says so too
            count, n = np.array([per_prompt.sum()]), np.array([len(per_prompt)])
            bounds = clopper_pearson(count, n, (1 - CONFIDENCE) / 2)
            rate = (rate[0], float(bounds[0][0]), float(bounds[1][0]))
        lengths = _lengths(texts, pair)
        results[pair] = _pair_result(outcomes[pair], rate, equal[pair], *lengths)
    try:
        bradley_terry(flat.sum(0).reshape(models, models), names, ridge)
    except StrengthError as error:
        return Verdict(results, [], str(error))
    scores = elo(np.stack([estimate, low, high])[:, len(pairs) :])
    return Verdict(results, [(float(e), float(a), float(b)) for e, a, b in scores.T])


def agreement(first: Outcomes, second: Outcomes, resamples: int = RESAMPLES) -> tuple[Interval, int]:
    """Compute how far two judges agree, on the comparisons that both judged, and the number of these.

    The same outcome is 1, a tie against a decision 1/2, opposite decisions 0: averaged over a prompt's
    comparisons, then over prompts.
    """
    parts = [1 - np.abs(first[pair] - second[pair]) for pair in first]
    both = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    return _mean_over_prompts(mean_known(both), resamples), int((~np.isnan(both)).sum())


def _mean_over_prompts(values: Floats, resamples: int) -> Interval:
    """Average what is not NaN of [N], with its interval."""
    low, high = bootstrap_interval(
        lambda positions: mean_known(values[positions]), len(values), resamples=resamples
    )
    return float(mean_known(values)), float(low[0]), float(high[0])


def _interval(estimate: Floats, low: Floats, high: Floats, place: int) -> Interval:
    return float(estimate[place]), float(low[place]), float(high[place])


def _lengths(texts: Texts, pair: tuple[int, int]) -> tuple[Floats, Floats]:
    first, second = (
        np.array([[len(text) for text in row] for row in texts[model]], dtype=float) for model in pair
    )
    return first[:, :, None], second[:, None, :]


def _pair_result(
    values: Floats, rate: Interval, equal: NDArray[np.bool_], first: Floats, second: Floats
) -> PairResult:
    """Put together what is said of two models.

    values, equal: [N, G_i, G_j]; first, second: lengths of their texts, [N, G_i, 1] and [N, 1, G_j].
    """
    first, second = np.broadcast_to(first, values.shape), np.broadcast_to(second, values.shape)
    known, won, lost = ~np.isnan(values), values > 0.5, values < 0.5

    def mean(part: Floats, where: NDArray[np.bool_]) -> float:
        inside = np.where(where, part, np.nan)
        return float(mean_known(mean_known(inside.reshape(len(inside), -1))))

    decided = won | lost
    return PairResult(
        prompts=int(known.any((1, 2)).sum()),
        comparisons=int(known.sum()),
        rate=rate,
        wins=mean(won.astype(float), known),
        ties=mean((values == 0.5).astype(float), known),
        equal=float(equal.mean()),
        longer_won=mean((won == (first > second)).astype(float), decided & (first != second)),
        winner_length=mean(np.where(won, first, second), decided),
        loser_length=mean(np.where(won, second, first), decided),
    )
