"""`alg.select_by`: the checkpoint with the best evaluation on val, as InstructGPT chooses its SFT model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rl4lms.metrics.names import LOWER_IS_BETTER
from rl4lms.run_setup import TrainingDataError, TrainingSetup
from rl4lms.sft.checkpoints import checkpoints_in, read_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint after so many updates and completed epochs, and the value of its evaluation on val."""

    path: Path
    step: int
    epoch: float
    value: float


def best_checkpoint(setup: TrainingSetup, folder: Path, metric: str) -> Evaluated | None:
    """Find the checkpoint with the best value of a metric on val, of equal ones the first; None: no value.

    The main process's affair.
    """
    evaluated = evaluated_checkpoints(setup, folder, metric)
    best = choose_best(evaluated, metric)
    if best is None:
        logger.warning("no checkpoint has a value of %s on val: the model is that of the last update", metric)
    else:
        shown = f"{metric} {best.value:.4g} on val, the best"
        logger.info("the model is that of update %d (epoch %.4g): %s", best.step, best.epoch, shown)
    return best


def check_metric(metric: str, values: Mapping[str, float]) -> None:
    """Raises TrainingDataError: the first evaluation on val has no such value."""
    if metric not in values:
        raise TrainingDataError(
            f"alg.select_by.metric: evaluations have no value {metric!r}; there are: {', '.join(values)}"
        )


def evaluated_checkpoints(setup: TrainingSetup, folder: Path, metric: str) -> list[Evaluated]:
    """List the checkpoints whose evaluations on val have the metric."""
    assert setup.run is not None  # the main process's
    rows = setup.run.rows(f"{setup.prefix}val_split_metrics.jsonl", "epoch").read()
    values = {row["epoch"]: row["metrics"] for row in rows}
    evaluated = []
    for path in checkpoints_in(folder):
        state = read_state(path)
        epoch = round(state["epoch"], 6)
        value = values.get(epoch, {}).get(metric)
        if value is not None and value == value:  # not NaN
            evaluated.append(Evaluated(path, state["global_step"], epoch, value))
    return evaluated


def choose_best(evaluated: list[Evaluated], metric: str) -> Evaluated | None:
    """Choose the highest value, of TER and perplexity the lowest; of equal ones the first."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return max(evaluated, key=lambda checkpoint: sign * checkpoint.value, default=None)
