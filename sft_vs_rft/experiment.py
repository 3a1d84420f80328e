"""One controlled experiment from its config to its run directory: data, start weights, training, pictures."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.plots import optional_drawing
from common.run_dir import RunDir, check_optimizer, fitting, load_checkpoint, read_metrics
from common.tracking import Tracker, WandbSettings
from sft_vs_rft.config import ExperimentConfig, start_checkpoint
from sft_vs_rft.data import ControlledData, load_data
from sft_vs_rft.models import build_model, load_weights
from sft_vs_rft.objectives import (
    CUSTOM_WRONG_REWARD,
    expected_reward,
    reward_std,
    rewards_of_labels,
    wrong_rewards,
)
from sft_vs_rft.plots import save_metric_plots
from sft_vs_rft.train import ScoreMonitor, TrainResult, TrainState, build_optimizer, predict, train

logger = logging.getLogger(__name__)
start_logger = logging.getLogger(f"{__name__}.start")  # shown to users of a plan, wherever it runs
TOLERANCE = 0.2  # of reward and of std, on a reward range of 2
SECONDS_BETWEEN_PLOTS = 120  # drawing takes one or two


def run_experiment(
    config: ExperimentConfig,
    run: RunDir,
    progress: Callable[[float], None] = lambda epochs: None,
    should_stop: Callable[[], bool] = lambda: False,
    share: int = 1,
) -> TrainResult:
    """Run or continue the experiment of `run`.

    config: with its seeds resolved, as in the run's config.json; share: experiments that share the cores.
    Raises what stopped it: TrainingInterrupted, DataError, ModelError, CheckpointError, NonFiniteLossError.
    """
    torch.set_num_threads(run.manifest.get("num_threads") or num_threads(config, share))
    device = choose_device(config)
    run.update_manifest(device=str(device), num_threads=torch.get_num_threads())
    try:
        # 1. Data and model, both functions of the config's seeds.
        data = load_data(config)
        check_same_data(run, fingerprint(data))
        data = data.to(device)
        model = build_model(config, data).to(device)
        num_params = sum(p.numel() for p in model.parameters())
        logger.info(
            "%s: %d train and %d test inputs, %s with %s parameters, on %s",
            config.dataset,
            len(data.train_labels),
            len(data.test_labels),
            config.model_type,
            f"{num_params:,}",
            device,
        )

        # 2. Where it starts: this run's newest checkpoint, another run's state, given weights, or at random.
        checkpoint = resume_point(config, run, model, device)
        if checkpoint is not None:
            logger.info("continuing after epoch %d", checkpoint["epoch"])
        elif config.load_model_from_checkpoint:
            start = start_checkpoint(Path(config.load_model_from_checkpoint))
            with fitting(start):
                load_weights(model, load_checkpoint(start, device)["model"], str(start))
            logger.info("start weights: %s", start)
        first_epoch = 0 if checkpoint is None else checkpoint["epoch"] + 1
        run.truncate_metrics(first_epoch - 1)
        if (
            checkpoint is None
            and config.frac_samples_to_modify_labels > 0
            and config.num_labels_per_sample > 1
        ):
            run.update_manifest(start=report_start(config, data, model))

        # 3. Training.
        result = _train(
            config, data, model, run, checkpoint, progress, _draw_regularly(config, run, should_stop)
        )
    finally:
        _draw(config, run)
    checkpoints = run.checkpoints()
    run.update_manifest(
        score=result.score,
        last_epoch=result.last_epoch,
        stopped_early=result.stopped_early,
        checkpoint=str(checkpoints[-1].relative_to(run.path)) if checkpoints else None,
    )
    return result


def _train(
    config: ExperimentConfig,
    data: ControlledData,
    model: nn.Module,
    run: RunDir,
    checkpoint: dict[str, Any] | None,
    progress: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> TrainResult:
    wandb = None
    if config.use_wandb:
        wandb = WandbSettings(
            project=config.wandb_project_name,
            entity=config.wandb_entity_name,
            resume_id=config.wandb_resume_id,
            track_model=config.wandb_track_model,
            exclude_files=tuple(config.wandb_exclude_files),
        )
    first_epoch = 0 if checkpoint is None else checkpoint["epoch"] + 1
    with Tracker(run, tensorboard=config.use_tensorboard, wandb=wandb, purge_step=first_epoch) as tracker:
        tracker.watch(model)
        return train(
            config,
            data,
            model,
            run=run,
            tracker=tracker,
            resume_from=checkpoint,
            progress=progress,
            should_stop=should_stop,
        )


class ChangedDataError(UserError):
    """The data of a run is no longer what it began with, so that it cannot be continued."""


def fingerprint(data: ControlledData) -> str:
    """Hash all that a run reads of its data: inputs, final labels, modified inputs and label sets."""
    digest = hashlib.sha256()
    for inputs in (data.train_inputs, data.test_inputs):
        parts = [inputs] if isinstance(inputs, torch.Tensor) else [inputs.input_ids, inputs.token_type_ids]
        for part in parts:
            digest.update(part.contiguous().numpy().tobytes())
    for tensor in (data.train_labels, data.modified, data.test_labels, data.label_sets):
        digest.update(b"none" if tensor is None else tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_same_data(run: RunDir, data: str) -> None:
    """Record the data's fingerprint in the manifest. Raises ChangedDataError if another one is there."""
    before = run.manifest.get("data")
    if before is not None and before != data:
        raise ChangedDataError(
            f"the data is not what {run.path} began with (other files, or other versions of the packages "
            "it comes from): delete that folder, or start anew with --fresh"
        )
    run.update_manifest(data=data)


def resume_point(
    config: ExperimentConfig, run: RunDir, model: nn.Module, device: torch.device
) -> dict[str, Any] | None:
    """The checkpoint to continue from: the run's newest, else `trainer_checkpoint`, else None.

    Raises CheckpointError, ModelError: it is not one of such a model's training.
    """
    checkpoints = run.checkpoints()
    if not checkpoints and not config.trainer_checkpoint:
        return None
    path = checkpoints[-1] if checkpoints else Path(config.trainer_checkpoint)
    checkpoint = load_checkpoint(path, device)
    with fitting(path):
        load_weights(model, checkpoint["model"], str(path))
        state = TrainState(model, build_optimizer(config, model), ScoreMonitor.from_config(config))
        state.load_state_dict(checkpoint)
        check_optimizer(state.optimizer)
    return checkpoint


def choose_device(config: ExperimentConfig) -> torch.device:
    """The GPU that the config names, or the CPU if it names none or there is none (one notice)."""
    if not config.gpu_ids:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.info("no CUDA device here: gpu_ids %s means CPU", config.gpu_ids)
        return torch.device("cpu")
    return torch.device("cuda", config.gpu_ids[0])


def num_threads(config: ExperimentConfig, share: int) -> int:
    """Give an MLP one torch thread (two on busy cores: up to 28 times slower), others a share of cores.

    The cores are those of the job where SLURM runs it, the machine's elsewhere.
    """
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or os.cpu_count() or 1)
    return 1 if config.model_type == "mlp" else max(1, cores // share)


def _draw_regularly(
    config: ExperimentConfig, run: RunDir, should_stop: Callable[[], bool]
) -> Callable[[], bool]:
    """Ask the same question, after every epoch, and also draw the plots of a long run now and then."""
    last_drawn = time.monotonic()

    def ask() -> bool:
        nonlocal last_drawn
        if time.monotonic() - last_drawn > SECONDS_BETWEEN_PLOTS:
            _draw(config, run)
            last_drawn = time.monotonic()
        return should_stop()

    return ask


def _draw(config: ExperimentConfig, run: RunDir) -> None:
    with optional_drawing(run.path / "plots"):
        if config.save_metric_plots and (rows := read_metrics(run.path)):
            save_metric_plots(rows, run.path / "plots")


# The start


def ideal_start(config: ExperimentConfig) -> dict[str, tuple[float, float]]:
    """Reward mean and std of each group under a model that is uniform over the K labels of an input's set.

    Unmodified ("large"): the right label has probability 1/K. Modified ("small"): it has none.
    """
    p, wrong = 1 / config.num_labels_per_sample, config.min_reward
    large = (p + (1 - p) * wrong, (1 - wrong) * math.sqrt(p * (1 - p)))
    return {
        "small": (CUSTOM_WRONG_REWARD if config.reward_type == "labels_with_custom" else wrong, 0.0),
        "large": large,
    }


def measured_start(
    config: ExperimentConfig, data: ControlledData, model: nn.Module
) -> dict[str, tuple[float, float]]:
    """Mean over each group's train inputs of reward and reward std, before the first step."""
    probs = predict(config, model, data.train_inputs).exp()
    wrong = wrong_rewards(data.modified, config.reward_type, config.min_reward)
    rewards = rewards_of_labels(data.train_labels, wrong, data.num_classes)
    reward, std = expected_reward(probs, rewards), reward_std(probs, rewards)

    def mean(group: Tensor) -> tuple[float, float]:
        return reward[group].mean().item(), std[group].mean().item()

    groups = {"small": data.modified, "large": ~data.modified}
    return {name: mean(group) for name, group in groups.items() if group.any()}


def report_start(
    config: ExperimentConfig, data: ControlledData, model: nn.Module
) -> dict[str, tuple[float, float]]:
    """Log start reward and std of both groups beside their ideal values; warn when they are far off."""
    measured, ideal = measured_start(config, data, model), ideal_start(config)
    unfit = []
    for group, (reward, std) in measured.items():
        ideal_reward, ideal_std = ideal[group]
        start_logger.info(
            "start, %s reward std inputs: reward %.3f (fitted pretrained model: %.3f), std %.3f (%.3f)",
            group,
            reward,
            ideal_reward,
            std,
            ideal_std,
        )
        if max(abs(reward - ideal_reward), abs(std - ideal_std)) > TOLERANCE:
            unfit.append(group)
    if unfit:
        start_logger.warning(
            "the start model is far from a fitted pretrained one on the %s reward std inputs: "
            "the comparison of RFT and SFT says little from here; pretrain longer, "
            "or check load_model_from_checkpoint",
            " and ".join(unfit),
        )
    return measured
