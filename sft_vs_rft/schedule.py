"""Runs the experiments of a plan: skips the finished, resumes the cut, survives the failing.

An experiment's run directory is found by what decides its numbers. Imports nothing heavy: the worker imports
torch, in its own process when the plan says `multiprocess`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from common.identity import IDENTITY, content_digest, hash_of
from common.jobs import Job, Outcome, Turn, carry_out
from common.plan_jobs import make_jobs
from common.run_dir import RunDir, read_run
from sft_vs_rft.config import COSMETIC_FIELDS, ExperimentConfig, start_checkpoint
from sft_vs_rft.data_source import find_npz
from sft_vs_rft.plan import Experiment


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


def jobs_of(experiments: Iterable[Experiment]) -> list[Job]:
    """One job for each experiment, in their order."""
    return make_jobs(experiments, job_of)


def job_of(experiment: Experiment, start: Job | None = None) -> Job:
    """The job that runs an experiment."""
    config = experiment.config
    return Job(
        experiment.name,
        identity(experiment),
        Path(config.outputs_dir),
        partial(execute, experiment),
        imports=("sft_vs_rft.experiment",),
        steps=config.epochs,
        shown=SHOWN,
        silent=config.disable_console_log,
    )


def score_of(outcome: Outcome) -> float | None:
    """The score in the manifest of a run that is done."""
    return read_run(outcome.run).manifest.get("score") if outcome.is_done and outcome.run else None


def execute(experiment: Experiment, turn: Turn) -> Outcome:
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
