"""The formulas of PPO on tokens (Schulman et al. 2017): advantages, losses, minibatches, KL coefficient.

The functions take tensors and give tensors; train.py puts them together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from rl4lms.config import OnPolicyConfig
from rl4lms.model.forward import compute_logits, shortest_pass
from rl4lms.model.load import autocast
from rl4lms.model.optimiser import gradient, trainable
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel, compute_entropy, log_distribution, picked
from rl4lms.ppo.rollouts import Rollouts

logger = logging.getLogger(__name__)
_EPSILON = 1e-8
_KL_RATE, _KL_MAX_ERROR = 0.1, 0.2  # of KLController; relative errors beyond the largest count as this
# Name of a loss or statistic of `ppo_loss` -> its name in the log.
LOGGED_LOSSES = {
    "policy_loss": "ppo/policy_gradient_loss",
    "value_loss": "ppo/value_loss",
    "entropy_loss": "ppo/entropy_loss",
    "approx_kl": "ppo/approx_kl",
    "clip_fraction": "ppo/clip_fraction",
    "total_loss": "ppo/loss",
}


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
    last_values: Tensor | None = None,
) -> Tensor:
    """Compute generalised advantage estimates [B, T] of B episodes (Schulman et al. 2016).

    mask: [B, T], each row's steps from its first column on; 0 where it is False. last_values: [B], the value
    of the state after an episode's last step, if it was cut there; None = 0, the episodes have ended. Returns
    are the advantages plus the values.
    """
    following = torch.zeros_like(values[:, 0]) if last_values is None else last_values
    advantage = torch.zeros_like(following)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        step = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = torch.where(step, delta + gamma * lam * advantage, advantage)
        following = torch.where(step, values[:, t], following)
        advantages[:, t] = advantage.where(step, torch.zeros_like(advantage))
    return advantages


def normalize_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale rewards [B, T] to mean 0 and population std 1 over the mask; 0 elsewhere."""
    inside = rewards[mask]
    normalized = (rewards - inside.mean()) / (inside.std(correction=0) + _EPSILON)
    return normalized.where(mask, torch.zeros_like(rewards))


def normalize_advantages(advantages: Tensor) -> Tensor:
    """Shift and scale advantages [N] to mean 0 and unbiased std 1; a single one stays as it is."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + _EPSILON)


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    values: Tensor,
    returns: Tensor,
    entropy: Tensor,
    *,
    clip_range: float | None = 0.2,
    ent_coef: float = 0.0,
    vf_coef: float = 0.5,
    estimate_entropy: bool = False,
    old_values: Tensor | None = None,
    value_clip_range: float | None = None,
) -> dict[str, Tensor]:
    """Compute the loss of N tokens and its parts, means over the tokens; all arguments [N].

    advantages: as they are used, so normalised before. clip_range: None = the plain policy gradient.
    estimate_entropy: the mean of -log-prob stands for the entropy. value_clip_range: None = the squared error
    of the value; else the larger one of it and of that of the value clipped to +- this around `old_values`.
    Keys: policy_loss, value_loss (before its weight), entropy_loss (minus the entropy), total_loss,
    clip_fraction, approx_kl (of old to new policy, (e^x - 1) - x for x = the log of the ratio).
    """
    log_ratio = logprobs - old_logprobs
    ratio = log_ratio.exp()
    if clip_range is None:
        policy_loss = -(advantages * logprobs).mean()
    else:
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
    value_errors = (returns - values).square()
    if value_clip_range is not None:
        assert old_values is not None
        near = values.clamp(old_values - value_clip_range, old_values + value_clip_range)
        value_errors = torch.max(value_errors, (returns - near).square())
    value_loss = value_errors.mean()
    entropy_loss = logprobs.mean() if estimate_entropy else -entropy.mean()
    with torch.no_grad():
        clip_fraction = ((ratio - 1).abs() > (clip_range or math.inf)).float().mean()
        approx_kl = (log_ratio.exp() - 1 - log_ratio).mean()
    return {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy_loss": entropy_loss,
        "total_loss": policy_loss + vf_coef * value_loss + ent_coef * entropy_loss,
        "clip_fraction": clip_fraction,
        "approx_kl": approx_kl,
    }


def estimate_advantages(
    rollouts: Rollouts, gamma: float, lam: float, norm_reward: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns [N] of the buffer's tokens; a cut episode is bootstrapped."""
    rewards = rollouts.padded(rollouts.rewards)
    if norm_reward:
        rewards = normalize_rewards(rewards, rollouts.mask)
    values = rollouts.padded(rollouts.values)
    padded = gae(rewards, values, rollouts.mask, gamma, lam, rollouts.last_values)
    advantages = padded[rollouts.rows, rollouts.columns]
    return advantages, advantages + rollouts.values


def minibatch_losses(
    policy: PolicyModel,
    rollouts: Rollouts,
    batch: Tensor,
    advantages: Tensor,
    returns: Tensor,
    alg: OnPolicyConfig,
    *,
    world: World,
    dtype: str = "float32",
) -> dict[str, Tensor]:
    """Compute `ppo_loss` of a minibatch and leave its gradient in policy and value model.

    batch: positions [n] in the buffer; advantages (normalised here, over the minibatch), returns: [N] of the
    whole buffer. The loss is a mean over the minibatch, to which each process adds the tokens of its own
    sequences: losses and gradients are those of all processes.
    """
    args = alg.args
    parameters = trainable(policy)
    local = rollouts.rows[batch] % world.size == world.rank
    tokens, share = batch[local], float(local.float().mean())
    sums = torch.zeros(len(LOGGED_LOSSES), device=advantages.device)
    for weight in parameters:
        weight.grad = None
    if share:
        with autocast(advantages.device, dtype):
            logprobs, entropy, values = predict(
                policy, rollouts, tokens, alg.generation_kwargs.temperature, args.ent_coef > 0
            )
        losses = ppo_loss(
            logprobs,
            rollouts.logprobs[tokens],
            normalize_advantages(advantages[batch])[local],
            values,
            returns[tokens],
            entropy,
            clip_range=alg.clip_range,
            ent_coef=args.ent_coef,
            vf_coef=args.vf_coef,
            estimate_entropy=args.enforce_token_entropy_reg_estimate,
            old_values=rollouts.values[tokens],
            value_clip_range=args.value_clip_range,
        )
        (losses["total_loss"] * share).backward()
        sums = torch.stack([losses[name].detach() for name in LOGGED_LOSSES]) * share
    if world.size > 1:
        world.sum_([sums, *map(gradient, parameters)])
    return dict(zip(LOGGED_LOSSES, sums, strict=True))


def predict(
    policy: PolicyModel,
    rollouts: Rollouts,
    tokens: Tensor,
    temperature: float,
    entropy_has_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-probabilities, entropies and values now, each [n], of tokens [n] of the buffer.

    One pass over the sequences that they come from, each once and up to its last token asked for.
    entropy_has_weight: False = entropies without gradient.
    """
    rows, columns = rollouts.rows[tokens], rollouts.columns[tokens]
    unique, row = rows.unique(return_inverse=True)
    sequences = rollouts.sequences.select(unique, int(columns.max()) + 1)
    forward = shortest_pass(policy.model, sequences, row, columns)
    logits = compute_logits(policy.model, forward)
    distribution = log_distribution(logits, temperature, rollouts.action_mask(tokens))
    taken = sequences.response_ids[row, columns]
    values = policy.token_values(forward)
    entropy = compute_entropy(distribution if entropy_has_weight else distribution.detach())
    return picked(distribution, taken), entropy, values


def minibatches(
    rollouts: Rollouts,
    batch_size: int,
    unit: Literal["token", "sequence", "episode"],
    epochs: int,
    seed: int,
) -> Iterator[Tensor]:
    """Yield positions in the buffer, in random order, `batch_size` at a time, each once an epoch.

    unit: "token", as in the paper; "sequence": those of whole episodes, about as many at a time; "episode":
    those of `batch_size` whole episodes. The last ones of an epoch may be fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    device = rollouts.rows.device
    for _ in range(epochs):
        if unit == "token":
            order = torch.randperm(len(rollouts.rows), generator=generator)
            yield from order.to(device).split(batch_size)
        else:
            place = torch.randperm(len(rollouts.mask), generator=generator).to(device)[rollouts.rows]
            order = place.argsort(stable=True)
            _, lengths = place[order].unique_consecutive(return_counts=True)
            # Of unit "sequence" an episode belongs to the minibatch that its first token falls into.
            first = lengths.cumsum(0) - lengths
            number = torch.arange(len(lengths), device=device)
            group = (number if unit == "episode" else first) // batch_size
            _, sizes = group.repeat_interleave(lengths).unique_consecutive(return_counts=True)
            yield from order.split(sizes.tolist())


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Compute the share of the returns' variance that the values predict; NaN for equal returns."""
    variance = returns.var()
    return float("nan") if variance == 0 else float(1 - (returns - values).var() / variance)


class KLController:
    """The weight of the KL penalty, steered towards a target (Ziegler et al. 2019).
    coeff: the weight now; target: mean KL per token to steer it to, None = it stays.
    """

    def __init__(self, coeff: float, target: float | None = None) -> None:
        self.coeff, self.target = coeff, target

    def step(self, kl: float) -> float:
        """Update the weight after a rollout of this mean log(pi / pi_ref), which may be negative."""
        if self.target is not None:
            error = min(max((kl - self.target) / self.target, -_KL_MAX_ERROR), _KL_MAX_ERROR)
            self.coeff *= 1 + _KL_RATE * error
        return self.coeff
