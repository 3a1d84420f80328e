"""Runs a study: learning rates chosen by the stated rule, then everything that the asked items need."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from common.config import ConfigError
from common.errors import UserError
from common.files import atomic_write_text
from common.identity import finished_runs
from common.jobs import Job
from common.outlook import Series
from common.schedule import run_jobs
from paper.study import (
    Fields,
    StudyConfig,
    StudyRun,
    after_sft,
    build_plan,
    comparison,
    selection,
    sweeps,
    train_reward,
)
from rl4lms.plan import Experiment, load_plan
from rl4lms.plan.runs import make_jobs

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the steps under way, resumable; press Ctrl-C again to stop at once"
PLAN_RUNNER = "python rl4lms_plan_runner.py --plan_config_path"


class StudyError(UserError):
    """Experiments of a study that failed; the message is for the user."""


class StudyInterrupted(Exception):
    """The caller asked to stop; what is on disk is used when the study is started again."""


@dataclass(frozen=True)
class Done:
    """A finished experiment: what it is of, and its run. start: the run whose model it began with."""

    run: StudyRun
    experiment: Experiment
    path: Path
    start: Path | None
    command: str

    @property
    def seed(self) -> int:
        return self.experiment.repetition


def first_jobs(study: StudyConfig, *, seeds: int, jobs: int) -> list[Job]:
    """What `run_study` runs whichever learning rates it chooses, to be run among other jobs, long ones first.

    It then finds them finished. Raises ConfigError.
    """
    pairs = zip(*comparison(study, any_rates(study)), strict=True)
    whichever = [(fields, run) for fields, run in pairs if run.method in ("pretrained", "sft")]
    whichever.sort(key=lambda pair: pair[1].kind == "extraction")
    parts = {"selection": (selection(study)[0], 1), "sft": ([fields for fields, _ in whichever], seeds)}
    first = []
    for phase, (configurations, times) in parts.items():
        loaded = load_plan(write_plan(study, phase, configurations, times, jobs))
        first += make_jobs(loaded.plan, loaded.experiments)
    return first


def run_study(
    study: StudyConfig,
    *,
    seeds: int,
    jobs: int,
    with_rewards: bool,
    with_sweeps: bool,
    console: bool = True,
    series: Series | None = None,
) -> list[Done]:
    """Run what is missing and return everything that is there; finished runs are used as they are.

    with_rewards, with_sweeps: also the runs of `after_sft`, of `sweeps`. RFT at the learning rates that were
    not chosen comes last: Table 2 shows it. series: of what was run for the study before; see `run_jobs`.

    Raises StudyError, StudyInterrupted, ConfigError.
    """
    series = series or Series()
    tried = run_phase(
        study, "selection", *selection(study), seeds=1, jobs=jobs, console=console, series=series
    )
    rates = chosen_rates(study, tried)
    for task, rate in rates.items():
        logger.info("%s: learning rate of RFT %g", task, rate)
    series.foreseen = 0  # from here on it is known
    main = run_phase(
        study,
        "main",
        *_main(study, rates, with_rewards, with_sweeps),
        seeds=seeds,
        jobs=jobs,
        console=console,
        series=series,
    )
    used = {done.path for done in main}
    return main + [done for done in tried if done.path not in used]


def finished(
    study: StudyConfig, *, seeds: int, jobs: int, with_rewards: bool, with_sweeps: bool
) -> Counter[str]:
    """Configuration -> how many of its runs `run_study` would find finished.

    Needs the models of the study. Writes nothing, unless a plan has a mistake. Raises ConfigError.
    """
    tried = _finished(study, "selection", *selection(study), seeds=1, jobs=jobs)
    rates = any_rates(study)
    if len(tried) == len(study.tasks) * len(study.rft_learning_rates):
        rates = chosen_rates(study, tried)
    main = _finished(study, "main", *_main(study, rates, with_rewards, with_sweeps), seeds=seeds, jobs=jobs)
    return Counter(done.run.configuration for done in tried + main)


def any_rates(study: StudyConfig) -> dict[str, float]:
    """A learning rate for each task, before one is chosen."""
    return dict.fromkeys(study.tasks, study.rft_learning_rates[0])


def chosen_rates(study: StudyConfig, tried: Sequence[Done]) -> dict[str, float]:
    """The learning rate of each task whose RFT ended with the best reward on the train inputs."""
    rewards: dict[str, dict[float, float]] = {}
    for done in tried:
        rate = done.experiment.changes["alg.args.learning_rate"]
        task = done.run.task
        rewards.setdefault(task, {})[rate] = train_reward(done.path, study.tasks[task].key)
    return {task: max(by_rate, key=lambda rate: by_rate[rate]) for task, by_rate in rewards.items()}


def write_plan(
    study: StudyConfig,
    phase: str,
    configurations: list[Fields],
    seeds: int,
    jobs: int,
    folder: str | Path | None = None,
) -> Path:
    """The plan file of a phase: what is run can be read, changed and run by itself.

    folder: instead of that of the runs.
    """
    path = Path(folder or study.output_path) / f"{study.name}_{phase}_plan.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = build_plan(study, configurations, seeds, jobs)
    text = yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)
    atomic_write_text(path, f"# Made from the study {study.name!r}; run by: {PLAN_RUNNER} {path}\n{text}")
    return path


def _main(
    study: StudyConfig, rates: Mapping[str, float], with_rewards: bool, with_sweeps: bool
) -> tuple[list[Fields], list[StudyRun]]:
    """Configurations of the second plan, and what they are."""
    configurations, runs = comparison(study, rates)
    for is_wanted, part in ((with_rewards, after_sft), (with_sweeps, sweeps)):
        if is_wanted:
            part_configurations, part_runs = part(study, rates)
            configurations, runs = configurations + part_configurations, runs + part_runs
    return configurations, runs


def _finished(
    study: StudyConfig,
    phase: str,
    configurations: list[Fields],
    runs: list[StudyRun],
    *,
    seeds: int,
    jobs: int,
) -> list[Done]:
    with TemporaryDirectory() as folder:
        path = write_plan(study, phase, configurations, seeds, jobs, folder)
        try:
            loaded = load_plan(path)
        except ConfigError:
            # The message is to name a file that stays.
            load_plan(write_plan(study, phase, configurations, seeds, jobs))
            raise
    there = finished_runs(Path(study.output_path))
    paths = [there.get(job.identity) for job in make_jobs(loaded.plan, loaded.experiments)]
    return _done(path, runs, loaded.experiments, paths)


def run_phase(
    study: StudyConfig,
    phase: str,
    configurations: list[Fields],
    runs: list[StudyRun],
    *,
    seeds: int,
    jobs: int,
    console: bool,
    series: Series,
) -> list[Done]:
    path = write_plan(study, phase, configurations, seeds, jobs)
    loaded = load_plan(path)
    outcomes = run_jobs(
        loaded.plan,
        make_jobs(loaded.plan, loaded.experiments),
        console=console,
        interrupt_message=INTERRUPT_MESSAGE,
        series=series,
    )
    for experiment, outcome in zip(loaded.experiments, outcomes, strict=True):
        if outcome.status in ("failed", "not run"):
            logger.error("%s: %s: %s", experiment.name, outcome.status, outcome.error)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise StudyInterrupted
    if failed := sum(not outcome.is_done for outcome in outcomes):
        raise StudyError(f"{failed} of {len(outcomes)} experiments of {path} failed")
    return _done(path, runs, loaded.experiments, [outcome.run for outcome in outcomes])


def _done(
    plan: Path, runs: Sequence[StudyRun], experiments: Sequence[Experiment], ends: Sequence[Path | None]
) -> list[Done]:
    """Those of the experiments that ended, with their runs in `ends`."""
    by_configuration = {run.configuration: run for run in runs}
    paths = {experiment.name: path for experiment, path in zip(experiments, ends, strict=True)}
    done = []
    for experiment in experiments:
        path, start = paths[experiment.name], experiment.start
        if path is None:
            continue
        done.append(
            Done(
                by_configuration[experiment.configuration],
                experiment,
                path,
                paths[start.name] if start is not None else None,
                f"{PLAN_RUNNER} {plan}",
            )
        )
    return done
