"""The diagnoses of a table of rewards: of what is optimised, and of each reward that goes into it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl4lms.diagnosis.diagnose import Diagnosis, diagnose
from rl4lms.diagnosis.groups import DiagnosisError, Floats
from rl4lms.diagnosis.tables import RewardTable

logger = logging.getLogger(__name__)


def diagnose_table(
    table: RewardTable,
    weights: Sequence[float] | None = None,
    kl_coef: float | None = None,
    reward_range: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[str, Diagnosis]:
    """Name -> diagnosis, first what is optimised: the weighted sum of the rewards, less the KL penalty.

    weights: of the rewards (1 each); reward_range: of their sum; settings: the others of `diagnose`. A part
    that cannot be diagnosed alone is left out with a warning. Raises DiagnosisError.
    """
    names = list(table.rewards)
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise DiagnosisError(f"{len(weights)} weights for {len(names)} rewards: {', '.join(names)}")
    terms = [name if w == 1 else f"{w:g} {name}" for name, w in zip(names, weights, strict=True)]
    total, columns = " + ".join(terms), dict(table.rewards)
    columns = {total: weighted_sum(list(columns.values()), weights), **columns}
    settings["steps"] = table.steps
    found = {}
    if kl_coef is not None:
        penalised = f"{total} - {kl_coef:g} KL"
        found[penalised] = diagnose(
            columns[total], table.codes, kl=table.kl, kl_coef=kl_coef, reward_range=reward_range, **settings
        )
    for name, rewards in columns.items():
        try:
            found[name] = diagnose(
                rewards, table.codes, reward_range=reward_range if name == total else None, **settings
            )
        except DiagnosisError as error:
            if not found:
                raise
            logger.warning("%s alone: %s", name, error)
    return found


def weighted_sum(columns: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of rewards [M] each; one that is missing adds nothing, all missing give NaN."""
    stacked = np.stack(columns) * np.array(weights)[:, None]
    return np.where(np.isnan(stacked).all(0), np.nan, np.nansum(stacked, 0))
