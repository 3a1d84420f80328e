"""A controlled experiment as a job: what makes its run the same as an earlier one, and how it is done.

Imports nothing heavy: the work imports torch, in its own process when the plan says `multiprocess`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from common.identity import IDENTITY, content_digest, hash_of
from common.jobs import Job, Outcome, Place, Report
from common.plan_jobs import link_jobs
from common.run_dir import RunDir, read_run
from sft_vs_rft.config import (
    COSMETIC_FIELDS,
    GROUP_FIELDS,
    GROUP_METHODS,
    ExperimentConfig,
    resolve_seeds,
    start_checkpoint,
)
from sft_vs_rft.data_source import find_npz
from sft_vs_rft.plan import Experiment

INTERRUPT_MESSAGE = (
    "stopping after the epochs under way, with a checkpoint; press Ctrl-C again to stop at once"
)
SHOWN = ("sft_vs_rft.experiment.start",)  # how fit the start model is
DURATION = ("model_type", "dataset", "num_train_samples", "epochs", "opt_method")  # what decides on it
SEEDS = ("random_seed", "init_rnd_seed", "samples_rnd_seed")


def identify(experiment: Experiment) -> str:
    """Hash of all that decides an experiment's numbers: its fields, its repetition and the files it reads."""
    config = experiment.config
    meaningless = COSMETIC_FIELDS | set(() if config.opt_method in GROUP_METHODS else GROUP_FIELDS)
    fields = {name: value for name, value in config.model_dump().items() if name not in meaningless}
    files = [find_npz(config.data_dir)] if config.dataset == "npz" else []
    if config.load_model_from_checkpoint:
        files.append(start_checkpoint(Path(config.load_model_from_checkpoint)))
    if config.trainer_checkpoint:
        files.append(Path(config.trainer_checkpoint))
    return hash_of([fields, experiment.repetition, [content_digest(path) for path in files]])


def make_jobs(experiments: Iterable[Experiment]) -> list[Job]:
    """One job for each experiment, in their order."""
    return link_jobs(experiments, _make_job)


def _make_job(experiment: Experiment, start: Job | None) -> Job:
    config, key = experiment.config, identify(experiment)
    return Job(
        experiment.name,
        key,
        Path(config.outputs_dir),
        partial(_create, experiment, key),
        partial(_run, experiment),
        imports=("sft_vs_rft.experiment",),
        steps=config.epochs,
        kind=hash_of([getattr(config, name) for name in DURATION]),
        shown=SHOWN,
        silent=config.disable_console_log,
        log_file="log.txt" if config.save_logs else None,
    )


def read_score(outcome: Outcome) -> float | None:
    """The score in the manifest of a run that is done."""
    return read_run(outcome.run).manifest.get("score") if outcome.is_done and outcome.run else None


def _create(experiment: Experiment, key: str, earlier: Sequence[Path], place: Place) -> RunDir:
    """A run directory; seeds that are not given are drawn."""
    config = resolve_seeds(_on_gpu(experiment.config, place))
    seeds = {name: getattr(config, name) for name in SEEDS}
    manifest = {IDENTITY: key, "repetition": experiment.repetition, "seeds": seeds}
    return RunDir.create(Path(config.outputs_dir), config.experiment_name, config.model_dump(), manifest)


def _run(experiment: Experiment, run: RunDir, place: Place, stop: Callable[[], bool], report: Report) -> None:
    """Run the experiment with the seeds that its run began with, on the GPU that it has now."""
    from sft_vs_rft.experiment import run_experiment

    config = _on_gpu(experiment.config, place).model_copy(update=run.manifest["seeds"])
    run_experiment(config, run, report, stop, place.share)


def _on_gpu(config: ExperimentConfig, place: Place) -> ExperimentConfig:
    return config if place.gpu is None else config.model_copy(update={"gpu_ids": [place.gpu]})
