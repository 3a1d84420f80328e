"""Runs a study: learning rates chosen by the stated rule, then everything that the asked items need."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
from common.plan import PlanSettings
from common.schedule import run_jobs
from paper.study import Start, StudyConfig, StudyRun, chosen_rates, train_reward
from paper.study_plans import AFTER, Part, after_sft, build_plan, comparison, selection, sweeps
from rl4lms.plan import Experiment, load_plan
from rl4lms.plan.runs import make_jobs

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = "stopping after the steps under way, resumable; press Ctrl-C again to stop at once"
START_NAMES: dict[Start, str] = {
    "pretrained": "the pretrained model",
    "short": "short SFT",
    "sft": "full SFT",
}
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


@dataclass(frozen=True)
class Scope:
    """Which part of a study is run.

    tasks: those that are reported; with_rewards, with_sweeps: also the runs of `after_sft`, of `sweeps`.
    """

    tasks: Sequence[str]
    with_rewards: bool
    with_sweeps: bool


def first_jobs(
    study: StudyConfig, scope: Scope, ready: Collection[str], *, seeds: int, jobs: int
) -> list[Job]:
    """What `run_study` runs whichever learning rates it chooses, to be run among other jobs, long ones first.

    It then finds them finished. ready: the tasks whose models are there. Raises ConfigError.
    """
    part = comparison(study, any_rates(study))
    part = part.select(lambda run: run.task in scope.tasks and run.task in ready)
    sft = part.select(lambda run: run.method == "sft" and run.kind == "training")
    sft += part.select(lambda run: run.method in ("pretrained", "sft") and run.kind == "extraction")
    tried = selection_part(study, scope).select(lambda run: run.task in ready)
    first = []
    for phase, phase_part, times in (("selection", tried, 1), ("sft", sft, seeds)):
        if not phase_part.runs:
            continue
        loaded = load_plan(write_plan(study, phase, phase_part, times, jobs))
        first += make_jobs(loaded.plan, loaded.experiments)
    return first


def run_study(
    study: StudyConfig,
    scope: Scope,
    *,
    seeds: int,
    jobs: int,
    console: bool = True,
    series: Series | None = None,
) -> list[Done]:
    """Run what is missing and return what is reported; finished runs are used as they are.

    series: of what was run for the study before; see `run_jobs`.

    Raises StudyError, StudyInterrupted, ConfigError.
    """
    series = series or Series()
    part = selection_part(study, scope)
    tried = run_phase(study, "selection", part, seeds=1, jobs=jobs, console=console, series=series)
    rates = best_rates(study, tried)
    for start in starts_needed(study, scope):
        logger.info("learning rate of RFT from %s: %g", START_NAMES[start], rates[start])
    series.foreseen = 0  # from here on it is known
    main = main_part(study, scope, rates, seeds)
    return run_phase(study, "main", main, seeds=seeds, jobs=jobs, console=console, series=series)


def finished(study: StudyConfig, scope: Scope, *, seeds: int, jobs: int) -> Counter[str]:
    """Configuration -> how many of its runs `run_study` would find finished.

    Needs the models of the study. Writes nothing, unless a plan has a mistake. Raises ConfigError.
    """
    part = selection_part(study, scope)
    tried = finished_phase(study, "selection", part, seeds=1, jobs=jobs)
    rates = best_rates(study, tried) if len(tried) == len(part.runs) else any_rates(study)
    main = main_part(study, scope, rates, seeds)
    done = tried + finished_phase(study, "main", main, seeds=seeds, jobs=jobs)
    return Counter(item.run.configuration for item in done)


def any_rates(study: StudyConfig) -> dict[Start, float]:
    """A learning rate for each start of RFT, before one is chosen."""
    return {start: config.learning_rates[0] for start, config in study.starts.items()}


def best_rates(study: StudyConfig, tried: Sequence[Done]) -> dict[Start, float]:
    """The learning rate of each start of RFT, by the runs of `selection`, all of which are there."""
    rewards: dict[tuple[Start, float], list[float]] = {}
    starts: dict[str, Start] = {method: start for start, method in AFTER.items()}
    for done in tried:
        if (start := starts.get(done.run.method)) is not None and done.run.reward is not None:
            rate = done.experiment.changes["alg.args.learning_rate"]
            key = study.rewards[done.run.reward].key
            rewards.setdefault((start, rate), []).append(train_reward(done.path, key))
    return chosen_rates(study, rewards)


def starts_needed(study: StudyConfig, scope: Scope) -> list[Start]:
    """The starts of RFT that are run."""
    after = scope.with_rewards or scope.with_sweeps
    return [start for start in study.starts if start == "pretrained" or after]


def selection_part(study: StudyConfig, scope: Scope) -> Part:
    """What learning rates are chosen by, of the starts that are run."""
    needed = starts_needed(study, scope)
    methods = {*needed, *(AFTER[start] for start in needed)}
    return selection(study).select(lambda run: run.method in methods)


def main_part(study: StudyConfig, scope: Scope, rates: Mapping[Start, float], seeds: int) -> Part:
    """What is run at the chosen rates."""
    part = comparison(study, rates)
    if scope.with_rewards:
        part += after_sft(study, rates)
    if scope.with_sweeps:
        part += sweeps(study, rates, seeds)
    return part.select(lambda run: run.task in scope.tasks)


def write_plan(
    study: StudyConfig,
    phase: str,
    part: Part,
    seeds: int,
    jobs: int,
    folder: str | Path | None = None,
) -> Path:
    """The plan file of a phase: what is run can be read, changed and run by itself.

    folder: instead of that of the runs.
    """
    path = Path(folder or study.output_path) / f"{study.name}_{phase}_plan.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = build_plan(study, part, seeds, jobs)
    text = yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)
    atomic_write_text(path, f"# Made from the study {study.name!r}; run by: {PLAN_RUNNER} {path}\n{text}")
    return path


def finished_phase(
    study: StudyConfig,
    phase: str,
    part: Part,
    *,
    seeds: int,
    jobs: int,
) -> list[Done]:
    if not part.runs:
        return []
    with TemporaryDirectory() as folder:
        path = write_plan(study, phase, part, seeds, jobs, folder)
        try:
            loaded = load_plan(path)
        except ConfigError:
            # The message is to name a file that stays.
            load_plan(write_plan(study, phase, part, seeds, jobs))
            raise
    there = finished_runs(Path(study.output_path))
    paths = [there.get(job.identity) for job in make_jobs(loaded.plan, loaded.experiments)]
    return _done(path, part.runs, loaded.experiments, paths)


def run_phase(
    study: StudyConfig,
    phase: str,
    part: Part,
    *,
    seeds: int,
    jobs: int,
    console: bool,
    series: Series,
) -> list[Done]:
    if not part.runs:
        return []
    path = write_plan(study, phase, part, seeds, jobs)
    loaded = load_plan(path)
    all_jobs = make_jobs(loaded.plan, loaded.experiments)
    paths = run_to_end(loaded.plan, all_jobs, str(path), console=console, series=series)
    return _done(path, part.runs, loaded.experiments, paths)


def run_to_end(
    settings: PlanSettings, jobs: Sequence[Job], where: str, *, console: bool, series: Series
) -> list[Path | None]:
    """Run jobs and return their runs. where: what they are of. Raises StudyError, StudyInterrupted."""
    outcomes = run_jobs(settings, jobs, console=console, interrupt_message=INTERRUPT_MESSAGE, series=series)
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome.status in ("failed", "not run"):
            logger.error("%s: %s: %s", job.label, outcome.status, outcome.error)
    if any(outcome.status == "interrupted" for outcome in outcomes):
        raise StudyInterrupted
    if failed := sum(not outcome.is_done for outcome in outcomes):
        raise StudyError(f"{failed} of {len(outcomes)} experiments of {where} failed")
    return [outcome.run for outcome in outcomes]


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
