"""Is the pretrained model fit? The finetuning comparison means nothing from an unfit one."""

from __future__ import annotations

import logging
import math

from torch import Tensor, nn

from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData
from sft_vs_rft.objectives import (
    CUSTOM_WRONG_REWARD,
    expected_reward,
    reward_std,
    rewards_of_labels,
    wrong_rewards,
)
from sft_vs_rft.train import predict

logger = logging.getLogger(__name__)
TOLERANCE = 0.2  # of reward and of std, on a reward range of 2


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
        logger.info(
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
        logger.warning(
            "the start model is far from a fitted pretrained one on the %s reward std inputs: "
            "the comparison of RFT and SFT says little from here; pretrain longer, "
            "or check load_model_from_checkpoint",
            " and ".join(unfit),
        )
    return measured
