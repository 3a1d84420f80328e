"""From rollouts to a gradient: the advantages of their texts or tokens, and the loss of a minibatch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rl4lms.config import GroupConfig
from rl4lms.episodes import rollout_settings
from rl4lms.group.collect import Actors, Rollouts, parts
from rl4lms.group.update import group_advantages, group_loss, returns_to_go, whiten
from rl4lms.model.forward import compute_logits, shortest_pass
from rl4lms.model.load import autocast
from rl4lms.model.optimiser import gradient, trainable
from rl4lms.model.parallel import World
from rl4lms.model.policy import compute_entropy, log_distribution, picked

# Name of a loss or statistic of `group_loss` -> its name in the log.
LOGGED_LOSSES = {
    "policy_loss": "group/policy_loss",
    "kl_loss": "group/kl_loss",
    "entropy_loss": "group/entropy_loss",
    "approx_kl": "group/approx_kl",
    "clip_low_fraction": "group/clip_low_fraction",
    "clip_high_fraction": "group/clip_high_fraction",
    "total_loss": "group/loss",
}


def estimate_advantages(rollouts: Rollouts, alg: GroupConfig) -> Tensor:
    """Compute the advantage of each text [B], or of each token [B, T] with `scale: token_std`.

    A KL penalty that is part of the reward takes coeff * sum(log pi_old - log pi_ref) off a text's, or off
    the return of each token what is due from it on.
    """
    args, rewards = alg.args, rollouts.rewards
    if not len(rewards):  # no group had spread
        return rewards.flatten()
    penalty = torch.zeros_like(rollouts.mask, dtype=rewards.dtype)
    if alg.needs_reference and alg.kl_div.where == "reward":
        assert rollouts.old_logprobs is not None and rollouts.ref_logprobs is not None
        penalty = alg.kl_div.coeff * (rollouts.old_logprobs - rollouts.ref_logprobs)
        penalty = penalty.where(rollouts.sequences.response_mask, torch.zeros_like(penalty))
    if args.scale == "token_std":
        texts = group_advantages(rewards, args.baseline, "none", args.std_epsilon).flatten()
        return whiten(returns_to_go(texts, -penalty, rollouts.mask), rollouts.mask)
    rewards = rewards - rollouts.penalties.view(rewards.shape)
    return group_advantages(rewards, args.baseline, args.scale, args.std_epsilon).flatten()


def minibatches(texts: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yield numbers of texts in random order, `batch_size` at a time, each once an epoch; all: in order."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs if texts else 0):
        if batch_size >= texts:
            yield torch.arange(texts)
        else:
            yield from torch.randperm(texts, generator=generator).split(batch_size)


def minibatch_losses(
    actors: Actors,
    rollouts: Rollouts,
    batch: Tensor,
    advantages: Tensor,
    *,
    world: World,
    dtype: str = "float32",
) -> dict[str, Tensor]:
    """Compute `group_loss` of a minibatch and leave its gradient in the policy.

    batch: numbers [n] of texts; advantages: of all texts, [B] or [B, T]. Each process adds its share of the
    texts, in parts that fit the memory: losses and gradients are those of the whole minibatch.
    """
    args, policy, device = actors.alg.args, actors.policy, rollouts.mask.device
    parameters = trainable(policy)
    for weight in parameters:
        weight.grad = None
    totals = (float(len(batch)), float(rollouts.mask[batch.to(device)].sum()))
    sums = torch.zeros(len(LOGGED_LOSSES), device=device)
    for rows in parts(policy, world.share(batch.tolist()), rollouts.mask):
        with autocast(device, dtype):
            logprobs, entropy = _predict(actors, rollouts, rows)
        length = logprobs.shape[1]
        old = logprobs.detach() if rollouts.old_logprobs is None else rollouts.old_logprobs[rows, :length]
        losses = group_loss(
            logprobs,
            old,
            advantages[rows] if advantages.dim() == 1 else advantages[rows, :length],
            rollouts.mask[rows, :length],
            entropy,
            None if rollouts.ref_logprobs is None else rollouts.ref_logprobs[rows, :length],
            ratio=args.ratio,
            clip_low=args.clip_low,
            clip_high=args.clip_high,
            how=args.aggregate,
            max_new_tokens=rollout_settings(actors.alg, actors.env).max_new_tokens,
            kl_coeff=actors.alg.kl_div.coeff if actors.alg.kl_div.where == "loss" else 0.0,
            ent_coef=args.ent_coef,
            totals=totals,
        )
        losses["total_loss"].backward()
        sums += torch.stack([losses[name].detach() for name in LOGGED_LOSSES])
    if world.size > 1:
        world.sum_([sums, *map(gradient, parameters)])
    return dict(zip(LOGGED_LOSSES, sums, strict=True))


def _predict(actors: Actors, rollouts: Rollouts, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log-probabilities and entropies now, each [n, T'], of the texts' tokens; 0 elsewhere."""
    mask = rollouts.sequences.response_mask[rows]
    length = int(mask.sum(1).max())
    sequences, mask = rollouts.sequences.select(rows, length), mask[:, :length]
    row, column = mask.nonzero(as_tuple=True)
    model = actors.policy.model
    logits = compute_logits(model, shortest_pass(model, sequences, row, column, share=True))
    distribution = log_distribution(logits, actors.alg.generation_kwargs.temperature)
    weighted = distribution if actors.alg.args.ent_coef > 0 else distribution.detach()
    zeros = torch.zeros(mask.shape, device=logits.device)
    taken = picked(distribution, sequences.response_ids[row, column])
    return zeros.index_put((row, column), taken), zeros.index_put((row, column), compute_entropy(weighted))
