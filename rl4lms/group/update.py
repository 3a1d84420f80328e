"""The formulas of the group algorithms: advantages, probability ratios, the clipped loss and how it is
averaged.

Letters: P prompts, G texts of each, B = P G texts (those of a prompt next to each other), T tokens. The
functions take tensors and give tensors; step.py applies them to rollouts, train.py puts all together.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["group_mean", "leave_one_out", "none"]
Scale = Literal["group_std", "batch_std", "token_std", "none"]
Ratio = Literal["token", "sequence", "product"]
Aggregate = Literal["sequence_mean", "sequence", "token_mean", "constant"]

_WHITEN_EPSILON = 1e-8


def has_spread(rewards: Tensor) -> Tensor:
    """Tell which groups have texts of different rewards. rewards: [P, G]. Returns [P] bool."""
    return rewards.amax(1) > rewards.amin(1)


def group_advantages(rewards: Tensor, baseline: Baseline, scale: Scale, epsilon: float) -> Tensor:
    """Compute the advantage of each text from the rewards of its group. rewards: [P, G]. Returns [P, G].

    baseline: what is subtracted, the mean of the group, that of its other texts, or nothing. scale: divide by
    the unbiased std, plus epsilon, of the group or of all rewards ("token_std" divides later: `whiten`). A
    group without spread has advantages of exactly 0 if something is subtracted: rounding would leave 1e-17,
    which a small epsilon makes a step of.
    """
    size = rewards.shape[1]
    if baseline == "group_mean":
        advantages = rewards - rewards.mean(1, keepdim=True)
    elif baseline == "leave_one_out":
        advantages = (rewards - rewards.mean(1, keepdim=True)) * (size / (size - 1))
    else:
        advantages = rewards.clone()
    if scale == "group_std":
        advantages = advantages / (rewards.std(1, keepdim=True) + epsilon)
    elif scale == "batch_std":
        advantages = advantages / (rewards.std() + epsilon)
    if baseline == "none":
        return advantages
    return advantages.where(has_spread(rewards)[:, None], torch.zeros_like(advantages))


def returns_to_go(rewards: Tensor, token_rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum what follows each token: its text's reward, and the rewards (the KL penalty's) of it and later
    tokens.

    rewards: [B]; token_rewards, mask: [B, T]. Returns [B, T], 0 outside the mask.
    """
    inside = token_rewards.where(mask, torch.zeros_like(token_rewards))
    following = inside.flip(1).cumsum(1).flip(1)
    return (rewards[:, None] + following).where(mask, torch.zeros_like(following))


def whiten(advantages: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale advantages [B, T] to mean 0 and unbiased std 1 over all tokens; 0 outside the mask.

    Equal ones become exactly 0: rounding would leave 1e-9 over a std of 1e-9.
    """
    inside = advantages[mask]
    if len(inside) < 2 or inside.min() == inside.max():
        return torch.zeros_like(advantages)
    whitened = (advantages - inside.mean()) / (inside.std() + _WHITEN_EPSILON)
    return whitened.where(mask, torch.zeros_like(whitened))


def overlong_penalty(lengths: Tensor, longest: int, buffer: int, penalty: float) -> Tensor:
    """What DAPO takes from the rewards of texts of lengths [B]: 0 up to longest - buffer, then linearly
    more.
    """
    return -penalty * ((lengths - (longest - buffer)) / buffer).clamp(0, 1)


def log_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: Ratio) -> Tensor:
    """Logs of the probability ratios of new to old policy: per token [B, T], or per text [B, 1].

    logprobs, old_logprobs, mask: [B, T]. level: "sequence" is the geometric mean over the text's tokens
    (GSPO), "product" the ratio of the whole text's probabilities (RLOO).
    """
    log_ratio = (logprobs - old_logprobs).where(mask, torch.zeros_like(logprobs))
    if level == "token":
        return log_ratio
    total = log_ratio.sum(1, keepdim=True)
    return total / mask.sum(1, keepdim=True).clamp(min=1) if level == "sequence" else total


def aggregate(
    values: Tensor,
    mask: Tensor,
    how: Aggregate,
    max_new_tokens: int | None = None,
    totals: tuple[float, float] | None = None,
) -> Tensor:
    """Average what tokens [B, T], or texts [B, 1], contribute. Returns a scalar.

    "sequence_mean": over a text's tokens, then over texts; "sequence": summed over tokens, then over texts;
    "token_mean": over all tokens; "constant": summed over all, per text and `max_new_tokens`. A text's value
    counts once under the first two, for each of its tokens under the others. totals: texts and tokens to
    divide by, where these are a part of a minibatch.
    """
    texts, tokens = totals or (float(len(mask)), float(mask.sum()))
    weights = mask.to(values.dtype)
    lengths = weights.sum(1, keepdim=True)
    per_text = values.shape[1] == 1
    if how in ("sequence_mean", "sequence"):
        if per_text:
            return (values * (lengths > 0)).sum() / texts
        divisor = lengths.clamp(min=1) if how == "sequence_mean" else torch.ones_like(lengths)
        return ((values * weights).sum(1, keepdim=True) / divisor).sum() / texts
    total = (values * lengths).sum() if per_text else (values * weights).sum()
    if how == "token_mean":
        return total / max(tokens, 1.0)
    assert max_new_tokens is not None  # the config's check
    return total / (texts * max_new_tokens)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) of each token by e^d - d - 1, d = log pi_ref - log pi, never
    negative.
    """
    d = ref_logprobs - logprobs
    return d.exp() - d - 1


def group_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    entropy: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    *,
    ratio: Ratio = "token",
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.2,
    how: Aggregate = "sequence_mean",
    max_new_tokens: int | None = None,
    kl_coeff: float = 0.0,
    ent_coef: float = 0.0,
    totals: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Compute -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), aggregated, and its parts.

    logprobs, old_logprobs, mask, entropy, ref_logprobs: [B, T]; advantages: [B], or [B, T] with token ratios.
    clip_low, clip_high: None = not clipped. kl_coeff: of `kl_estimate`, as part of the loss; needs
    ref_logprobs. totals: as in `aggregate`. Keys: policy_loss, kl_loss, entropy_loss, total_loss,
    clip_low_fraction and clip_high_fraction (shares of terms that the clipping leaves without gradient),
    approx_kl (of old to new policy, by token).
    """
    advantages = advantages if advantages.dim() == 2 else advantages[:, None]
    log_ratio = log_ratios(logprobs, old_logprobs, mask, ratio)
    ratios = log_ratio.exp()
    low = -torch.inf if clip_low is None else 1 - clip_low
    high = torch.inf if clip_high is None else 1 + clip_high
    terms = -torch.min(ratios * advantages, ratios.clamp(low, high) * advantages)
    zero = logprobs.new_zeros(())
    parts = {
        "policy_loss": aggregate(terms, mask, how, max_new_tokens, totals),
        "kl_loss": zero,
        "entropy_loss": zero,
    }
    if kl_coeff:
        assert ref_logprobs is not None
        kl = kl_estimate(logprobs, ref_logprobs).where(mask, torch.zeros_like(logprobs))
        parts["kl_loss"] = aggregate(kl, mask, how, max_new_tokens, totals)
    if entropy is not None:
        parts["entropy_loss"] = -aggregate(entropy, mask, "token_mean", totals=totals)
    penalties = kl_coeff * parts["kl_loss"] + ent_coef * parts["entropy_loss"]
    parts["total_loss"] = parts["policy_loss"] + penalties
    with torch.no_grad():
        by_token = (logprobs - old_logprobs).where(mask, torch.zeros_like(logprobs))
        fractions = {
            "clip_low_fraction": (ratios < low) & (advantages < 0),
            "clip_high_fraction": (ratios > high) & (advantages > 0),
        }
        for name, clipped in fractions.items():
            parts[name] = aggregate(clipped.to(logprobs.dtype), mask, "token_mean", totals=totals)
        parts["approx_kl"] = aggregate(by_token.exp() - 1 - by_token, mask, "token_mean", totals=totals)
    return parts
