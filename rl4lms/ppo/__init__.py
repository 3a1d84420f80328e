"""PPO, NLPO and A2C: train.py is the algorithm, update.py its formulas."""

from rl4lms.model.optimiser import build_optimizer, optimiser_step
from rl4lms.model.policy import PolicyModel, Sequences
from rl4lms.ppo.rollouts import Rollouts, Scores, fill_buffer, score_rollouts
from rl4lms.ppo.update import (
    KLController,
    estimate_advantages,
    explained_variance,
    gae,
    minibatch_losses,
    minibatches,
    normalize_advantages,
    normalize_rewards,
    ppo_loss,
    predict,
)

__all__ = [
    "KLController",
    "PolicyModel",
    "Rollouts",
    "Scores",
    "Sequences",
    "build_optimizer",
    "estimate_advantages",
    "explained_variance",
    "fill_buffer",
    "gae",
    "minibatch_losses",
    "minibatches",
    "normalize_advantages",
    "normalize_rewards",
    "optimiser_step",
    "ppo_loss",
    "predict",
    "score_rollouts",
]
