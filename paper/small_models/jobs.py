"""Trains a model in its run directory, as a runner or as a job of a plan. Imports nothing heavy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.console import progress, stop_request
from common.identity import IDENTITY, hash_of
from common.jobs import Job, Place, Report, ending
from common.links import publish
from common.run_dir import RunDir
from paper.small_models.config import PretrainConfig
from rl4lms.errors import TrainingInterrupted

logger = logging.getLogger(__name__)
INTERRUPT_MESSAGE = (
    "stopping after the update under way, with a checkpoint; press Ctrl-C again to stop at once"
)


def identify(config: PretrainConfig) -> str:
    """Hash of all that decides the weights but the packages, whose text a run compares itself."""
    data = config.model_dump()
    del data["runtime"]["device"]
    return hash_of(["pretraining", data])


def manifest(config: PretrainConfig) -> dict[str, Any]:
    """What the manifest of a run begins with."""
    return {"job": "pretraining", IDENTITY: identify(config)}


def make_job(config: PretrainConfig, folder: Path) -> Job:
    """The job that trains a model in a run below `folder`, on one thread; does not publish it."""
    return Job(
        f"model {config.name}",
        identify(config),
        folder,
        partial(_create, config, folder),
        partial(_train, config),
        imports=("paper.small_models.train",),
        steps=config.alg.steps,
        unit="update",
        kind=f"model {config.name}",
    )


def run_pretraining(config: PretrainConfig, run: RunDir, link: Path, resume_command: str) -> int:
    """Pretrain as a runner does, then let `link` lead to the model; returns the exit status.

    resume_command: of a runner that goes on with it.
    """
    from paper.small_models.train import pretrain

    logger.info("run folder: %s", run.path)
    with (
        stop_request(INTERRUPT_MESSAGE) as stop,
        ending(run, resume_command, TrainingInterrupted) as end,
        progress(config.alg.steps, f"training {config.name}", unit="update") as bar,
    ):
        publish(pretrain(config, run, lambda step, status: bar.move_to(step, status=status), stop), link)
        logger.info("model: %s", link)
    return end.code


def _create(config: PretrainConfig, folder: Path, earlier: Sequence[Path], place: Place) -> RunDir:
    return RunDir.create(folder, config.name, config.model_dump(), manifest(config))


def _train(
    config: PretrainConfig, run: RunDir, place: Place, stop: Callable[[], bool], report: Report
) -> None:
    import torch

    from paper.small_models.train import pretrain

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a small model is hardly faster with two
    try:
        pretrain(config, run, lambda step, status: report(step, status=status), stop)
    finally:
        torch.set_num_threads(before)
