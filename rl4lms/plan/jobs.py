"""Jobs of a plan's experiments, for common.schedule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.jobs import Job
from rl4lms.config import ExtractConfig, SupervisedConfig
from rl4lms.metrics import METRICS
from rl4lms.plan.runs import extract, identity, train
from rl4lms.plan.schema import Experiment, Plan

IMPORTS = ("rl4lms.extract", "rl4lms.on_policy", "rl4lms.sft", "matplotlib.backends.backend_agg")


def imports_of(metrics: Sequence[str]) -> tuple[str, ...]:
    """What runs import that compute these metrics, by id; those of users are left to the runs."""
    own = {METRICS.entries[name].target.partition(":")[0] for name in metrics if name in METRICS.entries}
    return (*IMPORTS, *sorted(own))


def jobs_of(plan: Plan, experiments: Sequence[Experiment]) -> list[Job]:
    """One job for each experiment, in their order; what an experiment starts from must stand before it."""
    jobs: dict[str, Job] = {}
    for experiment in experiments:
        start = jobs[experiment.start.name] if experiment.start is not None else None
        config = experiment.config
        part = config.evaluation if isinstance(config, ExtractConfig) else config.train_evaluation
        if isinstance(config, ExtractConfig):
            work, unit, steps = partial(extract, experiment), "text", config.generations
        else:
            work, steps = partial(train, experiment, plan), None
            unit = "update" if isinstance(config.alg, SupervisedConfig) else "iteration"
        jobs[experiment.name] = Job(
            experiment.name,
            identity(experiment, start.identity if start else None),
            Path(plan.output_path),
            work,
            after=(start,) if start else (),
            imports=imports_of([metric.id for metric in part.metrics]),
            steps=steps or 1,  # the work reports how many there are
            unit=unit,
        )
    return list(jobs.values())
