"""AdamW over what a model trains, and its step with a clipped gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Build AdamW; biases are not decayed."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [w for name, w in named if "bias" not in name], "weight_decay": weight_decay},
        {"params": [w for name, w in named if "bias" in name], "weight_decay": 0.0},
    ]
    fused = named[0][1].device.type in ("cpu", "cuda")
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


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
