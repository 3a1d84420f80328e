"""Groups of labels in the place of one: GRPO's exact expected gradient, and groups that are sampled.

Letters: B inputs, C labels, G labels of a group. The rewards of an input have two levels, of which the right
label, of probability p, has the better one. Then the expected GRPO gradient is D_G(p) grad m, with the log
odds m = log p - log(1 - p) and D_G(p) the mean std of a group of 0/1 rewards; it is that of F_G(p), with
dF_G/dp = D_G(p) / (p (1 - p)). Neither depends on the levels. (`rft_diagnose.group_signal` derives it.)
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rft_diagnose.group_signal import INFINITE

Advantage = Literal["grpo", "rloo", "dr_grpo"]


def log_odds(logprobs: Tensor, labels: Tensor) -> Tensor:
    """m = log p - log(1 - p) of the right label. logprobs: [B, C]; labels: [B] int64. Returns [B].

    log(1 - p) is the sum over the other labels: from p itself it is lost where p is near 1.
    """
    right = labels[:, None] == torch.arange(logprobs.shape[-1], device=labels.device)
    others = logprobs.masked_fill(right, -torch.inf).logsumexp(-1)
    return logprobs.gather(1, labels[:, None]).squeeze(1) - others


def group_std(margin: Tensor, group_size: int, unbiased: bool = False) -> Tensor:
    """D_G(p), the mean std of G rewards 1 or 0; with `unbiased` GRPO divides by the unbiased std.

    margin: [B], the log odds. Returns [B] float64. Infinite groups (0): sqrt(p (1 - p)).
    """
    log_p, log_q = _log_probabilities(margin)
    if group_size == INFINITE:
        return ((log_p + log_q) / 2).exp()
    k = torch.arange(1, group_size, dtype=torch.float64, device=margin.device)
    weights = (k * (group_size - k)).sqrt() / group_size * _correction(group_size, unbiased)
    return _binomial(k, group_size, log_p, log_q) @ weights


def group_objective(margin: Tensor, group_size: int, unbiased: bool = False) -> Tensor:
    """F_G(p), what GRPO maximises in the place of p. margin: [B], the log odds. Returns [B] float64.

    F_G(p) = sum over k of P(Bin(G - 1, p) >= k) / sqrt(k (G - k)); infinite groups (0): 2 arcsin sqrt(p).
    """
    log_p, log_q = _log_probabilities(margin)
    if group_size == INFINITE:
        return 2 * torch.atan2((log_p / 2).exp(), (log_q / 2).exp())
    k = torch.arange(1, group_size, dtype=torch.float64, device=margin.device)
    weights = (1 / (k * (group_size - k)).sqrt()).cumsum(0) * _correction(group_size, unbiased)
    return _binomial(k, group_size - 1, log_p, log_q) @ weights


def expected_group_surrogate(logprobs: Tensor, labels: Tensor, group_size: int, unbiased: bool) -> Tensor:
    """Surrogate whose gradient is D_G(p) grad m. logprobs: [B, C]; labels: [B] int64. Returns [B]."""
    margin = log_odds(logprobs, labels)
    return group_std(margin.detach(), group_size, unbiased).to(margin.dtype) * margin


def group_advantages(rewards: Tensor, advantage: Advantage, unbiased: bool) -> Tensor:
    """The advantage of each label of a group; exactly 0 where all rewards are equal. rewards: [B, G].

    grpo: (r - mean) / std of the group; dr_grpo: r - mean; rloo: r - mean of the others. Returns [B, G].
    """
    size = rewards.shape[1]
    spread = (rewards.amax(1) > rewards.amin(1))[:, None]
    centred = torch.where(spread, rewards - rewards.mean(1, keepdim=True), 0.0)
    if advantage == "rloo":
        return centred * (size / (size - 1))
    if advantage == "dr_grpo":
        return centred
    return centred / torch.where(spread, rewards.std(1, correction=int(unbiased), keepdim=True), 1.0)


def sampled_group_surrogate(
    logprobs: Tensor, rewards: Tensor, sampled: Tensor, advantage: Advantage, unbiased: bool
) -> Tensor:
    """Surrogate whose gradient is the mean over a group of advantage grad log p(label).

    logprobs, rewards: [B, C]; sampled: [B, G] int64, labels y ~ p(.|x). Returns [B].
    """
    advantages = group_advantages(rewards.gather(1, sampled), advantage, unbiased)
    return (advantages * logprobs.gather(1, sampled)).mean(1)


def _log_probabilities(margin: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) in float64, both exact at either end."""
    margin = margin.double()
    return F.logsigmoid(margin), F.logsigmoid(-margin)


def _correction(group_size: int, unbiased: bool) -> float:
    return ((group_size - 1) / group_size) ** 0.5 if unbiased else 1.0


def _binomial(k: Tensor, n: int, log_p: Tensor, log_q: Tensor) -> Tensor:
    """P(Bin(n, p) = k), [B, K]. k: [K] float64."""
    total = torch.tensor(n + 1.0, dtype=torch.float64, device=k.device)
    log_choose = torch.lgamma(total) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return (log_choose + k * log_p[:, None] + (n - k) * log_q[:, None]).exp()
