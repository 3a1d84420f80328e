"""What is said of a plan before it runs and after: on the console, and as a table over seeds."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

from common.config import Located
from common.files import atomic_write_text
from common.jobs import Outcome
from rl4lms.config import ExtractConfig, extraction_sizes, missing_components, training_sizes
from rl4lms.plan.load import LoadedPlan
from rl4lms.plan.schema import Experiment
from rl4lms.plan.summary import summarise, table_csv, table_text, unknown_metric

logger = logging.getLogger(__name__)


def print_check(loaded: LoadedPlan) -> None:
    """What the plan would run: each setting with what it starts from, what it changes, and its sizes."""
    for notice in loaded.notices:
        print(f"note: {notice}")
    by_setting: dict[str, list[Experiment]] = {}
    for experiment in loaded.experiments:
        by_setting.setdefault(experiment.setting, []).append(experiment)
    runs, settings = f"{len(loaded.experiments)} experiments", f"{len(by_setting)} settings"
    print(f"{loaded.plan.name}: {runs} of {settings}, in {loaded.plan.output_path}")
    for setting, experiments in by_setting.items():
        first = experiments[0]
        seeds = ", ".join(str(experiment.seed) for experiment in experiments)
        print(f"\n{setting}: runtime.seed {seeds}")
        print(f"  from: {first.start.setting if first.start else first.config.alg.model_name}")
        for name, value in first.changes.items():
            print(f"  {name}: {value}")
        config = first.config
        sizes = extraction_sizes(config) if isinstance(config, ExtractConfig) else training_sizes(config)
        print(textwrap.indent("\n".join(sizes), "  "))


def what_is_missing(loaded: LoadedPlan) -> list[Located]:
    """What rewards, metrics and datasets of any experiment need and this machine lacks."""
    first = {experiment.configuration: experiment for experiment in reversed(loaded.experiments)}
    return [
        Located(None, f"{name}: {problem.path}", problem.message)
        for name, experiment in reversed(first.items())
        for problem in missing_components(experiment.config)
    ]


def report(loaded: LoadedPlan, outcomes: Sequence[Outcome], stem: str) -> None:
    """Log how each experiment ended and the table over seeds, which is also written as CSV."""
    logger.info("plan %s: %d experiments", loaded.plan.name, len(outcomes))
    for experiment, outcome in zip(loaded.experiments, outcomes, strict=True):
        why = f": {textwrap.shorten(outcome.error, 120)}" if outcome.error else ""
        where = f" ({outcome.run})" if outcome.run else ""
        logger.info("  %-11s %s%s%s", outcome.status, experiment.name, why, where)
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
