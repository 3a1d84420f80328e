"""Whether a plan's score will have values."""

from __future__ import annotations

from collections.abc import Iterable

from rl4lms.config import TrainConfig
from rl4lms.metrics.names import metric_problem
from rl4lms.plan.schema import RunConfig


def check_score_metric(name: str | None, configs: Iterable[RunConfig]) -> str | None:
    """What to say of a metric's name that no training of a plan will have a value of; None if one may."""
    metrics = [
        metric
        for config in configs
        if isinstance(config, TrainConfig)
        for metric in config.train_evaluation.metrics
    ]
    return metric_problem(name, metrics) if name is not None and metrics else None
