"""The diagnoses of a table of rewards: of what is optimised, and of each reward that goes into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl4lms.diagnosis.diagnose import Diagnosis, diagnose
from rl4lms.diagnosis.groups import DiagnosisError, Floats
from rl4lms.diagnosis.tables import RewardTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A reward to diagnose: the weighted sum of some columns, less kl_coef x KL (None: no penalty)."""

    name: str
    weights: dict[str, float]
    kl_coef: float | None = None

    def values(self, columns: Mapping[str, Floats]) -> Floats:
        """The weighted sum [M]; a column that is missing adds nothing, all missing give NaN."""
        return weighted_sum([columns[name] for name in self.weights], list(self.weights.values()))


def targets(names: Sequence[str], weights: Sequence[float] | None, kl_coef: float | None) -> list[Target]:
    """First what is optimised, then the sum without penalty, then each reward. Raises DiagnosisError."""
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise DiagnosisError(f"{len(weights)} weights for {len(names)} rewards: {', '.join(names)}")
    terms = [name if w == 1 else f"{w:g} {name}" for name, w in zip(names, weights, strict=True)]
    of_sum = dict(zip(names, weights, strict=True))
    found = [Target(" + ".join(terms), of_sum)]
    if kl_coef is not None:
        found.insert(0, Target(f"{found[0].name} - {kl_coef:g} KL", of_sum, kl_coef))
    return found + [Target(name, {name: 1.0}) for name in names if name != found[-1].name]


def diagnose_table(
    table: RewardTable,
    weights: Sequence[float] | None = None,
    kl_coef: float | None = None,
    reward_range: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[str, Diagnosis]:
    """Name -> diagnosis of each of the `targets`, in their order.

    weights: of the rewards (1 each); reward_range: of their sum; settings: the others of `diagnose`. A part
    that cannot be diagnosed alone is left out with a warning. Raises DiagnosisError.
    """
    if kl_coef is not None and table.kl is None:
        raise DiagnosisError("a KL coefficient needs the KL of each generation")
    wanted = targets(list(table.rewards), weights, kl_coef)
    found: dict[str, Diagnosis] = {}
    for target in wanted:
        of_sum = target.weights == wanted[0].weights
        try:
            found[target.name] = diagnose(
                target.values(table.rewards),
                table.codes,
                steps=table.steps,
                reward_range=reward_range if of_sum else None,
                kl=None if target.kl_coef is None else table.kl,
                kl_coef=target.kl_coef or 0.0,
                **settings,
            )
        except DiagnosisError as error:
            if not found:
                raise
            logger.warning("%s alone: %s", target.name, error)
    return found


def weighted_sum(columns: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of rewards [M] each; one that is missing adds nothing, all missing give NaN."""
    stacked = np.stack(columns) * np.array(weights)[:, None]
    return np.where(np.isnan(stacked).all(0), np.nan, np.nansum(stacked, 0))
