"""The models of a PPO run and what changes from iteration to iteration, all of which a checkpoint holds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from common.run_dir import check_optimizer
from rl4lms.config import NlpoConfig, OnPolicyConfig
from rl4lms.episodes import rollout_settings
from rl4lms.model.load import check_vocabulary, choose_device
from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.collect import Actors
from rl4lms.ppo.mask import MaskModel, MaskRule
from rl4lms.ppo.update import KLController
from rl4lms.run_setup import TrainingSetup
from rl4lms.task_reward import build_task_reward


@dataclass
class Learner:
    """mean_length: tokens of an episode in the last rollouts; iteration: how many are completed; tokens:
    generated in these.
    """

    policy: PolicyModel
    optimizer: torch.optim.Optimizer
    kl_controller: KLController
    mask_model: MaskModel | None
    mean_length: float
    iteration: int = 0
    tokens: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mask_model": None if self.mask_model is None else self.mask_model.model.state_dict(),
            "kl_coeff": self.kl_controller.coeff,
            "mean_length": self.mean_length,
            "iteration": self.iteration,
            "tokens": self.tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint holds."""
        self.policy.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.optimizer)
        if self.mask_model is not None:
            self.mask_model.model.load_state_dict(state["mask_model"])
        self.kl_controller.coeff = float(state["kl_coeff"])
        self.mean_length, self.iteration = float(state["mean_length"]), int(state["iteration"])
        self.tokens = int(state.get("tokens", 0))  # checkpoints from before they were counted


def build(setup: TrainingSetup) -> tuple[Actors, Learner]:
    """Load the models of a run, and make its optimiser and KL controller.

    The reference is the start; value model and mask model begin as copies of it. Raises ModelSourceError.
    """
    config = setup.config
    alg, env, runtime = config.alg, config.env, config.runtime
    # TrainConfig.check
    assert isinstance(alg, OnPolicyConfig) and env is not None
    policy = PolicyModel.load(alg.model_name, alg.model_type, choose_device(runtime.device), runtime.seed)
    check_vocabulary(policy.model, setup.tokenizer)
    mask_model = None
    if isinstance(alg, NlpoConfig):
        args, special = alg.policy.args, tuple(sorted(set(setup.tokenizer.all_special_ids)))
        rule = MaskRule(args.mask_type, args.top_mask, args.min_tokens_to_keep, special)
        mask_model = MaskModel(policy.model, rule)
    actors = Actors(
        policy=policy,
        reference=PolicyModel(copy.deepcopy(policy.model).requires_grad_(False)),
        mask_model=mask_model,
        tokenizer=setup.tokenizer,
        train=setup.train,
        reward=build_task_reward(list(config.rewards.values())),
        env=env,
        alg=alg,
        seed=runtime.seed,
    )
    learner = Learner(
        policy=policy,
        optimizer=build_optimizer(policy, alg.args.learning_rate, alg.policy.args.weight_decay),
        kl_controller=KLController(alg.kl_div.coeff, alg.kl_div.target_kl),
        mask_model=mask_model,
        mean_length=rollout_settings(alg, env).max_new_tokens,
    )
    return actors, learner
