"""Jobs of a plan's experiments, for common.schedule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.jobs import Job
from rl4lms.config import ExtractConfig
from rl4lms.plan.runs import extract, identity, train
from rl4lms.plan.schema import Experiment, Plan

IMPORTS = ("rl4lms.extract", "rl4lms.on_policy", "rl4lms.sft")


def jobs_of(plan: Plan, experiments: Sequence[Experiment]) -> list[Job]:
    """One job for each experiment, in their order; what an experiment starts from must stand before it."""
    jobs: dict[str, Job] = {}
    for experiment in experiments:
        start = jobs[experiment.start.name] if experiment.start is not None else None
        if isinstance(experiment.config, ExtractConfig):
            work, unit, steps = partial(extract, experiment), "text", experiment.config.generations
        else:
            work, unit = partial(train, experiment, plan.keep_checkpoints), "update"
            steps = experiment.config.train_evaluation.n_iters
        jobs[experiment.name] = Job(
            experiment.name,
            identity(experiment, start.identity if start else None),
            Path(plan.output_path),
            work,
            after=(start,) if start else (),
            imports=IMPORTS,
            steps=steps or 1,
            unit=unit,
        )
    return list(jobs.values())
