"""The score of a run at its validations: best, last, early stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from sft_vs_rft.config import ExperimentConfig


@dataclass
class ScoreMonitor:
    """Follows one metric over the validations and decides when to stop (fields: see ExperimentConfig)."""

    _STATE: ClassVar = ("history", "best_epoch", "since_best", "stopped", "best_weights")

    metric: str
    is_train: bool
    largest: bool
    early_stop: bool
    min_delta: float
    patience: int
    cooldown: int
    keep_weights: bool
    history: dict[int, float] = field(default_factory=dict)  # epoch -> score, one per validation
    best_epoch: int | None = None
    since_best: int = 0  # validations
    stopped: bool = False
    best_weights: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, config: ExperimentConfig) -> ScoreMonitor:
        return cls(
            config.score_metric_name,
            config.is_train_metric,
            config.score_largest,
            config.early_stop,
            config.early_stop_min_delta,
            config.early_stop_patience,
            config.early_stop_cooldown,
            config.early_stop_restore_best_weights,
        )

    def update(self, epoch: int, row: dict[str, Any], model: nn.Module) -> bool:
        """Take in a validation; True when the run should stop after it.

        A score counts as an improvement when it beats the best by more than `min_delta`. The run stops
        at the first validation, after `cooldown` ones, that makes more than `patience` without one.
        """
        score = row["train" if self.is_train else "val"][self.metric]
        self.history[epoch] = score
        if self.best_epoch is None or self._gain(score, self.history[self.best_epoch]) > self.min_delta:
            self.best_epoch, self.since_best = epoch, 0
            if self.keep_weights:
                self.best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            self.since_best += 1
        self.stopped = (
            self.early_stop and len(self.history) > self.cooldown and self.since_best > self.patience
        )
        return self.stopped

    def restore_best(self, model: nn.Module) -> None:
        """Give `model` the weights of the best validation, if the config asks for it."""
        if self.best_weights is not None:
            model.load_state_dict(self.best_weights)

    def score(self, best: bool) -> float:
        """The score of the last validation, or of the best."""
        scores = list(self.history.values())
        return (max(scores) if self.largest else min(scores)) if best else scores[-1]

    def rank(self, epoch: int) -> float:
        """Sort key of an epoch's score, the best last; an epoch without a validation comes first."""
        if epoch not in self.history:
            return float("-inf")
        return self.history[epoch] if self.largest else -self.history[epoch]

    def _gain(self, score: float, than: float) -> float:
        return score - than if self.largest else than - score

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._STATE:
            setattr(self, name, state[name])
