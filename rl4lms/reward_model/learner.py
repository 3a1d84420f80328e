"""The reward model that is trained and its optimiser, all of which a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.run_dir import check_optimizer
from rl4lms.config.algorithms import RewardModelArgs
from rl4lms.config.training_blocks import TrainRuntimeConfig
from rl4lms.model.load import choose_device
from rl4lms.model.lora import load_trained_state, trained_state
from rl4lms.model.optimiser import build_optimizer, gradient, optimiser_step, trainable
from rl4lms.model.parallel import World
from rl4lms.model.policy import checkpoint_activations
from rl4lms.model.reward_model import RewardModel
from rl4lms.model.source import BAG_OF_TOKENS
from rl4lms.reward_model.setup import RewardSetup


@dataclass
class Learner:
    """update: how many are completed."""

    model: RewardModel
    optimizer: torch.optim.Optimizer
    update: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "update": self.update,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint holds."""
        load_trained_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.optimizer)
        self.update = state["update"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return trainable(self.model)


def build(setup: RewardSetup) -> Learner:
    """Put a new head on the language model, and make its optimiser. Raises ModelSourceError."""
    config, alg = setup.config, setup.alg
    model = RewardModel.start(
        alg.model_name,
        alg.model_type,
        tokenizer_name=config.tokenizer.model_name,
        max_length=alg.args.max_length,
        device=choose_device(config.runtime.device),
        seed=config.runtime.seed,
        lora=alg.lora,
        dtype=getattr(torch, config.runtime.weights),
    )
    args = alg.args
    return Learner(
        model, build_optimizer(model, args.learning_rate, args.weight_decay, (args.betas[0], args.betas[1]))
    )


def begin_update(learner: Learner, args: RewardModelArgs, runtime: TrainRuntimeConfig) -> None:
    """Switch dropout as the config says, and drop the gradient of the update before."""
    learner.model.train(args.dropout)
    if runtime.gradient_checkpointing and learner.model.kind != BAG_OF_TOKENS:
        checkpoint_activations(learner.model.model)
    learner.optimizer.zero_grad()


def learning_rate(update: int, updates: int, args: RewardModelArgs) -> float:
    """The learning rate of an update, from 1, of so many: the peak at first, cosine's end after the last."""
    if args.lr_schedule == "constant":
        return args.learning_rate
    cosine = (1 + math.cos(math.pi * (update - 1) / updates)) / 2
    return args.learning_rate * (args.min_lr_rate + (1 - args.min_lr_rate) * cosine)


def take_step(learner: Learner, rate: float, max_grad_norm: float) -> Tensor:
    """Clip the gradient to a norm of `max_grad_norm`, and take a step; returns the norm before.

    A gradient whose norm is no number changes nothing.
    """
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    return optimiser_step(learner.optimizer, learner.model, max_grad_norm)


def sum_gradients(learner: Learner, world: World) -> None:
    """Give all processes the sum of their gradients."""
    if world.size > 1:
        world.sum_(map(gradient, learner.parameters))


def normalize(model: RewardModel, setup: RewardSetup) -> None:
    """Set bias and scale as `alg.args.normalize` says: all processes score, to the same numbers.

    demonstrations: train's references score 0 on average, as in the paper. policy: train's completions have
    mean 0 and std 1, as the policy's samples in Ziegler et al. 2019.
    """
    how = setup.alg.args.normalize
    if how == "none":
        return
    texts = [
        (ranking.prompt, text)
        for ranking in setup.train
        for text in (ranking.references if how == "demonstrations" else ranking.completions)
    ]
    share = setup.world.share(texts)
    model.bias, model.scale = 0.0, 1.0
    model.eval()
    scored = model.score(
        [prompt for prompt, _ in share],
        [text for _, text in share],
        setup.config.train_evaluation.eval_batch_size,
    )
    rewards = torch.tensor(setup.world.gather(scored), dtype=torch.float64)
    if how == "policy" and (std := float(rewards.std(correction=0))) > 0:
        model.scale = 1 / std
    model.bias = -model.scale * float(rewards.mean())
