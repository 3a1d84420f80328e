"""How good rewards are that a model gives completions, as functions of arrays; all of raw rewards.

A comparison's difference is the winner's reward less the loser's; the model of the loss says that it is right
with probability sigma(difference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.statistics import bootstrap_interval, pearson
from rl4lms.rankings import Ranking

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
BINS = 10
SIMULATIONS = 100
RESAMPLES = 1000
FEW = 8  # distinct margins that have a row each


@dataclass(frozen=True)
class Comparisons:
    """P comparisons: difference [P] of the rewards, weight [P], prompt [P], the number of the ranking."""

    difference: Floats
    weight: Floats
    prompt: Indices

    def select(self, wanted: NDArray[np.bool_]) -> Comparisons:
        """Those where `wanted` [P] is True."""
        return Comparisons(self.difference[wanted], self.weight[wanted], self.prompt[wanted])


def accuracy(comparisons: Comparisons) -> float:
    """The weighted share of comparisons that the rewards agree with, equal rewards half; NaN for none.

    A tie that counts, and labels that contradict each other, are right one way and wrong the other.
    """
    whole = comparisons.weight.sum()
    return float(comparisons.weight @ _right(comparisons) / whole) if whole else float("nan")


def accuracy_interval(comparisons: Comparisons, seed: int = 0) -> tuple[float, float]:
    """The 95% bootstrap interval of the accuracy, over prompts: those of one depend on each other."""
    prompts, place = np.unique(comparisons.prompt, return_inverse=True)
    if len(prompts) == 0:
        return float("nan"), float("nan")
    weight = np.bincount(place, comparisons.weight)
    right = np.bincount(place, comparisons.weight * _right(comparisons))
    low, high = bootstrap_interval(
        lambda drawn: right[drawn].sum() / weight[drawn].sum(), len(prompts), seed, RESAMPLES
    )
    return float(low[0]), float(high[0])


def _right(comparisons: Comparisons) -> Floats:
    return (np.sign(comparisons.difference) + 1) / 2


def calibration(comparisons: Comparisons, bins: int = BINS) -> list[dict[str, float]]:
    """Predicted probability against frequency, in bins of equal numbers of comparisons.

    Each comparison counts in both orientations, so that nothing depends on which completion is named first.
    Returns for each bin "predicted" and "frequency" (weighted means) and "weight".
    """
    return _Bins(comparisons, bins).table(np.ones(len(comparisons.weight)))


def calibration_error(table: Sequence[dict[str, float]]) -> float:
    """The mean of |predicted - frequency| over a calibration's bins, by weight; NaN for no bin."""
    if not table:
        return float("nan")
    gaps = [abs(row["predicted"] - row["frequency"]) for row in table]
    return float(np.average(gaps, weights=[row["weight"] for row in table]))


def calibration_error_by_chance(comparisons: Comparisons, bins: int = BINS, seed: int = 0) -> float:
    """The calibration error to expect of a perfectly calibrated model on so many comparisons.

    Labels are drawn with the predicted probabilities: what a finite number of them is off by chance.
    """
    binned, rng = _Bins(comparisons, bins), np.random.default_rng(seed)
    wins = binned.predicted[: len(comparisons.weight)]
    errors = [
        calibration_error(binned.table((rng.random(len(wins)) < wins).astype(np.float64)))
        for _ in range(SIMULATIONS)
    ]
    return float(np.mean(errors))


class _Bins:
    """Both orientations of P comparisons, [2P], in bins by their predicted probability."""

    def __init__(self, comparisons: Comparisons, bins: int) -> None:
        difference = np.concatenate([comparisons.difference, -comparisons.difference])
        self.predicted = 1 / (1 + np.exp(-np.clip(difference, -700, 700)))
        self.weight = np.tile(comparisons.weight, 2)
        parts = np.array_split(self.predicted.argsort(kind="stable"), bins)
        self.parts = [part for part in parts if len(part)]
        _, self._value = np.unique(self.predicted, return_inverse=True)

    def table(self, first_wins: Floats) -> list[dict[str, float]]:
        """The calibration if the winners [P] of the comparisons are right (1) or not (0)."""
        right = np.concatenate([first_wins, 1 - first_wins])
        # Of equal probabilities all have their mean: it must not matter which of them are in which bin.
        mean = np.bincount(self._value, self.weight * right) / np.bincount(self._value, self.weight)
        frequency = mean[self._value]
        return [
            {
                "predicted": float(np.average(self.predicted[part], weights=self.weight[part])),
                "frequency": float(np.average(frequency[part], weights=self.weight[part])),
                "weight": float(self.weight[part].sum()),
            }
            for part in self.parts
        ]


def within_share(rewards: Floats, prompt: Indices) -> float:
    """The share of the variance of rewards [M] that is within prompts [M]; NaN if all are equal."""
    variance = rewards.var()
    return float(centred(rewards, prompt).var() / variance) if variance else float("nan")


def centred(values: Floats, prompt: Indices) -> Floats:
    """Values [M] less the mean of their prompt [M]."""
    return values - (np.bincount(prompt, values) / np.maximum(np.bincount(prompt), 1))[prompt]


def accuracy_table(comparisons: Comparisons, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each group the number of comparisons, of prompts, and the accuracy. groups: [P], one each."""
    labels = np.asarray(groups)
    table = {}
    for name in dict.fromkeys(groups):
        part = comparisons.select(labels == name)
        counts = {"comparisons": float(part.weight.sum()), "prompts": float(len(np.unique(part.prompt)))}
        table[name] = counts | {"accuracy": accuracy(part)}
    return table


def name_margins(margins: Floats) -> list[str]:
    """A group for each margin [P]: its value if there are few, else its quarter of all."""
    distinct = np.unique(margins)
    if len(distinct) <= FEW:
        return [f"{margin:g}" for margin in margins]
    edges = np.quantile(margins, [0, 0.25, 0.5, 0.75, 1])
    quarters = np.clip(np.searchsorted(edges, margins, side="right") - 1, 0, 3)
    return [f"{edges[quarter]:.4g} to {edges[quarter + 1]:.4g}" for quarter in quarters]


def labelled(rankings: Sequence[Ranking], rewards: Sequence[Sequence[float]]) -> Comparisons:
    """The comparisons of rankings under the rewards of their completions, in their order."""
    rows = [
        (scores[pair.winner] - scores[pair.loser], pair.weight, number)
        for number, (ranking, scores) in enumerate(zip(rankings, rewards, strict=True))
        for pair in ranking.pairs
    ]
    return _comparisons(rows)


def gold_pairs(rankings: Sequence[Ranking], rewards: Sequence[Sequence[float]]) -> Comparisons:
    """All pairs of completions of a prompt whose true rewards are known (meta_data "gold") and differ."""
    rows = []
    for number, (ranking, scores) in enumerate(zip(rankings, rewards, strict=True)):
        gold = ranking.meta_data.get("gold")
        if not isinstance(gold, Sequence) or len(gold) != len(scores):
            continue
        rows += [
            (scores[i] - scores[j], 1.0, number)
            for i in range(len(gold))
            for j in range(len(gold))
            if gold[i] > gold[j]
        ]
    return _comparisons(rows)


def _comparisons(rows: Sequence[tuple[float, float, int]]) -> Comparisons:
    difference, weight, prompt = zip(*rows, strict=True) if rows else ((), (), ())
    return Comparisons(
        np.asarray(difference, dtype=np.float64),
        np.asarray(weight, dtype=np.float64),
        np.asarray(prompt, dtype=np.intp),
    )


def measure(
    rankings: Sequence[Ranking], rewards: Sequence[Sequence[float]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compute all of this file of a split, but for the loss: numbers, and tables.

    rewards: raw ones of each ranking's completions. Gold accuracy only where gold is known, accuracy by
    margin and subset only where comparisons have margins, and rankings a meta_data "subset".
    """
    comparisons, gold = labelled(rankings, rewards), gold_pairs(rankings, rewards)
    flat = np.concatenate([np.asarray(scores, dtype=np.float64) for scores in rewards])
    prompt = np.repeat(np.arange(len(rankings)), [len(scores) for scores in rewards])
    lengths = np.asarray(
        [len(text) for ranking in rankings for text in ranking.completions], dtype=np.float64
    )
    table = calibration(comparisons)
    low, high = accuracy_interval(comparisons)
    numbers = {"accuracy": accuracy(comparisons), "accuracy_low": low, "accuracy_high": high}
    if len(gold.weight):
        low, high = accuracy_interval(gold)
        numbers |= {"gold_accuracy": accuracy(gold), "gold_accuracy_low": low, "gold_accuracy_high": high}
    numbers |= {
        "calibration_error": calibration_error(table),
        "calibration_error_by_chance": calibration_error_by_chance(comparisons),
        "reward_mean": float(flat.mean()),
        "reward_std": float(flat.std()),
        "within_share": within_share(flat, prompt),
        "length_correlation": pearson(flat, lengths),
        "length_correlation_within": pearson(centred(flat, prompt), centred(lengths, prompt)),
    }
    pairs = [(ranking, pair) for ranking in rankings for pair in ranking.pairs]
    tables: dict[str, Any] = {
        "calibration": table,
        "accuracy_by_k": accuracy_table(comparisons, [str(len(r.completions)) for r, _ in pairs]),
    }
    if any(pair.margin for _, pair in pairs):
        margins = np.asarray([pair.margin for _, pair in pairs], dtype=np.float64)
        tables["accuracy_by_margin"] = accuracy_table(comparisons, name_margins(margins))
    if any("subset" in ranking.meta_data for ranking in rankings):
        subsets = [str(ranking.meta_data.get("subset", "none")) for ranking, _ in pairs]
        tables["accuracy_by_subset"] = accuracy_table(comparisons, subsets)
    return numbers, tables
