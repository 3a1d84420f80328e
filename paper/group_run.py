"""The comparison of group algorithms with PPO: learning rates chosen by the study's rule, all runs, drawn."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from common.arguments import this_command
from common.outlook import Series
from paper.gpu_hours import Stage
from paper.group_study import (
    PPO,
    SHORT_SFT,
    Rates,
    budget,
    group_cases,
    group_comparison,
    group_selection,
    groups_of,
    iteration_tokens,
    rates_tried,
)
from paper.study import Fields, StudyConfig, StudyRun, load_study, select_tasks, train_reward
from paper.study_plans import Part
from paper.study_run import Done, finished_phase, run_phase
from paper.text_study import (
    MINUTES,
    STUDIES,
    case_labels,
    collect_sources,
    make_models,
    models_missing,
    run_minutes,
)

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item
    from figures.study import Source

logger = logging.getLogger(__name__)

ITEM = "table_groups"
SELECTION, COMPARISON = "group_selection", "groups"  # names of the two plans


def study_of_groups(scale: str) -> StudyConfig:
    """The study of a scale, as far as the comparison needs it. Raises ConfigError."""
    study = load_study(STUDIES[scale])
    assert study.groups is not None, f"{STUDIES[scale]} has no groups"
    return select_tasks(study, {case.task for case in group_cases(study)})


def stages(scale: str, seeds: int, jobs: int) -> list[Stage]:
    """What is left of the comparison. Raises ConfigError."""
    study, minutes = study_of_groups(scale), MINUTES[scale]
    missing = models_missing(study)
    models = [minutes[config.model_type] for config in missing.values()]
    rows = [Stage("models", len(models), sum(models) / jobs)]
    selection = group_selection(study)
    tried = [] if missing else finished_phase(study, SELECTION, selection, seeds=1, jobs=jobs)
    rates = chosen_rates(study, tried) if len(tried) == len(selection.runs) else any_rates(study)
    comparison = group_comparison(study, rates)
    measured = [] if missing else finished_phase(study, COMPARISON, comparison, seeds=seeds, jobs=jobs)
    rows.append(_stage(study, scale, "learning rates", selection, tried, 1, jobs))
    rows.append(_stage(study, scale, "groups", comparison, measured, seeds, jobs))
    return rows


def _stage(
    study: StudyConfig, scale: str, name: str, part: Part, done: Sequence[Done], seeds: int, jobs: int
) -> Stage:
    """What is left of a plan."""
    there = Counter(item.run.configuration for item in done)
    count, total = 0, 0.0
    for configuration, run in zip(part.configurations, part.runs, strict=True):
        left = (configuration.get("repetitions") or seeds) - there[run.configuration]
        count += left
        total += left * _minutes(study, MINUTES[scale], configuration, run)
    return Stage(name, count, total / jobs)


def _minutes(study: StudyConfig, minutes: Mapping[str, float], configuration: Fields, run: StudyRun) -> float:
    """Minutes of an experiment on one core."""
    if run.kind == "extraction" or run.method in (PPO, SHORT_SFT):
        return run_minutes(study, minutes, configuration, run)
    assert run.reward is not None
    tokens = budget(study, study.case(f"{run.task}_{run.reward}"))
    return minutes["group"] * tokens / iteration_tokens(study, study.tasks[run.task])


def any_rates(study: StudyConfig) -> dict[str, float]:
    """A learning rate for each algorithm, before one is chosen."""
    return {method: rates_tried(study, method)[0] for method in (PPO, *groups_of(study).algorithms)}


def chosen_rates(study: StudyConfig, tried: Sequence[Done]) -> dict[str, float]:
    """The rate of each algorithm with the best mean train reward over the tasks that it was tried on."""
    rewards: dict[tuple[str, float], list[float]] = {}
    for done in tried:
        assert done.run.reward is not None
        key = study.rewards[done.run.reward].key
        rate = done.experiment.changes["alg.args.learning_rate"]
        rewards.setdefault((done.run.method, rate), []).append(train_reward(done.path, key))
    return {
        method: max(rates_tried(study, method), key=lambda rate: fmean(rewards.get((method, rate), [0])))
        for method in (PPO, *groups_of(study).algorithms)
    }


def run_groups(study: StudyConfig, *, seeds: int, jobs: int, series: Series) -> list[Done]:
    """Run what is missing and return what is reported; finished runs, PPO's of the study too, are used.

    Raises StudyError, StudyInterrupted, ConfigError.
    """
    selection = group_selection(study)
    tried = run_phase(study, SELECTION, selection, seeds=1, jobs=jobs, console=True, series=series)
    rates: Rates = chosen_rates(study, tried)
    for method, rate in rates.items():
        logger.info("learning rate of %s %g", method, rate)
    series.foreseen = 0  # from here on it is known
    comparison = group_comparison(study, rates)
    return run_phase(study, COMPARISON, comparison, seeds=seeds, jobs=jobs, console=True, series=series)


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

    sources = group_sources(study, done)
    return draw_groups(
        sources["extraction"], sources["training"], case_labels(study), results, folder, this_command()
    )


def group_sources(study: StudyConfig, done: Sequence[Done]) -> dict[str, list[Source]]:
    """The finished runs as the figures take them, of the cases of the comparison alone."""
    cases = {case.name for case in group_cases(study)}
    return {
        kind: [source for source in sources if source.task in cases]
        for kind, sources in collect_sources(study, done).items()
    }
