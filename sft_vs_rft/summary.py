"""What is said of a plan before it runs and after."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Sequence

from sft_vs_rft.plan import LoadedPlan, Plan, steps_of
from sft_vs_rft.schedule import Outcome


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: resolved configs and derived sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    print(f"{loaded.plan.name}: {len(loaded.experiments)} experiments")
    for experiment in loaded.experiments:
        print(f"\n{experiment.label}: {steps_of(experiment.config)}")
        print(json.dumps(experiment.config.model_dump(), indent=2))


def summary(plan: Plan, outcomes: Sequence[Outcome]) -> list[str]:
    """Lines that say how each experiment ended, and which configuration was the best."""
    lines = [f"plan {plan.name}: {len(outcomes)} experiments"]
    scores: dict[int, list[float]] = {}  # by configuration: several may have one name
    names: dict[int, str] = {}
    for outcome in outcomes:
        result = (
            f"score {outcome.score:.6g}"
            if outcome.score is not None
            else textwrap.shorten(outcome.error or "not run to its end", 120)
        )
        where = f" ({outcome.run})" if outcome.run else ""
        lines.append(f"  {outcome.status:<11} {outcome.experiment.label}: {result}{where}")
        if outcome.score is not None:
            configuration = outcome.experiment.index - outcome.experiment.repetition
            scores.setdefault(configuration, []).append(outcome.score)
            names[configuration] = outcome.experiment.config.experiment_name
    if scores:
        means = {configuration: statistics.fmean(values) for configuration, values in scores.items()}
        best = (max if plan.largest else min)(means, key=means.__getitem__)
        values, spread = scores[best], ""
        if len(values) > 1:
            spread = f", std {statistics.stdev(values):.3g} over {len(values)}"
        metric = "/".join(sorted({o.experiment.config.score_metric_name for o in outcomes}))
        order = "largest" if plan.largest else "smallest"
        lines.append(f"  best ({order} {metric}): {names[best]}, {means[best]:.6g}{spread}")
    return lines
