"""The models of a run of a group algorithm and what changes in it, all of which a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from common.run_dir import check_optimizer
from rl4lms.config import GroupConfig
from rl4lms.group.collect import Actors
from rl4lms.model.load import check_vocabulary, choose_device, load_model
from rl4lms.model.lora import load_trained_state, reference_of, trained_state
from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel, try_states
from rl4lms.run_setup import TrainingSetup
from rl4lms.task_reward import build_task_reward


@dataclass
class Learner:
    """iteration: how many are completed; tokens: generated in these; position: the next prompt in the order
    of all epochs.
    """

    policy: PolicyModel
    optimizer: torch.optim.Optimizer
    position: int = 0
    iteration: int = 0
    tokens: int = 0

    @property
    def result(self) -> PreTrainedModel:
        """The model that is evaluated and saved."""
        return self.policy.model

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": trained_state(self.policy),
            "optimizer": self.optimizer.state_dict(),
            "position": self.position,
            "iteration": self.iteration,
            "tokens": self.tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint holds."""
        load_trained_state(self.policy, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.optimizer)
        self.position, self.iteration = int(state["position"]), int(state["iteration"])
        self.tokens = int(state.get("tokens", 0))  # checkpoints from before they were counted


def build(setup: TrainingSetup) -> tuple[Actors, Learner]:
    """Load the models of a run, and make its optimiser: no value model, and a reference only for the KL.

    Raises ModelSourceError.
    """
    config = setup.config
    alg, env, runtime = config.alg, config.env, config.runtime
    # TrainConfig.check
    assert isinstance(alg, GroupConfig) and env is not None
    device, dtype = choose_device(runtime.device), getattr(torch, runtime.weights)
    model = load_model(alg.model_name, alg.model_type, dtype, device, alg.lora, runtime.seed)
    try_states(model)
    check_vocabulary(model, setup.tokenizer)
    policy = PolicyModel(model)
    reference = None
    if alg.needs_reference:
        reference = PolicyModel(reference_of(model))
    actors = Actors(
        policy=policy,
        reference=reference,
        tokenizer=setup.tokenizer,
        train=setup.train,
        reward=build_task_reward(list(config.rewards.values())),
        env=env,
        alg=alg,
        seed=runtime.seed,
    )
    return actors, Learner(
        policy, build_optimizer(policy, alg.args.learning_rate, alg.policy.args.weight_decay)
    )
