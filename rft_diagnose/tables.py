"""Tables of rewards that somebody has, and the diagnosis of the rewards in them and of what is optimised."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.diagnose import Diagnosis, diagnose
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.errors import listed as join
from rft_diagnose.extractions import read_extraction
from rft_diagnose.files import list_files, without_evaluation
from rft_diagnose.groups import Floats
from rft_diagnose.hub import local_path
from rft_diagnose.names import Columns
from rft_diagnose.objective import ASSUMED, Objective
from rft_diagnose.reading import RewardTable, read_tables
from rft_diagnose.teacher import Teacher, judge_teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A reward to diagnose: the weighted sum of some columns, less kl_coef x KL (None: no penalty)."""

    name: str
    weights: dict[str, float]
    kl_coef: float | None = None

    def values(self, columns: Mapping[str, Floats]) -> Floats:
        """Add up the columns [M] by weight; a column that is missing adds nothing, all missing give NaN."""
        return weighted_sum([columns[name] for name in self.weights], list(self.weights.values()))


def targets(names: Sequence[str], weights: Sequence[float] | None, kl_coef: float | None) -> list[Target]:
    """List what is optimised, then the sum without penalty, then each reward. Raises DiagnosisError."""
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise DiagnosisError(f"{len(weights)} weights for {len(names)} rewards: {', '.join(names)}")
    terms = [name if w == 1 else f"{w:g} {name}" for name, w in zip(names, weights, strict=True)]
    weight = dict(zip(names, weights, strict=True))
    results = [Target(" + ".join(terms), weight)]
    if kl_coef is not None:
        results.insert(0, Target(f"{results[0].name} - {kl_coef:g} KL", weight, kl_coef))
    return results + [Target(name, {name: 1.0}) for name in names if name != results[-1].name]


def diagnose_table(
    table: RewardTable,
    weights: Sequence[float] | None = None,
    kl_coef: float | None = None,
    reward_range: tuple[float, float] | None = None,
    objective: Objective | None = None,
    **settings: Any,
) -> dict[str, Diagnosis]:
    """Diagnose each of the `targets`: name -> diagnosis, in their order.

    objective: of what is optimised (the log's own, or GRPO).
    weights: of the rewards (1 each); reward_range: of their sum; settings: the others of `diagnose`. A part
    that cannot be diagnosed alone is left out with a warning. Raises DiagnosisError.
    """
    if kl_coef is not None and table.kl is None:
        raise DiagnosisError("a KL coefficient needs the KL of each generation")
    wanted = targets(list(table.rewards), weights, kl_coef)
    results: dict[str, Diagnosis] = {}
    known = objective or table.objective or ASSUMED
    normalised = known.aggregation == "normalize_then_sum"
    for target in wanted:
        is_sum = target.weights == wanted[0].weights
        try:
            results[target.name] = diagnose(
                target.values(table.rewards),
                table.codes,
                steps=table.steps,
                reward_range=reward_range if is_sum else None,
                kl=None if target.kl_coef is None else table.kl,
                kl_coef=target.kl_coef or 0.0,
                objective=known,
                parts=[w * table.rewards[name] for name, w in target.weights.items()] if normalised else None,
                **settings,
            )
        except DiagnosisError as error:
            if not results:
                raise
            logger.warning("%s alone: %s", target.name, error)
    return results


def judge_table(table: RewardTable) -> Teacher | None:
    """Judge the reward model whose rewards the table has; None: they are of none. Raises DiagnosisError."""
    if table.gold is None:
        return None
    (rewards,), inputs = table.rewards.values(), len(table.labels)
    name, gold = next(iter(table.gold.items()), (None, None))
    return judge_teacher(
        rewards.reshape(inputs, -1), None if gold is None else gold.reshape(inputs, -1), name
    )


def weighted_sum(columns: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Add up rewards [M] each by weight; one that is missing adds nothing, all missing give NaN."""
    if len(columns) == 1 and weights[0] == 1:
        return columns[0]
    total, missing = np.zeros(len(columns[0])), np.ones(len(columns[0]), dtype=bool)
    for column, weight in zip(columns, weights, strict=True):
        unknown = np.isnan(column)
        total += np.where(unknown, 0.0, weight * column)
        missing &= unknown
    total[missing] = np.nan
    return total


def read_rewards(paths: Sequence[Path], columns: Columns) -> RewardTable:
    """Read the rewards in files, or in all tables of a folder. Raises DiagnosisError: they cannot be used."""
    listed: list[tuple[Path, bool]] = []
    notes: list[str] = []
    for path in map(local_path, paths):
        files, left_out = without_evaluation(path, list_files(path))
        listed += [(file, file != path) for file in files]
        if left_out:
            names = join(file.relative_to(path) for file in left_out)
            notes.append(f"left out, as of evaluation by their names: {names}; give them alone to see these")
    files = list(dict.fromkeys(file for file, _ in listed))
    extractions = [file for file in files if file.suffix == ".pt"]
    if not extractions:
        table = read_tables(files, columns, {file for file, in_folder in listed if in_folder})
        return replace(table, notes=(*notes, *table.notes))
    if len(listed) > 1:
        raise DiagnosisError(f"{extractions[0]}: one extraction at a time, and no other file beside it")
    return read_extraction(files[0], columns)
