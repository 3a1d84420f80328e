"""The comparison of group algorithms with PPO: learning rates chosen by the study's rule, all runs, drawn."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.arguments import this_command
from common.outlook import Series
from paper.gpu_hours import Stage
from paper.group_study import (
    PPO,
    Rates,
    budget,
    group_comparison,
    group_selection,
    group_tasks,
    study_tokens,
)
from paper.study import Fields, StudyConfig, StudyRun, load_study, select_tasks, train_reward
from paper.study_run import Done, finished_phase, run_phase
from paper.text_study import MINUTES, STUDIES, collect_sources, make_models, models_missing

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item

logger = logging.getLogger(__name__)

ITEM = "table_groups"
SELECTION, COMPARISON = "group_selection", "groups"  # names of the two plans


def study_of_groups(scale: str) -> StudyConfig:
    """The study of a scale, as far as the comparison needs it. Raises ConfigError."""
    study = load_study(STUDIES[scale])
    assert study.groups is not None, f"{STUDIES[scale]} has no groups"
    return select_tasks(study, group_tasks(study.groups))


def stages(scale: str, seeds: int, jobs: int) -> list[Stage]:
    """What is left of the comparison. Raises ConfigError."""
    study, minutes = study_of_groups(scale), MINUTES[scale]
    missing = models_missing(study)
    models = [minutes[config.model_type] for config in missing.values()]
    rows = [Stage("models", len(models), sum(models) / jobs)]
    tried = group_selection(study)
    selected = [] if missing else finished_phase(study, SELECTION, *tried, seeds=1, jobs=jobs)
    rates = any_rates(study)
    if len(selected) == len(tried[0]):
        rates = chosen_rates(study, selected)
    compared = group_comparison(study, rates)
    measured = [] if missing else finished_phase(study, COMPARISON, *compared, seeds=seeds, jobs=jobs)
    rows.append(_stage(study, scale, "learning rates", tried, selected, 1, jobs))
    # Of each algorithm and task one of the runs of the first seed is there by then.
    shared = {f"{task}-{method.replace('_', '-')}" for task, method in rates}
    rows.append(_stage(study, scale, "groups", compared, measured, seeds, jobs, shared))
    return rows


def _stage(
    study: StudyConfig,
    scale: str,
    name: str,
    planned: tuple[list[Fields], list[StudyRun]],
    done: Sequence[Done],
    seeds: int,
    jobs: int,
    shared: set[str] | None = None,
) -> Stage:
    """What is left of a plan. shared: configurations whose first run is one of an earlier plan."""
    there = Counter(item.run.configuration for item in done)
    count, total = 0, 0.0
    for configuration, run in zip(*planned, strict=True):
        times = configuration.get("repetitions") or seeds
        known = max(there[run.configuration], int(run.configuration in (shared or ())))
        count += times - known
        total += (times - known) * _minutes(study, scale, run)
    return Stage(name, count, total / jobs)


def _minutes(study: StudyConfig, scale: str, run: StudyRun) -> float:
    minutes = MINUTES[scale]
    if run.kind == "extraction":
        return minutes["extraction"]
    if run.method == "short_sft":
        return minutes["sft"]
    kind = "rft" if run.method == PPO else "group"
    return minutes[kind] * budget(study, run.task) / study_tokens(study, run.task)


def any_rates(study: StudyConfig) -> dict[tuple[str, str], float]:
    """A learning rate for each task and algorithm, before one is chosen."""
    groups = study.groups
    assert groups is not None
    return {
        (task, method): (study.rft_learning_rates if method == PPO else groups.learning_rates)[0]
        for task in groups.tasks
        for method in (PPO, *groups.algorithms)
    }


def chosen_rates(study: StudyConfig, tried: Sequence[Done]) -> dict[tuple[str, str], float]:
    """The rate of each task and algorithm with which the reward on the train inputs ended highest."""
    rewards: dict[tuple[str, str], dict[float, float]] = {}
    for done in tried:
        reward = train_reward(done.path, study.tasks[done.run.task].key)
        by_rate = rewards.setdefault((done.run.task, done.run.method), {})
        by_rate[done.experiment.changes["alg.args.learning_rate"]] = reward
    return {key: max(by_rate, key=lambda rate: by_rate[rate]) for key, by_rate in rewards.items()}


def run_groups(study: StudyConfig, *, seeds: int, jobs: int, series: Series) -> list[Done]:
    """Run what is missing and return everything; finished runs, PPO's of the study too, are used as they are.

    Runs at the learning rates that were not chosen come last. Raises StudyError, StudyInterrupted,
    ConfigError.
    """
    tried = run_phase(
        study, SELECTION, *group_selection(study), seeds=1, jobs=jobs, console=True, series=series
    )
    rates: Rates = chosen_rates(study, tried)
    for (task, method), rate in rates.items():
        logger.info("%s: learning rate of %s %g", task, method, rate)
    series.foreseen = 0  # from here on it is known
    compared = group_comparison(study, rates)
    main = run_phase(study, COMPARISON, *compared, seeds=seeds, jobs=jobs, console=True, series=series)
    used = {done.path for done in main}
    return main + [done for done in tried if done.path not in used]


def run_and_draw(args: argparse.Namespace, folder: Path, runs_left: int, results: Results) -> Item:
    """Make the models, run the comparison, draw it into `folder`; its tables go into `results`.

    runs_left: about how many there are to make, for the progress. Raises StudyError, StudyInterrupted,
    ConfigError, KeyboardInterrupt.
    """
    study = study_of_groups(args.scale)
    series = Series(foreseen=runs_left)
    make_models(study, args.jobs, series=series)
    done = run_groups(study, seeds=args.seeds, jobs=args.jobs, series=series)
    # Seconds of imports, only now.
    from figures.table_groups import draw_groups

    sources = collect_sources(study, done)
    labels = {name: task.label.split("\n")[0] for name, task in study.tasks.items()}
    return draw_groups(sources["extraction"], sources["training"], labels, results, folder, this_command())
