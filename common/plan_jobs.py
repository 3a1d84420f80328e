"""The experiments of a plan as jobs, and what the summaries of all plans say about how these ended."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from common.console import INTERRUPTED_EXIT_CODE
from common.jobs import Job, Outcome
from common.plan import ConfigT, Experiment, PlanSettings

ResultT = TypeVar("ResultT")


def link_jobs(
    experiments: Iterable[Experiment[ConfigT]], make: Callable[[Experiment[ConfigT], Job | None], Job]
) -> list[Job]:
    """One job for each experiment, in their order; what an experiment starts from must stand before it.

    make(experiment, the job it starts from).
    """
    jobs: list[Job] = []
    by_name: dict[str, Job] = {}
    for experiment in experiments:
        start = by_name[experiment.start.name] if experiment.start is not None else None
        jobs.append(make(experiment, start))
        by_name[experiment.name] = jobs[-1]
    return jobs


def group_by_setting(
    experiments: Sequence[Experiment[ConfigT]], results: Sequence[ResultT]
) -> list[list[tuple[Experiment[ConfigT], ResultT]]]:
    """The repetitions of each setting, each with its result, in the order of the experiments."""
    settings: dict[str, list[tuple[Experiment[ConfigT], ResultT]]] = {}
    for experiment, result in zip(experiments, results, strict=True):
        settings.setdefault(experiment.setting, []).append((experiment, result))
    return list(settings.values())


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Over repetitions; no std of a single one."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def describe_outcomes(
    plan: PlanSettings,
    experiments: Sequence[Experiment[Any]],
    outcomes: Sequence[Outcome],
    results: Sequence[str] | None = None,
) -> list[str]:
    """A line for the plan and one for how each experiment ended: its result, why it has none, its run."""
    lines = [f"plan {plan.name}: {len(outcomes)} experiments"]
    texts = results or [""] * len(outcomes)
    for experiment, outcome, result in zip(experiments, outcomes, texts, strict=True):
        what = textwrap.shorten(outcome.error, 120) if outcome.error else result
        where = f" ({outcome.run})" if outcome.run else ""
        lines.append(f"  {outcome.status:<11} {experiment.name}{f': {what}' if what else ''}{where}")
    return lines


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Of a plan's runner: 0 all finished, 1 some failed, 130 interrupted."""
    statuses = {outcome.status for outcome in outcomes}
    if statuses & {"failed", "not run"}:
        return 1
    return INTERRUPTED_EXIT_CODE if "interrupted" in statuses else 0
