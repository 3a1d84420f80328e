"""What is said of a plan before it runs and after: on the console, and as a table over seeds."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import Located, Problem
from common.executors import describe_executor
from common.files import atomic_write_text
from common.jobs import Outcome
from common.plan_jobs import describe_outcomes, group_by_setting
from rl4lms.config import (
    ExtractConfig,
    extraction_sizes,
    local_problems,
    missing_components,
    training_sizes,
)
from rl4lms.plan.schema import LoadedPlan, RunConfig
from rl4lms.plan.summary import summarise, table_csv, table_text, unknown_metric

logger = logging.getLogger(__name__)


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: each setting with what it starts from, what it changes, and its sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    settings = group_by_setting(
        loaded.experiments, [experiment.config.runtime.seed for experiment in loaded.experiments]
    )
    counts = f"{len(loaded.experiments)} experiments of {len(settings)} settings"
    print(f"{loaded.plan.name}: {counts}, in {loaded.plan.output_path}")
    for line in describe_executor(loaded.plan):
        print(line)
    for pairs in settings:
        first = pairs[0][0]
        print(f"\n{first.setting}: runtime.seed {', '.join(str(seed) for _, seed in pairs)}")
        print(f"  from: {first.start.setting if first.start else first.config.alg.model_name}")
        for name, value in first.changes.items():
            print(f"  {name}: {value}")
        config = first.config
        sizes = extraction_sizes(config) if isinstance(config, ExtractConfig) else training_sizes(config)
        print(textwrap.indent("\n".join(sizes), "  "))


def what_is_missing(loaded: LoadedPlan) -> list[Located]:
    """What rewards, metrics and datasets of any experiment need and this machine lacks."""
    return _of_configurations(loaded, missing_components)


def data_problems(loaded: LoadedPlan) -> list[Located]:
    """What runs would refuse in the data files of the plan's configurations, each dataset looked at once."""
    known: dict[str, list[Problem]] = {}

    def look(config: RunConfig) -> list[Problem]:
        pool = config.datapool.model_dump(include={"id", "args", "split"})
        key = json.dumps(pool, sort_keys=True, default=str)
        if key not in known:
            known[key] = local_problems(config)
        return known[key]

    return _of_configurations(loaded, look)


def _of_configurations(
    loaded: LoadedPlan, problems_of: Callable[[RunConfig], list[Problem]]
) -> list[Located]:
    """The problems of each configuration's first experiment."""
    first = {experiment.configuration: experiment for experiment in reversed(loaded.experiments)}
    return [
        Located(None, f"{name}: {problem.path}", problem.message)
        for name, experiment in reversed(first.items())
        for problem in problems_of(experiment.config)
    ]


def report(loaded: LoadedPlan, outcomes: Sequence[Outcome], stem: str) -> None:
    """Log how each experiment ended and the table over seeds, which is also written as CSV."""
    for line in describe_outcomes(loaded.plan, loaded.experiments, outcomes):
        logger.info("%s", line)
    if not any(outcome.is_done for outcome in outcomes):
        return
    summaries = summarise(loaded.experiments, outcomes, loaded.plan.score_metric_name)
    for line in table_text(summaries):
        logger.info("  %s", line)
    if problem := unknown_metric(summaries, loaded.plan.score_metric_name):
        logger.warning("%s", problem)
    path = Path(loaded.plan.output_path) / f"{stem}_summary.csv"
    atomic_write_text(path, table_csv(summaries))
    logger.info("summary: %s", path)
