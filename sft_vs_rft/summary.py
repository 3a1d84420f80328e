"""What is said of a plan before it runs and after."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from common.jobs import Outcome
from common.plan_jobs import describe_outcomes, group_by_setting, mean_and_std
from sft_vs_rft.plan import Experiment, LoadedPlan, Plan, describe_steps


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: resolved configs and derived sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    print(f"{loaded.plan.name}: {len(loaded.experiments)} experiments")
    for experiment in loaded.experiments:
        print(f"\n{experiment.name}: {describe_steps(experiment.config)}")
        print(json.dumps(experiment.config.model_dump(), indent=2))


def summary(
    plan: Plan,
    experiments: Sequence[Experiment],
    outcomes: Sequence[Outcome],
    scores: Sequence[float | None],
) -> list[str]:
    """Lines that say how each experiment ended, and which configuration was the best.

    scores: of the experiments; None: it did not run to its end.
    """
    results = ["not run to its end" if score is None else f"score {score:.6g}" for score in scores]
    lines = describe_outcomes(plan, experiments, outcomes, results)
    settings = [
        (pairs[0][0].config.experiment_name, [score for _, score in pairs if score is not None])
        for pairs in group_by_setting(experiments, scores)
    ]
    measured = [(name, values) for name, values in settings if values]
    if measured:
        choose, order = (max, "largest") if plan.largest else (min, "smallest")
        name, values = choose(measured, key=lambda setting: statistics.fmean(setting[1]))
        mean, std = mean_and_std(values)
        spread = "" if std is None else f", std {std:.3g} over {len(values)}"
        metric = "/".join(sorted({experiment.config.score_metric_name for experiment in experiments}))
        lines.append(f"  best ({order} {metric}): {name}, {mean:.6g}{spread}")
    return lines
