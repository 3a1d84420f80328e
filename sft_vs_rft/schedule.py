"""Runs the experiments of a plan: skips the finished, resumes the cut, survives the failing.

An experiment's run directory is found by what decides its numbers. Imports nothing heavy: the worker imports
torch, in its own process when the plan says `multiprocess`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import common.jobs
from common.identity import IDENTITY, content_digest, hash_of
from common.jobs import Job, Status, Turn, carry_out
from common.run_dir import RunDir, read_run
from common.schedule import run_jobs
from sft_vs_rft.config import COSMETIC_FIELDS, ExperimentConfig, start_checkpoint
from sft_vs_rft.data_source import find_npz
from sft_vs_rft.plan import Experiment, Plan


def identity(experiment: Experiment) -> str:
    """Hash of all that decides an experiment's numbers: its fields, its repetition and the files it reads."""
    config = experiment.config
    fields = {name: value for name, value in config.model_dump().items() if name not in COSMETIC_FIELDS}
    files = [find_npz(config.data_dir)] if config.dataset == "npz" else []
    if config.load_model_from_checkpoint:
        files.append(start_checkpoint(Path(config.load_model_from_checkpoint)))
    if config.trainer_checkpoint:
        files.append(Path(config.trainer_checkpoint))
    return hash_of([fields, experiment.repetition, [content_digest(path) for path in files]])


INTERRUPT_MESSAGE = (
    "stopping after the epochs under way, with a checkpoint; press Ctrl-C again to stop at once"
)
SHOWN = ("sft_vs_rft.experiment",)  # how fit the start model is


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended; status and error: see common.jobs.Outcome. score: of a run that is done."""

    experiment: Experiment
    status: Status
    run: Path | None = None
    score: float | None = None
    error: str | None = None


def run_plan(
    plan: Plan, experiments: Sequence[Experiment], fresh: bool = False, console: bool = True
) -> list[Outcome]:
    """Run `experiments` in their order; returns one outcome each, also when some fail or Ctrl-C stops them.

    fresh: ignore earlier runs; console: bars and log lines on the terminal.
    """
    jobs = [job_of(experiment) for experiment in experiments]
    ends = run_jobs(plan, jobs, fresh, console, INTERRUPT_MESSAGE)
    return [outcome_of(experiment, end) for experiment, end in zip(experiments, ends, strict=True)]


def outcome_of(experiment: Experiment, end: common.jobs.Outcome) -> Outcome:
    """An outcome with the experiment's score, from its manifest."""
    score = read_run(end.run).manifest.get("score") if end.is_done and end.run else None
    return Outcome(experiment, end.status, end.run, score, end.error)


def job_of(experiment: Experiment) -> Job:
    """The job that runs an experiment."""
    config = experiment.config
    return Job(
        experiment.label,
        identity(experiment),
        Path(config.outputs_dir),
        partial(execute, experiment),
        imports=("sft_vs_rft.experiment",),
        steps=config.epochs,
        shown=SHOWN,
        silent=config.disable_console_log,
    )


def execute(experiment: Experiment, turn: Turn) -> common.jobs.Outcome:
    """Run one experiment in this process, in its new or earlier run directory, with its own log file."""
    import sft_vs_rft.experiment
    from sft_vs_rft.train import TrainingInterrupted, resolve_seeds

    config = experiment.config
    if turn.gpu is not None:
        config = config.model_copy(update={"gpu_ids": [turn.gpu]})

    def create() -> RunDir:
        seeded = resolve_seeds(config)
        names = ("random_seed", "init_rnd_seed", "samples_rnd_seed")
        seeds = {name: getattr(seeded, name) for name in names}
        manifest = {IDENTITY: turn.job.identity, "repetition": experiment.repetition, "seeds": seeds}
        return RunDir.create(Path(config.outputs_dir), config.experiment_name, seeded.model_dump(), manifest)

    def work(run: RunDir) -> None:
        seeded: ExperimentConfig = config.model_copy(update=run.manifest["seeds"])
        sft_vs_rft.experiment.run_experiment(seeded, run, turn.report, turn.stop, turn.share)

    return carry_out(turn, create, work, TrainingInterrupted, "log.txt" if config.save_logs else None)
