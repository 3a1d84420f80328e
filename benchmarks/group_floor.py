"""GRPO and RLOO as a plain loop, the floor of `benchmarks/group.py`.

An iteration is `generate`, one teacher-forced pass, one backward pass and a step of AdamW. RLOO has a KL
penalty in its reward, so one pass of the reference too; log-probabilities of the policy that sampled are
those of the pass with gradient. Nothing is logged or saved. The project's code only loads models and
tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from floor import Episode, compute_logits, generate, load_padding_tokenizer, padded, precision, reward_texts
from torch import Tensor, nn

from rl4lms.model.load import load_model
from rl4lms.model.source import Kind

CLIP, STD_EPSILON, MAX_NORM = 0.2, 1e-4, 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and hyperparameters. n_epochs: updates on the same texts."""

    algorithm: Literal["grpo", "rloo"]
    prompts: int
    group_size: int
    prompt_length: int
    episode_length: int
    learning_rate: float
    kl_coeff: float
    n_epochs: int = 1
    device: str = "cpu"
    dtype: str = "float32"


class Models:
    """Policy, its optimiser and tokenizer; a frozen reference if there is a KL penalty."""

    def __init__(self, path: str, kind: Kind, settings: Settings) -> None:
        self.policy: Any = load_model(path, kind, torch.float32, settings.device).eval()
        self.reference: Any = None
        if settings.kl_coeff:
            self.reference = load_model(path, kind, torch.float32, settings.device).eval()
        self.tokenizer = load_padding_tokenizer(path, kind)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), settings.learning_rate, weight_decay=1e-6, fused=True
        )


def iterate(models: Models, prompts: Sequence[str], settings: Settings) -> int:
    """One iteration on these prompts; returns the number of tokens that were generated."""
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": settings.episode_length}
    with torch.no_grad(), precision(settings.device, settings.dtype):
        episodes = generate(
            models.policy,
            models.tokenizer,
            prompts,
            settings.prompt_length,
            num_return_sequences=settings.group_size,
            **sampling,
        )
    update(models, prompts, episodes, settings)
    return sum(len(e.response) for e in episodes)


def update(
    models: Models, prompts: Sequence[str], episodes: Sequence[Episode], settings: Settings
) -> dict[str, float]:
    """Reward the texts of the prompts and update on them; returns the means over updates of the losses."""
    repeated = [prompt for prompt in prompts for _ in range(settings.group_size)]
    rewards = torch.tensor(reward_texts(models.tokenizer, repeated, episodes), device=settings.device)
    _, mask = padded([e.response for e in episodes], "right", settings.device)
    with torch.no_grad(), precision(settings.device, settings.dtype):
        if models.reference is not None:
            ref = compute_logprobs(models.reference, episodes) * mask
    old = advantages = None
    log = []
    for _ in range(settings.n_epochs):
        with precision(settings.device, settings.dtype):
            logprobs = compute_logprobs(models.policy, episodes) * mask
        if old is None or advantages is None:
            old = logprobs.detach()
            if models.reference is not None:
                rewards = rewards - settings.kl_coeff * (old - ref).sum(1)
            advantages = compute_advantages(rewards.view(-1, settings.group_size), settings).view(-1, 1)
        if settings.algorithm == "grpo":
            terms = clipped(logprobs - old, advantages) * mask
            loss = (terms.sum(1) / mask.sum(1)).mean()
        else:
            loss = clipped((logprobs - old).sum(1, keepdim=True), advantages).mean()
        models.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(models.policy.parameters(), MAX_NORM)
        models.optimizer.step()
        log.append(torch.stack([loss.detach(), norm]))
    return dict(zip(("policy_loss", "grad_norm"), torch.stack(log).mean(0).tolist(), strict=True))


def compute_logprobs(model: Any, episodes: Sequence[Episode]) -> Tensor:
    """The log-probabilities [B, T] of the responses' tokens, and of their padding."""
    taken, _ = padded([e.response for e in episodes], "right", model.device)
    return compute_logits(model, episodes).log_softmax(-1).gather(2, taken[..., None])[..., 0]


def compute_advantages(rewards: Tensor, settings: Settings) -> Tensor:
    """The advantages [P, G] of rewards [P, G]."""
    size, centred = settings.group_size, rewards - rewards.mean(1, keepdim=True)
    if settings.algorithm == "rloo":
        return centred * size / (size - 1)
    return centred / (rewards.std(1, keepdim=True) + STD_EPSILON)


def clipped(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """The terms of the loss."""
    ratio = log_ratio.exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
