"""Bradley-Terry strengths: one number a model, whose differences are the log-odds of winning.

P(i beats j) = sigma(s_i - s_j), fitted by maximum likelihood (logistic regression) to all comparisons at
once: unlike online Elo, the result does not depend on their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

Floats = NDArray[np.float64]

ELO = 400 / np.log(10)  # points of a log-odds of 1: ten to one is 400 points
_STEPS, _TOLERANCE = 100, 1e-10
_ROUNDING = 1e-13  # of the likelihood
_MORE = "compare them on more prompts, or keep strengths finite with --ridge 1"


class StrengthError(UserError):
    """Comparisons that leave a strength infinite or undefined; the message is for the user."""


def bradley_terry(wins: Floats, names: Sequence[str], ridge: float = 0.0) -> Floats:
    """Fit strengths [M] to wins [M, M], how often the row's model won, ties half; the first one's is 0.

    They maximise sum_ij wins_ij log sigma(s_i - s_j) - ridge / 2 |s - mean(s)|^2. Raises StrengthError that
    names the models without finite strengths: those that never lost, groups that were never compared.
    """
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    if ridge == 0:
        _check_finite(wins, names)
    strengths = _maximise(wins, np.ones(wins.shape), ridge)
    return strengths - strengths[0]


def expected_scores(wins: Floats, ridge: float = 0.0) -> Floats:
    """Compute the probability [M] that each model beats the first one, by its strength, for any wins [M, M].

    A model that beat the first (or one that did, and so on) and never lost so has 1, one that only lost has
    0, one that nothing joins to the first has NaN: the limits of a ridge that goes to 0.
    """
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    if ridge > 0:
        strengths = _maximise(wins, np.ones(wins.shape), ridge)
        return _sigma(strengths - strengths[0])
    beats = _reachable(wins > 0)
    together = beats & beats.T
    strengths = _maximise(wins * together, together.astype(np.float64), 0.0)
    scores = np.where(beats[:, 0], 1.0, np.where(beats[0], 0.0, np.nan))
    return np.where(together[0], _sigma(strengths - strengths[0]), scores)


def elo(scores: Floats) -> Floats:
    """Turn probabilities of winning into Elo differences; 0 and 1 are infinite."""
    with np.errstate(divide="ignore"):
        return ELO * (np.log(scores) - np.log1p(-scores))


def _check_finite(wins: Floats, names: Sequence[str]) -> None:
    beats = _reachable(wins > 0)
    if beats.all():
        return
    joined = _reachable((wins + wins.T) > 0)
    if not joined.all():
        groups = {tuple(np.flatnonzero(row).tolist()) for row in joined}
        listed = " and ".join(sorted(_listed(names, group) for group in groups))
        raise StrengthError(
            f"{listed} were never compared with each other: they have no strengths on one scale; judge texts "
            "of both sides, or say that they are about equal with --ridge 1"
        )
    first = min(i for i in range(len(names)) if not (beats[:, i] & ~beats[i]).any())
    group = np.flatnonzero(beats[first] & beats[:, first])
    others = [i for i in range(len(names)) if i not in group]
    raise StrengthError(
        f"{_listed(names, group)} never lost to {_listed(names, others)}: by how much it is stronger has no "
        f"finite answer; {_MORE}"
    )


def _listed(names: Sequence[str], group: Sequence[int] | NDArray[np.intp]) -> str:
    return ", ".join(names[i] for i in group)


def _reachable(steps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which models are joined by steps [M, M], each with itself."""
    reached = steps | np.eye(len(steps), dtype=bool)
    while True:
        further = (reached.astype(np.int64) @ reached.astype(np.int64)) > 0
        if (further == reached).all():
            return reached
        reached = further


def _maximise(wins: Floats, together: Floats, ridge: float) -> Floats:
    """Maximise the likelihood by Newton's steps, halved where one would go down; strengths sum to 0.

    together: [M, M], 1 for models of the same group, within each of which strengths are finite.
    """
    games = wins + wins.T
    strengths = np.zeros(len(wins))
    value = _objective(wins, strengths, ridge)
    for _ in range(_STEPS):
        chance = _sigma(strengths[:, None] - strengths[None, :])
        gradient = (wins - games * chance).sum(1) - ridge * strengths
        curvature = games * chance * (1 - chance)
        hessian = np.diag(curvature.sum(1) + ridge) - curvature
        # Only differences within a group count: its sum is held at 0.
        step = np.linalg.solve(hessian + together, gradient)
        while True:
            moved = _objective(wins, strengths + step, ridge)
            if moved >= value - _ROUNDING * abs(value) or np.abs(step).max() < _TOLERANCE:
                break
            step = step / 2
        strengths, value = strengths + step, moved
        if np.abs(step).max() < _TOLERANCE:
            break
    return strengths


def _objective(wins: Floats, strengths: Floats, ridge: float) -> float:
    log_chance = -np.logaddexp(0.0, strengths[None, :] - strengths[:, None])
    return float((wins * log_chance).sum() - ridge / 2 * (strengths**2).sum())


def _sigma(x: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))
