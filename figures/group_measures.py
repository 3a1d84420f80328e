"""Numbers that claims about group algorithms on texts are judged by.

inputs: the rewards of all models by input, see `figures.study.INPUTS`; methods are those of
`figures.study.GROUP_METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from figures.criterion import CONTRAST_TASK, HARD_TASK, SWEPT_TASK
from figures.figure2_table1 import models_by_task
from figures.measured import Measured, NotTestedError
from figures.study import GROUP_METHODS
from figures.table_rewards import mean_rewards, seeds_difference
from figures.tables import with_interval
from rft_diagnose.statistics import LOW_MEAN, Difference, dead

GROUPS = ("grpo", "dapo", "rloo", "dr_grpo", "gspo", "reinforce_pp")
Models = Mapping[str, pd.DataFrame]  # method -> its rows by input


def awake(start: pd.DataFrame, after: pd.DataFrame) -> float:
    """Share of the inputs that were dead at the start whose mean is 0.1 or more after; NaN if none was."""
    means = after["mean"][dead(start["mean"], start["std"])]
    return float((means >= LOW_MEAN).mean())


def group_dead(inputs: pd.DataFrame) -> Measured:
    """The largest share of dead inputs of the hard question that GRPO or DAPO woke, over seeds."""
    shares = {
        f"{GROUP_METHODS[method]}, seed {seed}": awake(models["pretrained"], models[method])
        for seed, models in _seeds(inputs, HARD_TASK, "train").items()
        for method in ("grpo", "dapo")
        if method in models
    }
    if not shares:
        raise NotTestedError(f"no seed has finished extractions of GRPO or DAPO on {HARD_TASK}")
    return Measured(max(shares.values()), "; ".join(f"{name}: {share:.3f}" for name, share in shares.items()))


def group_not_better(inputs: pd.DataFrame) -> Measured:
    """The upper end of the best group algorithm's lead over PPO on test inputs, where it is higher."""
    ends, details = [], []
    for task in (HARD_TASK, SWEPT_TASK):
        method, difference = _best_group_lead(inputs, task, "test")
        ends.append(difference.high)
        details.append(f"{task}, {GROUP_METHODS[method]} {_shown(difference)}")
    return Measured(max(ends), "; ".join(details))


def group_live(inputs: pd.DataFrame) -> Measured:
    """The best group algorithm's lead over PPO on the train inputs of the task without dead ones."""
    method, _ = _best_group_lead(inputs, CONTRAST_TASK, "train")
    seeds = _seeds(inputs, CONTRAST_TASK, "train", ("ppo", method))
    leads = {seed: float(_lead(models, method, "ppo").mean()) for seed, models in seeds.items()}
    shown = ", ".join(f"seed {seed}: {lead:+.3f}" for seed, lead in leads.items())
    return Measured(min(leads.values()), f"{GROUP_METHODS[method]}, {shown}")


def group_cure(inputs: pd.DataFrame) -> Measured:
    """The lower end of the lead over GRPO alone of a short SFT phase, then GRPO, on test inputs."""
    cured = "short_grpo"
    leads = {other: _difference(inputs, SWEPT_TASK, "test", cured, other) for other in ("grpo", "short")}
    shown = "; ".join(f"minus {GROUP_METHODS[other]} {_shown(lead)}" for other, lead in leads.items())
    return Measured(leads["grpo"].low, shown)


def group_scale(method: str, worst: Callable[[Sequence[float]], float]) -> Callable[[pd.DataFrame], Measured]:
    """Share of the gain with the full reward that a method has with the scaled one; the worst seed's."""

    def measure(inputs: pd.DataFrame) -> Measured:
        scaled = f"{method}_scaled"
        shares, details = [], []
        for seed, models in _seeds(inputs, CONTRAST_TASK, "train", (method, scaled)).items():
            start = float(mean_rewards(models, "pretrained").mean())
            gains = [float(models[name]["mean"].mean()) - start for name in (scaled, method)]
            if gains[1] <= 0:
                raise NotTestedError(f"{GROUP_METHODS[method]} gains nothing with the full reward")
            shares.append(gains[0] / gains[1])
            details.append(f"seed {seed}: gains {gains[0]:+.3f} of {gains[1]:+.3f}")
        return Measured(worst(shares), "; ".join(details))

    return measure


def _seeds(inputs: pd.DataFrame, task: str, split: str, needed: Sequence[str] = ()) -> dict[int, Models]:
    """The models of each seed that has all that are needed. Raises NotTestedError: no seed has."""
    seeds: dict[int, Models] = {
        seed: models
        for name, seed, models in models_by_task(inputs, ("pretrained", *needed), split)
        if name == task
    }
    if not seeds and needed:
        missing = ", ".join(GROUP_METHODS[method] for method in needed)
        raise NotTestedError(f"no seed has finished extractions of {missing} on {split} inputs of {task}")
    return seeds


def _lead(models: Models, method: str, other: str) -> np.ndarray:
    return mean_rewards(models, method) - mean_rewards(models, other)


def _difference(inputs: pd.DataFrame, task: str, split: str, method: str, other: str) -> Difference:
    seeds = _seeds(inputs, task, split, (method, other))
    return seeds_difference([_lead(models, method, other) for models in seeds.values()])


def _best_group_lead(inputs: pd.DataFrame, task: str, split: str) -> tuple[str, Difference]:
    """The group algorithm of the highest mean reward, of those with a run for each of PPO's seeds; its lead.

    Raises NotTestedError: no PPO, or no group algorithm.
    """
    seeds = _seeds(inputs, task, split, ("ppo",))
    rewards = {
        method: np.mean([models[method]["mean"].mean() for models in seeds.values()])
        for method in GROUPS
        if all(method in models for models in seeds.values())
    }
    if not rewards:
        raise NotTestedError(f"no group algorithm has finished with every seed of PPO on {task}")
    best = max(rewards, key=lambda method: rewards[method])
    return best, _difference(inputs, task, split, best, "ppo")


def _shown(difference: Difference) -> str:
    over = f"over {difference.pairs} seeds" if difference.pairs > 1 else "one seed, over inputs"
    return f"{with_interval(difference.mean, difference.low, difference.high, '{:+.3f}'.format)} ({over})"
