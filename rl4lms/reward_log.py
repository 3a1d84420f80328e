"""The diagnosis inside a training run: of the rewards of its last iterations, by input."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from common.files import Row, RowLog
from rft_diagnose.classes import CLASSES
from rft_diagnose.diagnose import Diagnosis, diagnose
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.names import POOLED_HERE

NO_SPREAD = ("no_spread_low", "no_spread_high")


class RewardLog:
    """A row per text of a run: step (iteration), prompt_id, reward and its parts, kl_penalty; what they say.

    A table that diagnose_vanishing_gradients.py reads. rows: of the run's file; those of the last iterations
    are read back, so that a run that goes on pools what the uninterrupted one does.
    """

    def __init__(self, rows: RowLog) -> None:
        self._rows = rows
        self._recent = deque(rows.read())
        self._drop()

    def add(
        self,
        iteration: int,
        inputs: Sequence[str],
        rewards: Sequence[float],
        penalties: Sequence[float],
        kept: Sequence[bool] | None = None,
        parts: Mapping[str, Sequence[float | None]] | None = None,
    ) -> dict[str, float]:
        """Record the texts of an iteration, [E] each, and return `signal_statistics` of the last ones.

        penalties: what the KL reward takes off the reward of each; kept: which are trained on, None = all;
        parts: of the rewards, by name; None for one that does not apply.
        """
        for i, (name, reward, penalty) in enumerate(zip(inputs, rewards, penalties, strict=True)):
            row = {"step": iteration, "prompt_id": name, "reward": reward, "kl_penalty": penalty}
            if kept is not None:
                row["kept"] = kept[i]
            row |= {f"reward/{part}": values[i] for part, values in (parts or {}).items()}
            self._rows.append(row)
            self._recent.append(row)
        self._drop()
        return signal_statistics(list(self._recent))

    def _drop(self) -> None:
        while self._recent and self._recent[0]["step"] <= self._recent[-1]["step"] - POOLED_HERE:
            self._recent.popleft()


def signal_statistics(rows: Sequence[Row]) -> dict[str, float]:
    """Say which inputs carry signal in the texts of some iterations (see RewardLog), by `signal/<name>`.

    An input counts if it has two texts or more; if none has, only `signal/inputs`, 0, is returned, since then
    nothing is known of the spread within inputs. inputs: their number, that of which the others are shares;
    texts_per_input; the classes (dead_low and dead_high where an input has the texts for such a verdict);
    spread, no_spread_low, no_spread_high; within_std, between_std,
    within_share (of the variance); penalised_spread, penalised_within_std: of the reward less the KL penalty.
    A share that the rewards do not define is left out.
    """
    _, codes, counts = np.unique([row["prompt_id"] for row in rows], return_inverse=True, return_counts=True)
    several = counts[codes] > 1
    statistics = {"inputs": float((counts > 1).sum())}
    if several.any():
        rewards, penalties = (
            np.array([row[key] for row in rows], dtype=float)[several] for key in ("reward", "kl_penalty")
        )
        codes = codes[several]
        statistics["texts_per_input"] = len(codes) / statistics["inputs"]
        statistics |= _signal(codes, rewards)
        penalised = _diagnose(codes, rewards, penalties)
        if penalised is not None:
            statistics["penalised_spread"] = 1 - penalised.summary["no_spread"]["share"]
            statistics["penalised_within_std"] = penalised.summary["variance"]["within_std"]
    return {f"signal/{name}": value for name, value in statistics.items()}


def _signal(codes: Ints, rewards: Floats) -> dict[str, float]:
    diagnosis = _diagnose(codes, rewards, None)
    if diagnosis is None:
        # All rewards are one number outside [0, 1]: no spread, be that number good or bad.
        constant = np.isfinite(rewards).all() and rewards.min() == rewards.max()
        return {"spread": 0.0, "within_std": 0.0, "between_std": 0.0} if constant else {}
    summary = diagnosis.summary
    provable = diagnosis.inputs.n.max() >= summary["dead_needs"]
    names = CLASSES if provable else ("live", "uncertain")
    statistics = {name: summary["classes"][name]["share"] for name in names}
    statistics["spread"] = 1 - summary["no_spread"]["share"]
    statistics |= {name: summary[name]["share"] for name in NO_SPREAD}
    variance = summary["variance"]
    statistics |= {name: variance[name] for name in ("within_std", "between_std")}
    if variance["within_share"] is not None:
        statistics["within_share"] = variance["within_share"]
    return statistics


def _diagnose(codes: Ints, rewards: Floats, penalties: Floats | None) -> Diagnosis | None:
    """Diagnose rewards; None where nothing can be said of them."""
    try:
        if penalties is None:
            return diagnose(rewards, codes, estimate=False)
        return diagnose(rewards, codes, kl=penalties, kl_coef=1.0, estimate=False)
    except DiagnosisError:
        return None
