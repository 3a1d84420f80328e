"""The bounds on the expected policy gradient, and the rates of RFT and SFT, checked on exact small models.

The models are autoregressive, and so small that all their outputs can be enumerated: exact probabilities and
scores. Letters: N models (each with its one input), K tokens in the vocabulary, L output length, Y = K**L
outputs, P = 1 + K + ... + K**(L-1) prefixes, F features of a prefix, D parameters. All tensors are float64:
the reward stds of interest span ten decades, and every sum here is arranged to keep its relative precision.
Sources: Theorems 1 and 2 of the paper; Proposition 2 of its sequel (arXiv 2503.15477) for the KL penalty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.integrate import solve_ivp
from scipy.special import softmax
from torch import Tensor

LARGEST_SCALE = {"tabular": 12.0, "shared": 12.0, "linear": 7.0, "network": 6.0}  # reward stds down to 1e-10
SHAPES = ((2, 1), (5, 1), (2, 2), (5, 2), (3, 3), (2, 5), (4, 3))  # (K, L) of a campaign
METHODS = ("RFT", "SFT")
REWARDS = ("uniform", "sign", "one right", "additive", "nearly constant")


def centred_rewards(logprobs: Tensor, rewards: Tensor) -> Tensor:
    """r(x, y) - V(x). logprobs, rewards: [N, Y]. Returns [N, Y]."""
    # Relative to the likeliest output's reward, V is a sum of small terms, and so is r - V where p is large.
    likeliest = logprobs.argmax(-1, keepdim=True)
    relative = rewards - rewards.gather(-1, likeliest)
    return relative - (logprobs.exp() * relative).sum(-1, keepdim=True)


def reward_std(logprobs: Tensor, rewards: Tensor) -> Tensor:
    """STD of r(x, y) under y ~ p(.|x). logprobs, rewards: [N, Y]. Returns [N]."""
    return (logprobs.exp() * centred_rewards(logprobs, rewards).square()).sum(-1).sqrt()


def value_gradient(outputs: Outputs, rewards: Tensor) -> Tensor:
    """Gradient of V(x) = E r(x, y), as E (r - V) grad log p. rewards: [N, Y]. Returns [N, D].

    With penalised rewards r - c log(p / p_ref) it is the gradient of V - c KL(p || p_ref): the derivative
    of the log-ratio itself has mean zero. Without "- V" the terms of a peaked distribution cancel, and below
    a reward std of about 1e-7 rounding alone exceeds the bounds.
    """
    weights = outputs.logprobs.exp() * centred_rewards(outputs.logprobs, rewards)
    return (weights[:, None] @ outputs.scores).squeeze(1)


# Bounds on the norm of the gradient


def power_bound(length: int, gamma: Tensor, std: Tensor, reward_range: Tensor | float = 1.0) -> Tensor:
    """6 M^(1/3) L gamma STD^(2/3) for rewards in [-M, M]: Theorem 1 with M = 1, else Proposition 2.

    Under a KL penalty the gradient is that of V - c KL, `std` and M those of the penalised rewards, M >= 1.
    """
    return 6 * torch.as_tensor(reward_range).pow(1 / 3) * length * gamma * std.pow(2 / 3)


def linear_bound(length: int, gamma: Tensor, std: Tensor) -> Tensor:
    """sqrt(L / 2) gamma STD: each token's Fisher information in its logits is at most 1/2."""
    return math.sqrt(length / 2) * gamma * std


def fisher_bound(outputs: Outputs, std: Tensor) -> Tensor:
    """STD sqrt(lambda_max(F)), F the Fisher information of p(.|x): Cauchy-Schwarz on E (r - V) grad log p."""
    roots = (outputs.logprobs / 2).exp()[..., None] * outputs.scores  # F = roots^T roots
    gram = roots.mT @ roots if roots.shape[-1] < roots.shape[-2] else roots @ roots.mT
    return torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt() * std


# A campaign of random models


def draw_params(
    kind: str, num_models: int, num_tokens: int, length: int, generator: torch.Generator
) -> Tensor:
    """Normal parameters [N, D], each model at its own scale: from uniform outputs to one nearly certain."""
    size = num_params(kind, num_tokens, length)
    largest = LARGEST_SCALE[kind] / math.sqrt(length)
    scale = 0.05 + largest * torch.rand(num_models, 1, dtype=torch.float64, generator=generator)
    return scale * torch.randn(num_models, size, dtype=torch.float64, generator=generator)


def draw_rewards(
    kind: str, num_models: int, num_tokens: int, length: int, generator: torch.Generator
) -> Tensor:
    """Rewards [N, Y] in [-1, 1], of one of the kinds `REWARDS`.

    They are uniform; +1 or -1, both occurring; +1 for one output alone; the mean of a value per token; a
    constant plus little.
    """
    shape = (num_models, num_tokens**length)
    if kind == "one right":
        right = torch.randint(shape[1], (num_models, 1), generator=generator)
        return torch.full(shape, -1.0, dtype=torch.float64).scatter(1, right, 1.0)
    if kind == "additive":
        values = _uniform((num_models, num_tokens), generator)
        return values[:, enumerate_outputs(num_tokens, length)[1]].mean(-1)
    draws = _uniform(shape, generator)
    if kind == "sign":
        return (draws - draws.mean(-1, keepdim=True)).sign()
    if kind == "nearly constant":
        spread = _log_uniform(1e-8, 1, (num_models, 1), generator)
        return (1 - spread) * _uniform((num_models, 1), generator) + spread * draws
    return draws


def campaign(seed: int, num_models: int) -> list[dict[str, Any]]:
    """Enumerate `num_models` random models of all kinds and shapes, each with and without a KL penalty.

    Returns one row per model: kind, reward, num_tokens, length, gamma, std, grad_norm and its bounds
    power_bound (Theorem 1), linear_bound, fisher_bound; with the penalty: kl_coeff, kl_std, kl_grad_norm
    and its power bound kl_bound.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [(kind, *shape) for kind in MODELS for shape in SHAPES]
    rows: list[dict[str, Any]] = []
    for i, (kind, num_tokens, length) in enumerate(groups):
        size = num_models // len(groups) + (i < num_models % len(groups))
        if size:
            rows += _campaign_group(kind, size, num_tokens, length, generator)
    return rows


def _campaign_group(
    kind: str, size: int, num_tokens: int, length: int, generator: torch.Generator
) -> list[dict[str, Any]]:
    params = draw_params(kind, size, num_tokens, length, generator)
    reward_kinds = [REWARDS[i % len(REWARDS)] for i in range(size)]
    rewards = torch.cat([draw_rewards(name, 1, num_tokens, length, generator) for name in reward_kinds])
    # The reference is the model some way back: from hardly changed to another model altogether.
    shift = _log_uniform(1e-4, 3, (size, 1), generator)
    shift = shift * torch.randn(params.shape, dtype=torch.float64, generator=generator)
    kl_coeff = _log_uniform(1e-4, 1, (size,), generator)

    outputs = enumerate_models(kind, params, num_tokens, length)
    reference = enumerate_models(kind, params + shift, num_tokens, length)
    penalised = rewards - kl_coeff[:, None] * (outputs.logprobs - reference.logprobs)
    std, kl_std = reward_std(outputs.logprobs, rewards), reward_std(outputs.logprobs, penalised)
    columns = {
        "gamma": outputs.gamma,
        "std": std,
        "grad_norm": value_gradient(outputs, rewards).norm(dim=-1),
        "power_bound": power_bound(length, outputs.gamma, std),
        "linear_bound": linear_bound(length, outputs.gamma, std),
        "fisher_bound": fisher_bound(outputs, std),
        "kl_coeff": kl_coeff,
        "kl_std": kl_std,
        "kl_grad_norm": value_gradient(outputs, penalised).norm(dim=-1),
        "kl_bound": power_bound(length, outputs.gamma, kl_std, penalised.abs().amax(-1).clamp_min(1)),
    }
    numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"kind": kind, "reward": reward, "num_tokens": num_tokens, "length": length}
        | dict(zip(columns, values, strict=True))
        for reward, values in zip(reward_kinds, numbers, strict=True)
    ]


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1


def _log_uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low * (high / low) ** torch.rand(shape, dtype=torch.float64, generator=generator)


# Rates


def right_label_probability(std: float) -> float:
    """p of the right label, at most 1/2, at which the +-1 reward has this std: std = 2 sqrt(p (1 - p))."""
    return std**2 / (2 * (1 + math.sqrt(1 - std**2)))


def time_to_zero_reward(method: str, std: float, num_labels: int = 5) -> float:
    """Time of gradient flow on the logits of one input until V = 0, in closed form (setting of Theorem 2).

    The reward is +1 for the right label, -1 for the others, which start equal and stay so: one variable
    is left, p of the right label, with dp/dt = 2 k p^2 (1 - p)^2 for RFT and k p (1 - p)^2 for SFT,
    k = num_labels / (num_labels - 1), integrated from `right_label_probability(std)` to 1/2.
    """
    p, k = right_label_probability(std), num_labels / (num_labels - 1)
    log_odds = math.log((1 - p) / p)
    if method == "RFT":
        return (1 / p - 1 / (1 - p) + 2 * log_odds) / (2 * k)
    return (2 - 1 / (1 - p) + log_odds) / k


def logits_velocity(method: str, logits: np.ndarray) -> np.ndarray:
    """d logits / dt of gradient flow, label 0 being right. RFT: p (r - V); SFT: e_0 - p. logits: [labels]."""
    probs, right = softmax(logits), np.eye(len(logits))[0]
    rewards = 2 * right - 1
    return probs * (rewards - probs @ rewards) if method == "RFT" else right - probs


def integrate_time(method: str, std: float, num_labels: int = 5) -> float:
    """Compute `time_to_zero_reward` by integrating the flow of all logits, with no use of the symmetry."""
    p = right_label_probability(std)
    start = np.log(np.array([p] + [(1 - p) / (num_labels - 1)] * (num_labels - 1)))

    def reward(time: float, logits: np.ndarray) -> float:
        return 2 * softmax(logits)[0] - 1

    reward.terminal = True  # type: ignore[attr-defined]
    flow = solve_ivp(
        lambda time, logits: logits_velocity(method, logits),
        (0, 10 / std**2),  # RFT, the slower, takes about 2 / (k std^2)
        start,
        method="LSODA",
        events=reward,
        rtol=1e-9,
        atol=1e-9,
    )
    return float(flow.t_events[0][0])


def rates(stds: Sequence[float]) -> list[dict[str, Any]]:
    """One row per method and initial reward std: method, std, time (integrated), exact_time (closed form)."""
    return [
        {
            "method": method,
            "std": std,
            "time": integrate_time(method, std),
            "exact_time": time_to_zero_reward(method, std),
        }
        for method in METHODS
        for std in stds
    ]


# The models

HIDDEN = 3  # units of the `network` kind


def _tabular(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return params.view(len(features), num_tokens)


def _shared(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return params.expand(len(features), num_tokens)


def _linear(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    return features @ params.view(-1, num_tokens)


def _network(params: Tensor, features: Tensor, num_tokens: int) -> Tensor:
    size = features.shape[-1] * HIDDEN
    return torch.tanh(features @ params[:size].view(-1, HIDDEN)) @ params[size:].view(HIDDEN, num_tokens)


# kind -> logits [P, K] of parameters [D] and prefix features [P, F]: free logits of every prefix; the same
# logits whatever the prefix; linear in the features; one hidden layer.
MODELS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "tabular": _tabular,
    "shared": _shared,
    "linear": _linear,
    "network": _network,
}


def num_params(kind: str, num_tokens: int, length: int) -> int:
    """Count the parameters D of a kind of model."""
    num_prefixes, num_features = prefix_features(num_tokens, length).shape
    return {
        "tabular": num_prefixes * num_tokens,
        "shared": num_tokens,
        "linear": num_features * num_tokens,
        "network": (num_features + num_tokens) * HIDDEN,
    }[kind]


def enumerate_outputs(num_tokens: int, length: int) -> tuple[Tensor, Tensor]:
    """All outputs, in the order of counting. Returns int64 [Y, L]: (prefix before a token, token).

    Prefixes are numbered by length, then in the order of counting.
    """
    outputs = torch.arange(num_tokens**length)[:, None]
    place = num_tokens ** torch.arange(length - 1, -1, -1)
    lengths = torch.arange(length)
    first_prefix = (num_tokens**lengths - 1) // (num_tokens - 1)
    return first_prefix + outputs // (place * num_tokens), outputs // place % num_tokens


def prefix_features(num_tokens: int, length: int) -> Tensor:
    """What the tied models see of a prefix: one-hot position, one-hot last token, counts. Returns [P, F]."""
    prefixes, tokens = enumerate_outputs(num_tokens, length)
    features = torch.zeros(int(prefixes.max()) + 1, length + 2 * num_tokens, dtype=torch.float64)
    for position in range(length):
        index = prefixes[:, position]
        features[index, position] = 1
        if position > 0:
            features[index, length + tokens[:, position - 1]] = 1
            counts = F.one_hot(tokens[:, :position], num_tokens).sum(1)
            features[index, length + num_tokens :] = counts.double()
    return features


@dataclass(frozen=True)
class Outputs:
    """The distribution of N models over all their outputs, and its derivatives.

    logprobs: [N, Y], log p(y|x); scores: [N, Y, D], its gradient in the parameters; gamma: [N], the largest
    spectral norm over all prefixes (so over positions too) of the Jacobian of the logits in the parameters.
    """

    logprobs: Tensor
    scores: Tensor
    gamma: Tensor


def enumerate_models(kind: str, params: Tensor, num_tokens: int, length: int) -> Outputs:
    """Enumerate N models of one kind. params: [N, D] float64."""
    features = prefix_features(num_tokens, length)

    def compute_logits(flat: Tensor) -> Tensor:
        return MODELS[kind](flat, features, num_tokens)

    logits = torch.func.vmap(compute_logits)(params)  # [N, P, K]
    jacobian = torch.func.vmap(torch.func.jacrev(compute_logits))(params)  # [N, P, K, D]
    gamma = torch.linalg.eigvalsh(jacobian @ jacobian.mT)[..., -1].amax(-1).sqrt()

    # e_y - p, with 1 - p_y as the sum of the others: as a difference it is lost when p_y is near 1.
    others = 1 - torch.eye(num_tokens, dtype=torch.float64)
    probs = logits.softmax(-1)
    token_scores = (torch.diag_embed(probs @ others) - probs[..., None, :] * others) @ jacobian
    token_logprobs = logits.log_softmax(-1)

    prefixes, tokens = enumerate_outputs(num_tokens, length)
    logprobs = token_logprobs[:, prefixes, tokens].sum(-1)
    scores = torch.zeros(len(params), len(tokens), params.shape[-1], dtype=torch.float64)
    for position in range(length):
        scores += token_scores[:, prefixes[:, position], tokens[:, position]]
    return Outputs(logprobs, scores, gamma)
