"""Outcomes of comparisons: each text of a model against each text of another one for the same prompt.

Letters: N prompts, M models, G texts of a model for a prompt. An outcome is 1 where the first of the two
models won, 1/2 for a tie, 0 where it lost, NaN where the judge did not say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl4lms.compare.choices import Choice

Floats = NDArray[np.float64]
Outcomes = dict[tuple[int, int], Floats]  # of models i < j: [N, G_i, G_j], i against j
Texts = Sequence[Sequence[Sequence[str]]]  # [M][N][G], G a model's own


def by_scores(scores: Sequence[Floats], texts: Texts) -> Outcomes:
    """Compare by scores, [N, G] of each model: the higher wins. Equal texts tie, whatever their scores."""
    outcomes = {}
    for (i, j), equal in equal_texts(texts).items():
        differences = scores[i][:, :, None] - scores[j][:, None, :]
        outcomes[i, j] = np.where(equal, 0.5, (1 + np.sign(differences)) / 2)
    return outcomes


def by_choices(choices: Sequence[Choice], prompts: Sequence[str], texts: Texts) -> tuple[Outcomes, int]:
    """Compare as people chose; choices of the same two texts are averaged. Returns how many are of others.

    A choice counts for all models that wrote its texts; of two equal texts there is nothing to choose.
    """
    places: dict[str, list[int]] = {}
    for n, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(n)
    pairs = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))]
    shape = {(i, j): (len(prompts), len(texts[i][0]), len(texts[j][0])) for i, j in pairs}
    sums = {pair: np.zeros(shape[pair]) for pair in pairs}
    counts = {pair: np.zeros(shape[pair]) for pair in pairs}
    strangers = 0
    for choice in choices:
        is_known = False
        for n in places.get(choice.prompt, []):
            for i, j in pairs:
                for first, second, value in (
                    (choice.a, choice.b, choice.value),
                    (choice.b, choice.a, 1 - choice.value),
                ):
                    rows = [k for k, text in enumerate(texts[i][n]) if text == first]
                    columns = [k for k, text in enumerate(texts[j][n]) if text == second]
                    if first != second and rows and columns:
                        is_known = True
                        sums[i, j][n][np.ix_(rows, columns)] += value
                        counts[i, j][n][np.ix_(rows, columns)] += 1
        strangers += not is_known
    return {
        pair: np.where(n > 0, sums[pair] / np.maximum(n, 1), np.nan) for pair, n in counts.items()
    }, strangers


def equal_texts(texts: Texts) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """Tell which texts of two models are the same: of models i < j [N, G_i, G_j]."""
    numbers: dict[str, int] = {}
    coded = [
        np.array([[numbers.setdefault(text, len(numbers)) for text in row] for row in rows]) for rows in texts
    ]
    return {
        (i, j): coded[i][:, :, None] == coded[j][:, None, :]
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
    }


def average_outcomes(outcomes: Outcomes, models: int) -> Floats:
    """Average each prompt's outcomes: [N, M, M], the row's model against the column's; NaN: there is none."""
    prompts = len(next(iter(outcomes.values())))
    wins = np.full((prompts, models, models), np.nan)
    for (i, j), values in outcomes.items():
        wins[:, i, j] = mean_known(values.reshape(prompts, -1))
        wins[:, j, i] = 1 - wins[:, i, j]
    return wins


def mean_known(values: Floats) -> Floats:
    """Average over the last axis what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
