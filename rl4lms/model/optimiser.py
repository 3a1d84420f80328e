"""AdamW over what a model trains, and its step with a clipped gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def build_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    value_learning_rate: float | None = None,
) -> torch.optim.Optimizer:
    """Build AdamW; biases are not decayed. value_learning_rate: of a PolicyModel's value model and head."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if value_learning_rate is None:
        groups = _decay_groups(named, weight_decay)
    else:
        values = [(name, weight) for name, weight in named if name.startswith("value_")]
        others = [(name, weight) for name, weight in named if not name.startswith("value_")]
        of_values = _decay_groups(values, weight_decay)
        groups = [
            *_decay_groups(others, weight_decay),
            *(group | {"lr": value_learning_rate} for group in of_values),
        ]
    fused = named[0][1].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def _decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Arrange weights, with their names, in parameter groups with and without decay."""
    listed = list(named)
    groups: list[dict[str, Any]] = [
        {"params": [w for name, w in listed if "bias" not in name], "weight_decay": weight_decay},
        {"params": [w for name, w in listed if "bias" in name], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimiser_step(optimizer: torch.optim.Optimizer, model: nn.Module, max_grad_norm: float) -> Tensor:
    """Clip the gradient to a norm of `max_grad_norm` and take a step; returns the norm before.

    A gradient whose norm is no number changes nothing.
    """
    norm = nn.utils.clip_grad_norm_(trainable(model), max_grad_norm)
    if torch.isfinite(norm):
        optimizer.step()
    return norm


def gradient(weight: nn.Parameter) -> Tensor:
    """Return a weight's gradient, zeros if this process had no token that depends on it."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
