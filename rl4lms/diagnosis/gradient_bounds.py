"""The bounds on the norm of an input's expected policy gradient, with what can be estimated of them."""

from __future__ import annotations

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from rl4lms.policy_model import Sequences, token_logits

MAX_STEPS, CONVERGED = 40, 0.005  # of the power iteration; growth at which it has


def power_bound(std: float, length: int, gamma: float, half_range: float) -> float:
    """6 M^(1/3) L gamma STD^(2/3) (Theorem 1, M = 1): rewards lie within M of some number."""
    return 6 * half_range ** (1 / 3) * length * gamma * std ** (2 / 3)


def linear_bound(std: float, length: int, gamma: float) -> float:
    """sqrt(L / 2) gamma STD."""
    return math.sqrt(length / 2) * gamma * std


def jacobian_norm(
    model: PreTrainedModel, sequences: Sequences, place: int, temperature: float, generator: torch.Generator
) -> float:
    """Largest singular value of d (logits / temperature) / d weights, [V, D], by power iteration.

    At response token `place` of the one sequence. Never above the true value but for rounding.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    device = sequences.response_ids.device
    zero, column = torch.tensor([0], device=device), torch.tensor([place], device=device)
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
        logits = token_logits(model, sequences, zero, column)[0] / temperature
        weights = [
            weight
            for weight, found in zip(
                weights,
                torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True),
                strict=True,
            )
            if found is not None
        ]
        # J^T u is linear in u: its derivative, times v, is J v.
        dual = torch.zeros_like(logits, requires_grad=True)
        back = torch.autograd.grad(logits, weights, dual, create_graph=True)
        direction = torch.randn(logits.shape, generator=generator).to(device)
        direction /= direction.norm()
        norm = 0.0
        for _ in range(MAX_STEPS):
            product = torch.autograd.grad(logits, weights, direction, retain_graph=True)
            before, norm = norm, math.sqrt(sum(float(part.square().sum()) for part in product))
            if norm == 0 or norm - before < CONVERGED * norm:
                break
            (direction,) = torch.autograd.grad(back, dual, product, retain_graph=True)
            direction = direction / direction.norm()
    return norm
