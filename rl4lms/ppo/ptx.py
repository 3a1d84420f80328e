"""PPO-ptx: pretraining text keeps the policy a language model (Ouyang et al. 2022, Section 3.5, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.seeding import derive_seed
from rl4lms.config.pretraining import PtxConfig
from rl4lms.model.load import autocast
from rl4lms.model.optimiser import gradient, trainable
from rl4lms.model.parallel import World
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.pretraining import Example, PretrainingText, passes, sum_token_losses

# Name of a statistic of `add_pretraining_gradient` -> its name in the log.
LOGGED_PTX = {
    "ptx_loss": "ppo/ptx_loss",
    "ptx_grad_norm": "ppo/ptx_grad_norm",
    "policy_grad_norm": "ppo/policy_grad_norm",
    "ptx_cosine": "ppo/ptx_cosine",
    "policy_share": "ppo/policy_grad_share",
}


def draw_examples(
    text: PretrainingText, config: PtxConfig, rollouts: Rollouts, batch: Tensor, seed: int, number: int
) -> list[Example]:
    """Draw the pretraining examples of a minibatch: `examples_per_episode` for each text that it holds.

    batch: positions in the buffer; seed: of the iteration; number: of the minibatch in it.
    """
    episodes = len(rollouts.rows[batch].unique())
    return text.draw(episodes * config.examples_per_episode, derive_seed(seed, "examples", number))


def add_pretraining_gradient(
    model: PreTrainedModel, examples: Sequence[Example], coeff: float, *, world: World, dtype: str = "float32"
) -> dict[str, Tensor]:
    """Add coeff times the gradient of the examples' loss, a mean over their tokens, to the policy's gradient.

    The examples are shared out to the processes; gradients and results are those of all. Keys: ptx_loss;
    ptx_grad_norm (with coeff) and policy_grad_norm (PPO's), of the policy's weights; their ptx_cosine;
    policy_share: of the sum's length what PPO's gradient adds to it, as before clipping so after it.
    """
    weights = trainable(model)
    ppo_gradients = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    tokens = sum(len(example.target) for example in examples)
    loss = torch.zeros((), device=model.device)
    for part in passes(model, world.share(list(examples))):
        with autocast(model.device, dtype):
            part_loss = sum_token_losses(model, part) / tokens
        (coeff * part_loss).backward()
        loss += part_loss.detach()
    if world.size > 1:
        world.sum_([loss, *map(gradient, weights)])
    statistics = {"ptx_loss": loss} | compare_gradients(ppo_gradients, weights)
    for weight, ppo_gradient in zip(weights, ppo_gradients, strict=True):
        if ppo_gradient is not None:
            weight.grad = ppo_gradient.add_(gradient(weight))
    return statistics


def compare_gradients(ppo: Sequence[Tensor | None], weights: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Compare PPO's gradient with that of pretraining, which the weights hold: norms, cosine, share."""
    squares = torch.zeros(3, device=weights[0].device)  # of PPO's, of pretraining's; the inner product
    for ppo_gradient, weight in zip(ppo, weights, strict=True):
        p = torch.zeros_like(weight) if ppo_gradient is None else ppo_gradient
        q = gradient(weight)
        squares += torch.stack([p.square().sum(), q.square().sum(), (p * q).sum()])
    ppo_square, ptx_square, product = squares
    return {
        "ptx_grad_norm": ptx_square.sqrt(),
        "policy_grad_norm": ppo_square.sqrt(),
        "ptx_cosine": product / (ppo_square * ptx_square).sqrt(),
        "policy_share": (ppo_square + product) / (ppo_square + 2 * product + ptx_square),
    }
