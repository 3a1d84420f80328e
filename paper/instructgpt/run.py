"""InstructGPT's pipeline by one command: its stages one after the other, and what is left of them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from common.arguments import this_command
from common.config import ConfigError
from common.files import atomic_write_text
from common.identity import finished_runs
from common.jobs import Job
from common.outlook import Series
from common.plan import PlanSettings
from paper.gpu_hours import Stage
from paper.group_study import GRPO, PPO, RLOO
from paper.instructgpt.config import Pipeline, load_pipeline
from paper.instructgpt.jobs import IMPORTS as OWN_IMPORTS
from paper.instructgpt.jobs import make_job
from paper.instructgpt.plans import (
    REWARD_MODEL,
    loss_runs,
    rankings_runs,
    rates_tried,
    reward_model_runs,
    rl_runs,
    sft_runs,
    start_runs,
)
from paper.instructgpt.runs import RATE, Done, Finished, Planned
from paper.study import StudyConfig, select_tasks, train_reward
from paper.study_run import PLAN_RUNNER, run_to_end
from paper.text_study import MINUTES as MODEL_MINUTES
from paper.text_study import make_models, models_missing
from rl4lms.plan import load_plan
from rl4lms.plan.runs import make_jobs

if TYPE_CHECKING:
    from figures.claims import Results
    from figures.report import Item

logger = logging.getLogger(__name__)

ITEM = "instructgpt"
IMPORTS = (*OWN_IMPORTS, "rl4lms.group.train", "rl4lms.reward_model.train")  # of its jobs
FILES = {
    "laptop": "rl4lms_scripts/instructgpt/laptop/pipeline.yml",
    "smoke": "rl4lms_scripts/instructgpt/laptop/pipeline_smoke.yml",
}
STAGES: dict[str, Callable[[Pipeline, int, Done], list[Planned]]] = {
    "start of RL": start_runs,
    "rankings": rankings_runs,
    "reward models": reward_model_runs,
    "SFT, scores, rates": sft_runs,
    "PPO, teachers": rl_runs,
    "held-out losses": loss_runs,
}
# Minutes of a run on one of two cores, for the table of stages alone (docs/decisions.md).
MINUTES: dict[str, dict[str, float]] = {
    "laptop": {
        "rl_start": 0.7,
        "rankings": 0.6,
        "other_rankings": 1.2,
        "mixes": 0.3,
        "best_of": 0.5,
        "reward_model": 0.6,
        "other_reward_model": 1.2,
        "grouped": 0.35,
        "epochs": 1.2,
        "shuffled": 2.0,
        "supervised": 1.8,
        "scores": 0.35,
        "texts": 0.15,
        "ppo": 2.5,
        "ptx": 3.2,
        "other_ppo": 4.5,
        "taught": 0.6,
        "half": 1.4,
        "losses": 0.3,
    },
    "smoke": {},
}
SMOKE_MINUTES = 0.03


def pipeline_at(scale: str) -> Pipeline:
    """The pipeline of a scale. Raises ConfigError."""
    return load_pipeline(FILES[scale])


def study_of_pipeline(pipeline: Pipeline) -> StudyConfig:
    """The study, as far as the pipeline needs its models: without what learning rates are chosen on."""
    study = pipeline.study.model_copy(update={"choice": None})
    return select_tasks(study, {pipeline.case(task).task for task in pipeline.tasks})


def stages(scale: str, seeds: int, jobs: int) -> list[Stage]:
    """What is left of each stage; of one whose inputs are not there yet, all. Raises ConfigError."""
    pipeline, minutes = pipeline_at(scale), MINUTES[scale]
    models = [
        MODEL_MINUTES[scale][c.model_type] for c in models_missing(study_of_pipeline(pipeline)).values()
    ]
    rows = [Stage("models", len(models), sum(models) / jobs)]
    done, is_known = Done(), not models
    for name, plan in STAGES.items():
        planned = plan(pipeline, seeds, done)
        there = stage_finished(pipeline, name, planned, done, jobs) if is_known else {}
        left = [run for run in planned if run.name not in there]
        time = sum(minutes.get(run.kind, SMOKE_MINUTES) for run in left)
        rows.append(Stage(name, len(left), time / jobs))
        is_known = is_known and not left
        if is_known:
            done = _with(pipeline, done, planned, there)
    return rows


def stage_finished(
    pipeline: Pipeline, name: str, planned: Sequence[Planned], done: Done, jobs: int
) -> dict[str, Path]:
    """The runs of a stage that are finished, by name. Raises ConfigError."""
    there = finished_runs(Path(pipeline.config.output_path))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yml"
        try:
            _, made = stage_jobs(pipeline, path, planned, done, jobs)
        except ConfigError:
            # The message is to name a file that stays.
            stage_jobs(pipeline, plan_path(pipeline, name), planned, done, jobs)
            raise
    return {run.name: there[job.identity] for run, job in made if job.identity in there}


def stage_jobs(
    pipeline: Pipeline, path: Path, planned: Sequence[Planned], done: Done, jobs: int
) -> tuple[PlanSettings, list[tuple[Planned, Job]]]:
    """The jobs of a stage, in the order of its runs. path: of its plan, of trainings and extractions.

    Raises ConfigError.
    """
    config = pipeline.config
    settings = PlanSettings(name=config.name, multiprocess=jobs > 1, num_parallel=jobs)
    made: dict[str, Job] = {}
    configurations = [run.configuration for run in planned if run.configuration is not None]
    if configurations:
        content = {
            "name": config.name,
            "output_path": config.output_path,
            "multiprocess": settings.multiprocess,
            "num_parallel": settings.num_parallel,
            "log_entire_predictions": True,  # criteria are about texts
            "configurations": configurations,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f"# Made from {config.name!r}; run by: {PLAN_RUNNER} {path}\n"
        atomic_write_text(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        loaded = load_plan(path)
        jobs_of_plan = make_jobs(loaded.plan, loaded.experiments)
        made = {e.configuration: job for e, job in zip(loaded.experiments, jobs_of_plan, strict=True)}
    for run in planned:
        if run.configuration is None:
            made[run.name] = make_job(pipeline, run, done, made)
    return settings, [(run, made[run.name]) for run in planned]


def plan_path(pipeline: Pipeline, stage: str) -> Path:
    """The plan file of a stage."""
    stem = "".join(letter if letter.isalnum() else "_" for letter in stage.replace(", ", "_"))
    return Path(pipeline.config.output_path) / f"{pipeline.config.name}_{stem}_plan.yml"


def run_pipeline(pipeline: Pipeline, *, seeds: int, jobs: int, series: Series) -> list[Finished]:
    """Run what is missing, stage by stage; finished runs are used as they are.

    Raises StudyError, StudyInterrupted, ConfigError.
    """
    done, finished = Done(), []
    for name, plan in STAGES.items():
        planned = plan(pipeline, seeds, done)
        settings, made = stage_jobs(pipeline, plan_path(pipeline, name), planned, done, jobs)
        logger.info("stage: %s", name)
        paths = run_to_end(settings, [job for _, job in made], name, console=True, series=series)
        there = {run.name: path for run, path in zip(planned, paths, strict=True) if path is not None}
        done = _with(pipeline, done, planned, there)
        command = f"{PLAN_RUNNER} {plan_path(pipeline, name)}"
        finished += [Finished(run, there[run.name], command if run.configuration else "") for run in planned]
    return finished


def _with(pipeline: Pipeline, done: Done, planned: Sequence[Planned], there: Mapping[str, Path]) -> Done:
    """What is known after a stage; learning rates are chosen by the runs that tried them."""
    runs = {**done.runs, **there}
    tried: dict[str, dict[float, list[float]]] = {}
    gold = pipeline.study.reward(pipeline.case(pipeline.config.main)).key
    for run in planned:
        if run.method.startswith("choice-") and run.configuration is not None:
            algorithm = run.method.split("-")[1]
            key = REWARD_MODEL if algorithm == PPO else gold
            rate = run.configuration["base_config"][RATE]
            tried.setdefault(algorithm, {}).setdefault(rate, []).append(train_reward(there[run.name], key))
    rates = dict(done.rates)
    for algorithm in (PPO, RLOO, GRPO):
        listed = rates_tried(pipeline, algorithm)
        if algorithm in tried:
            rates[algorithm] = max(listed, key=lambda rate: fmean(tried[algorithm][rate]))
            logger.info("learning rate of %s: %g", algorithm, rates[algorithm])
        elif len(listed) == 1:
            rates[algorithm] = listed[0]
    return replace(done, runs=runs, rates=rates)


def run_and_draw(args: argparse.Namespace, folder: Path, runs_left: int, results: Results) -> Item:
    """Make the models, run the pipeline, draw it into `folder`; its tables go into `results`.

    runs_left: about how many there are to make, for the progress. Raises StudyError, StudyInterrupted,
    ConfigError, KeyboardInterrupt.
    """
    pipeline = pipeline_at(args.scale)
    series = Series(foreseen=runs_left)
    make_models(study_of_pipeline(pipeline), args.jobs, series=series)
    finished = run_pipeline(pipeline, seeds=args.seeds, jobs=args.jobs, series=series)
    # Seconds of imports, only now.
    from figures.instructgpt import draw_instructgpt
    from paper.instructgpt.tables import read_tables, sources_of

    results.instructgpt = read_tables(pipeline, finished)
    labels = {pipeline.case(task).task: pipeline.study_task(task).label for task in pipeline.tasks}
    return draw_instructgpt(results.instructgpt, sources_of(finished), labels, folder, this_command())
