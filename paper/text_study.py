"""Figures 1, 2, 4, 5 and Tables 1, 2: the study of text generation tasks, run and drawn."""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from common.arguments import this_command
from common.jobs import Job, JobKey, Outcome
from common.links import link_problem, publish
from common.outlook import Series
from common.plan import PlanSettings
from common.run_dir import RunError
from common.schedule import run_jobs
from common.workers import start_method
from paper.gpu_hours import Stage, hours_lines
from paper.small_models.config import PretrainConfig, model_folder
from paper.small_models.jobs import make_job
from paper.study import Fields, StudyConfig, StudyRun, load_study, models_needed, select_tasks
from paper.study_plans import Part, after_sft, comparison, rft_iterations, sweeps
from paper.study_run import (
    INTERRUPT_MESSAGE,
    Done,
    Scope,
    StudyError,
    StudyInterrupted,
    any_rates,
    finished,
    first_jobs,
    run_study,
    selection_part,
)
from rl4lms.config import GroupConfig, OnPolicyConfig
from rl4lms.model.source import check_model_source
from rl4lms.plan.runs import list_imports

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.items import Study
    from figures.report import Item
    from figures.study import Source

logger = logging.getLogger(__name__)

STUDIES = {
    "laptop": "rl4lms_scripts/laptop/study.yml",
    "smoke": "rl4lms_scripts/laptop/smoke.yml",
    "real": "rl4lms_scripts/real/study.yml",
}
ITEMS = ("figure1", "figure2", "table1", "table_rewards", "figure5", "table2", "figure4")
REAL_ITEMS = ("figure1", "table_rewards", "figure5")  # the others need many tasks, or sweeps
REWARDS_ITEM, SWEEP_ITEMS = "table_rewards", ("table2", "figure4")
# Minutes on one of two cores, measured; for the table of stages alone. Of a model; of an extraction of train
# and of test inputs; of a full SFT; of an iteration of RFT, and of as many tokens by a group algorithm.
MINUTES: dict[str, dict[str, float]] = {
    "laptop": {
        "seq2seq": 13,
        "causal": 6.5,
        "classifier": 1.5,
        "train": 0.2,
        "test": 0.1,
        "rft": 0.047,
        "group": 0.015,
        "sft": 0.8,
    },
    "smoke": {
        "seq2seq": 0.3,
        "causal": 0.3,
        "classifier": 0.1,
        "train": 0.03,
        "test": 0.03,
        "rft": 0.03,
        "group": 0.02,
        "sft": 0.1,
    },
    "real": {"train": 1, "test": 1, "rft": 0.3, "sft": 4},
}
# The paper's datasets, for each item: Figures 1 and 5 and Table 1 show some of them, Figure 2 all.
SHOWN, ALL = ("narrative_qa", "totto", "imdb"), ("common_gen", "cnn", "iwslt2017", "dialog")
PAPER_PLANS = {
    "figure1": [f"{name}_comparison" for name in SHOWN],
    "figure2": [f"{name}_comparison" for name in (*SHOWN, *ALL)],
    "table1": [f"{name}_comparison" for name in SHOWN[:2]],
    "table_rewards": [f"{name}_comparison" for name in (*SHOWN, *ALL)],
    "figure5": ["narrative_qa_comparison"],
    "table2": ["narrative_qa_section_5_1"],
    "figure4": ["narrative_qa_section_5_2"],
}


def asked_items(only: Sequence[str] | None, scale: str = "laptop") -> list[str]:
    """The items of the study among those asked for; all of the scale if none was named."""
    return [item for item in (REAL_ITEMS if scale == "real" else ITEMS) if not only or item in only]


def study_for(scale: str, items: Sequence[str]) -> StudyConfig:
    """The study of a scale, as far as these items need it. Raises ConfigError."""
    study = load_study(STUDIES[scale])
    return select_tasks(study, reported_tasks(study, items))


def reported_tasks(study: StudyConfig, items: Sequence[str]) -> list[str]:
    """The tasks that these items are about."""
    if not study.sweeps or not set(items) <= set(SWEEP_ITEMS):
        return list(study.tasks)
    return [sweep.task for sweep in study.sweeps]


def stages(scale: str, items: Sequence[str], seeds: int, jobs: int) -> list[Stage]:
    """What is left of the stages of the study, in their order. Raises ConfigError."""
    study, minutes = study_for(scale, items), MINUTES[scale]
    rates = any_rates(study)
    models = [minutes[config.model_type] for config in models_missing(study).values()]
    rows = [Stage("models", len(models), sum(models) / jobs)]
    scope = scope_of(study, items)
    there = Counter() if models else finished(study, scope, seeds=seeds, jobs=jobs)
    planned: dict[str, tuple[Part, int]] = {
        "learning rates": (selection_part(study, scope), 1),
        "comparison": (comparison(study, rates), seeds),
    }
    if REWARDS_ITEM in items:
        planned["short SFT, RFT after SFT"] = (after_sft(study, rates), seeds)
    if set(items) & set(SWEEP_ITEMS):
        planned["sweeps"] = (sweeps(study, rates, seeds), seeds)
    counted: Counter[str] = Counter()  # seeds of what earlier stages run: the full SFT
    works: dict[str, str] = {}
    for stage, (part, repetitions) in planned.items():
        if stage != "learning rates":
            part = part.select(lambda run: run.task in scope.tasks)
        runs, total = 0, 0.0
        for configuration, run in zip(part.configurations, part.runs, strict=True):
            work = works[run.configuration] = _work(configuration, works)
            times = configuration.get("repetitions") or repetitions
            left = max(0, times - max(counted[work], there[run.configuration]))
            counted[work] = max(counted[work], times)
            runs += left
            total += left * run_minutes(study, minutes, configuration, run)
        rows.append(Stage(stage, runs, total / jobs))
    return rows


def run_minutes(
    study: StudyConfig, minutes: Mapping[str, float], configuration: Fields, run: StudyRun
) -> float:
    """Minutes of an experiment on one core. minutes: of `MINUTES`."""
    fields = configuration["base_config"]
    if run.kind == "extraction":
        return minutes[run.split]
    if (steps := fields.get("alg.training_args.max_steps")) is not None:
        return minutes["sft"] * steps / study.sft_steps
    return minutes["rft"] * rft_iterations(configuration["config_path"], fields)


def _work(configuration: Fields, works: Mapping[str, str]) -> str:
    """What decides the runs of a configuration: the same for those that are one work under two names.

    works: of the configurations before it, by name.
    """
    start = configuration.get("model_from")
    fields = {"config_path": configuration["config_path"], "base_config": configuration["base_config"]}
    return json.dumps(fields | {"start": works[start] if start else None}, sort_keys=True)


def scope_of(study: StudyConfig, items: Sequence[str]) -> Scope:
    """What these items need."""
    return Scope(
        tasks=reported_tasks(study, items),
        with_rewards=REWARDS_ITEM in items,
        with_sweeps=bool(set(items) & set(SWEEP_ITEMS)),
    )


def models_missing(study: StudyConfig, tasks: Iterable[str] | None = None) -> dict[Path, PretrainConfig]:
    """The models that tasks of a study, or all, need and that are not there. Raises ConfigError."""
    return {
        folder: config
        for folder, config in models_needed(study, tasks).items()
        if not folder.is_dir() or check_model_source(str(folder)) is not None
    }


def list_study_imports(study: StudyConfig) -> list[str]:
    """What the processes import that make the models of a study and run it."""
    metrics = [study.reward(case).metric.id for case in study.cases()]
    return ["paper.small_models.train", *list_imports(metrics)]


def make_models(
    study: StudyConfig,
    jobs: int,
    then: Callable[[Sequence[str]], Sequence[Job]] = lambda tasks: (),
    series: Series | None = None,
) -> None:
    """Train the models that tasks of a study need and that are not there, or go on where it was cut.

    then: jobs of some tasks, which begin as soon as the models of these are there, so that no process waits
    for the slowest model. series: see `run_jobs`. Raises StudyError, StudyInterrupted,
    ConfigError, RunError: something else is where a model belongs.
    """
    missing = models_missing(study)
    if not missing:
        return
    makers: dict[JobKey, tuple[Path, PretrainConfig]] = {}
    for folder, config in missing.items():
        if problem := link_problem(folder):
            raise RunError(problem)
        makers[make_job(config, folder.parent).key] = folder, config
    waiting = dict.fromkeys(study.tasks)

    def begun() -> Sequence[Job]:
        ready = [task for task in waiting if not models_missing(study, [task])]
        for task in ready:
            del waiting[task]
        return then(ready) if ready else ()

    def use(job: Job, outcome: Outcome) -> Sequence[Job]:
        if job.key not in makers or not outcome.is_done or outcome.run is None:
            return ()
        folder, config = makers[job.key]
        publish(model_folder(outcome.run, config), folder)
        return begun()

    settings = PlanSettings(name=study.name, multiprocess=jobs > 1, num_parallel=jobs)
    work = [*(make_job(config, folder.parent) for folder, config in makers.values()), *begun()]
    outcomes = run_jobs(settings, work, interrupt_message=INTERRUPT_MESSAGE, then=use, series=series)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise StudyInterrupted
    if failed := [str(folder) for folder, end in zip(missing, outcomes, strict=False) if not end.is_done]:
        raise StudyError(f"not made: {', '.join(failed)}")


def run_and_draw(args: argparse.Namespace, folder: Path, runs_left: int) -> tuple[list[Item], Results]:
    """Make the models, run the study, draw the asked items into `folder`; returns them with their tables.

    runs_left: about how many there are to make, for the progress. Raises StudyError, StudyInterrupted,
    ConfigError, KeyboardInterrupt.
    """
    items = asked_items(args.only, args.scale)
    study = study_for(args.scale, items)
    series = Series(foreseen=runs_left)
    scope = scope_of(study, items)
    then = partial(first_jobs, study, scope, seeds=args.seeds, jobs=args.jobs)
    make_models(study, args.jobs, then, series)
    done = run_study(study, scope, seeds=args.seeds, jobs=args.jobs, series=series)
    # Seconds of imports, only now.
    from figures.items import collect_results

    drawn = figures_study(study, done)
    results = collect_results(drawn)
    return draw_all(items, drawn, results, folder, args.jobs), results


def draw_all(items: Sequence[str], study: Study, results: Results, folder: Path, jobs: int) -> list[Item]:
    """Draw the items in so many processes: pictures take half a minute of a core."""
    from figures.items import draw

    if jobs == 1 or len(items) == 1:
        return [draw(item, study, results, folder) for item in items]
    with ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context(start_method())) as pool:
        return list(pool.map(draw, items, repeat(study), repeat(results), repeat(folder)))


def collect_sources(study: StudyConfig, done: Sequence[Done]) -> dict[str, list[Source]]:
    """The finished runs as the figures take them, by kind: one for each case that a run is of."""
    from figures.study import Source

    # Without repetition: a sweep's full SFT is that of the comparison.
    sources: dict[str, dict[Source, None]] = {"extraction": {}, "training": {}}
    for item in done:
        run = item.run
        # The pretrained model's statistics are the same for every seed of the finetunings.
        seeds = {other.seed for other in done} if run.method == "pretrained" else {item.seed}
        is_training, after_sft = run.kind == "training", run.method in ("short_rft", "sft_rft")
        for case in study.cases_of(run.task):
            if run.reward in (None, case.reward):
                for seed in sorted(seeds):
                    source = Source(
                        task=case.name,
                        data=case.task,
                        seed=seed,
                        method=run.method,
                        reward=study.reward(case).key,
                        path=item.path,
                        command=item.command,
                        sample=run.sample,
                        split=run.split,
                        sft=item.start if is_training and after_sft else None,
                    )
                    sources[run.kind][source] = None
    return {kind: list(of_kind) for kind, of_kind in sources.items()}


def figures_study(study: StudyConfig, done: Sequence[Done]) -> Study:
    """The finished runs of the paper's items, with how they are called."""
    from figures.criterion import SWEPT_TASK
    from figures.items import Study

    sources = collect_sources(study, done)
    alone = {f"{case.name}-rft": case.name for case in study.cases()}
    swept = tuple(study.first_case(sweep.task).name for sweep in study.sweeps)
    return Study(
        extractions=sources["extraction"],
        trainings=sources["training"],
        labels=case_labels(study),
        base={
            alone[item.run.configuration]: _settings(item) for item in done if item.run.configuration in alone
        },
        swept=swept or (SWEPT_TASK,),
        command=this_command(),
    )


def case_labels(study: StudyConfig) -> dict[str, str]:
    """How each case is called: the task, and below it the reward."""
    return {
        case.name: f"{study.tasks[case.task].label}\n{study.reward(case).label}" for case in study.cases()
    }


def _settings(item: Done) -> dict[str, float]:
    """What RFT of a task was run with, where nothing is raised."""
    alg = item.experiment.config.alg
    assert isinstance(alg, OnPolicyConfig | GroupConfig)
    return {
        "learning_rate": alg.args.learning_rate,
        "temperature": alg.generation_kwargs.temperature,
        "ent_coef": alg.args.ent_coef,
    }


def paper_commands(items: Sequence[str]) -> list[str]:
    """What makes the runs of each item at the paper's scale, what that costs, and what draws them then."""
    if not items:
        return []
    plans = list(dict.fromkeys(plan for item in items for plan in PAPER_PLANS[item]))
    return [
        *(f"{item:<10} {', '.join(PAPER_PLANS[item])}" for item in items),
        *hours_lines([f"rl4lms_scripts/sweeps/{plan}.yml" for plan in plans]),
        "each by: python rl4lms_plan_runner.py --plan_config_path PLAN",
        f"then: python reproduce_paper.py --only {' '.join(items)} --runs outputs/rl4lms_sweeps",
    ]
