"""Rewards and losses of the controlled experiments: pure functions of the logits.

Letters: B inputs, C classes (labels), K labels of a set. The output of the model is one label, so that
p(y|x) is known whole, and the expected reward and its gradient are exact (Section 4.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CUSTOM_WRONG_REWARD = 0.5  # `labels_with_custom`: what a wrong label pays on a modified input


def rewards_of_labels(labels: Tensor, wrong_reward: Tensor, num_classes: int) -> Tensor:
    """r(x, y) for every label y: 1 for the right one, `wrong_reward` for the others.

    labels: [B] int64; wrong_reward: [B]. Returns rewards [B, C].
    """
    right = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return torch.where(right, 1.0, wrong_reward[:, None])


def wrong_rewards(modified: Tensor, reward_type: str, min_reward: float) -> Tensor:
    """What a wrong label pays: `min_reward`, but 0.5 on modified inputs under `labels_with_custom`.

    modified: [N] bool. Returns [N].
    """
    wrong = torch.full(modified.shape, min_reward, device=modified.device)
    return torch.where(modified, CUSTOM_WRONG_REWARD, wrong) if reward_type == "labels_with_custom" else wrong


def expected_reward(probs: Tensor, rewards: Tensor) -> Tensor:
    """V(x) = sum_y p(y|x) r(x, y). probs, rewards: [B, C]. Returns [B]."""
    return (probs * rewards).sum(-1)


def reward_std(probs: Tensor, rewards: Tensor) -> Tensor:
    """STD of r(x, y) under y ~ p(.|x), the quantity of Theorem 1. probs, rewards: [B, C]. Returns [B].

    It comes from the centred rewards: E[r^2] - V^2 cancels when the std is small, the case of interest.
    """
    centred = rewards - expected_reward(probs, rewards)[:, None]
    return (probs * centred.square()).sum(-1).sqrt()


def cross_entropy(logprobs: Tensor, labels: Tensor, label_sets: Tensor | None = None) -> Tensor:
    """-log p(label|x), or its mean over the label set of the input's class.

    logprobs: [B, C]; labels: [B] int64; label_sets: [C, K] int64 or None. Returns [B].
    """
    targets = labels[:, None] if label_sets is None else label_sets[labels]
    return -logprobs.gather(1, targets).mean(1)


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(p || reference), exact. logprobs, ref_logprobs: [B, C]. Returns [B]."""
    return F.kl_div(ref_logprobs, logprobs, log_target=True, reduction="none").sum(-1)


def reinforce(logprobs: Tensor, rewards: Tensor, sampled: Tensor) -> Tensor:
    """Surrogate whose gradient is r(x, y) grad log p(y|x) for one sampled label y (Williams 1992).

    logprobs, rewards: [B, C]; sampled: [B] int64, y ~ p(.|x). Returns [B].
    """
    return (logprobs * rewards).gather(1, sampled[:, None]).squeeze(1)


def regularised_objective(
    method: str,
    logprobs: Tensor,
    rewards: Tensor,
    labels: Tensor,
    label_sets: Tensor | None,
    kl_coeff: float,
    ref_logprobs: Tensor | None,
    sampled: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What one step minimises, and what it is reported as.

    logprobs, rewards, ref_logprobs: [B, C]; labels, sampled: [B] int64. `sampled` is needed by
    `reinforce`, `ref_logprobs` by a positive `kl_coeff`.
    Returns (loss [B], objective [B], kl [B]): the loss to minimise; the regularised objective as tracked
    (supervised: loss + c KL; reinforcement: reward - c KL); the KL, exact or, for `reinforce`, the
    log-ratio of the sampled label. Objective and KL carry no gradient for `reinforce`.
    """
    if method == "reinforce":
        assert sampled is not None
        reward, kl = rewards.gather(1, sampled[:, None]).squeeze(1), logprobs.new_zeros(len(labels))
        if kl_coeff:
            assert ref_logprobs is not None
            kl = (logprobs.detach() - ref_logprobs).gather(1, sampled[:, None]).squeeze(1)
        # The penalty belongs inside the reward: the gradient of the bare sampled log-ratio is zero in
        # expectation, while E[(r - c log-ratio) grad log p] is the gradient of V - c KL.
        penalised = reward - kl_coeff * kl
        return -reinforce(logprobs, penalised[:, None].expand_as(logprobs), sampled), penalised, kl

    kl = logprobs.new_zeros(len(labels))
    if kl_coeff:
        assert ref_logprobs is not None
        kl = kl_divergence(logprobs, ref_logprobs)
    if method == "supervised":
        objective = cross_entropy(logprobs, labels, label_sets) + kl_coeff * kl
        return objective, objective, kl
    objective = expected_reward(logprobs.exp(), rewards) - kl_coeff * kl
    return -objective, objective, kl
