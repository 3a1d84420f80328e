"""The models of a PPO run and what changes from iteration to iteration, all of which a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from common.run_dir import check_optimizer
from rl4lms.config import NlpoConfig, OnPolicyConfig
from rl4lms.config.algorithms import OnPolicyArgs
from rl4lms.episodes import rollout_settings
from rl4lms.model.load import check_vocabulary, choose_device, load_model
from rl4lms.model.lora import frozen_copy, load_trained_state, reference_of, trained_state
from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel, try_states
from rl4lms.model.value import load_value_model
from rl4lms.ppo.collect import Actors, measure_kl
from rl4lms.ppo.mask import MaskModel, MaskRule
from rl4lms.ppo.update import KLController
from rl4lms.run_setup import TrainingSetup
from rl4lms.samples import Split
from rl4lms.task_reward import build_task_reward


@dataclass
class Learner:
    """mean_length: tokens of an episode in the last rollouts; iteration: how many are completed; tokens:
    generated in these. average: of the policy's weights over the updates; None = they are not averaged.
    """

    policy: PolicyModel
    optimizer: torch.optim.Optimizer
    kl_controller: KLController
    mask_model: MaskModel | None
    mean_length: float
    iteration: int = 0
    tokens: int = 0
    average: PreTrainedModel | None = None

    @property
    def result(self) -> PreTrainedModel:
        """The model that is evaluated and saved."""
        return self.policy.model if self.average is None else self.average

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        averaged = {} if self.average is None else {"average": trained_state(self.average)}
        return averaged | {
            "model": trained_state(self.policy),
            "optimizer": self.optimizer.state_dict(),
            "mask_model": None if self.mask_model is None else trained_state(self.mask_model.model),
            "kl_coeff": self.kl_controller.coeff,
            "mean_length": self.mean_length,
            "iteration": self.iteration,
            "tokens": self.tokens,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint holds."""
        load_trained_state(self.policy, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        check_optimizer(self.optimizer)
        if self.mask_model is not None:
            load_trained_state(self.mask_model.model, state["mask_model"])
        if self.average is not None:
            load_trained_state(self.average, state["average"])
        self.kl_controller.coeff = float(state["kl_coeff"])
        self.mean_length, self.iteration = float(state["mean_length"]), int(state["iteration"])
        self.tokens = int(state.get("tokens", 0))  # checkpoints from before they were counted


def build(setup: TrainingSetup) -> tuple[Actors, Learner]:
    """Load the models of a run, and make its optimiser and KL controller.

    The reference is the start; the mask model begins as a copy of it, and so does the value model, unless a
    reward model is named. Raises ModelSourceError.
    """
    config = setup.config
    alg, env, runtime = config.alg, config.env, config.runtime
    # TrainConfig.check
    assert isinstance(alg, OnPolicyConfig) and env is not None
    policy = _load_policy(setup, alg)
    check_vocabulary(policy.model, setup.tokenizer)
    mask_model = None
    if isinstance(alg, NlpoConfig):
        args, special = alg.policy.args, tuple(sorted(set(setup.tokenizer.all_special_ids)))
        rule = MaskRule(args.mask_type, args.top_mask, args.min_tokens_to_keep, special)
        mask_model = MaskModel(policy.model, rule)
    actors = Actors(
        policy=policy,
        reference=PolicyModel(reference_of(policy.model)),
        mask_model=mask_model,
        tokenizer=setup.tokenizer,
        train=setup.train,
        reward=build_task_reward(list(config.rewards.values())),
        env=env,
        alg=alg,
        seed=runtime.seed,
        pretraining=setup.pretraining,
    )
    update_args, average = alg.args, None
    if update_args.ema_decay is not None:
        average = frozen_copy(policy.model)
    learner = Learner(
        policy=policy,
        optimizer=build_optimizer(
            policy,
            update_args.learning_rate,
            alg.policy.args.weight_decay,
            value_learning_rate=update_args.value_learning_rate,
        ),
        kl_controller=KLController(alg.kl_div.coeff, alg.kl_div.target_kl),
        mask_model=mask_model,
        mean_length=rollout_settings(alg, env).max_new_tokens,
        average=average,
    )
    return actors, learner


def _load_policy(setup: TrainingSetup, alg: OnPolicyConfig) -> PolicyModel:
    """Load the policy with its value model."""
    runtime, name, lora = setup.config.runtime, alg.policy.args.value_model_name, alg.lora
    device, dtype, kind = choose_device(runtime.device), getattr(torch, runtime.weights), alg.model_type
    if name is None:
        return PolicyModel.load(alg.model_name, kind, device, runtime.seed, lora, dtype)
    model = load_model(alg.model_name, kind, dtype, device, lora, runtime.seed)
    try_states(model)
    value = load_value_model(name, kind, setup.tokenizer, device, lora, runtime.seed, dtype)
    return PolicyModel(model, *value)


def set_learning_rates(optimizer: torch.optim.Optimizer, args: OnPolicyArgs, iteration: int) -> None:
    """Set the rates of an iteration, from 1: over `warmup_iterations` they rise from a tenth in a straight
    line, and stay.
    """
    if args.warmup_iterations == 0:
        return
    share = warmup_share(iteration, args.warmup_iterations)
    for group in optimizer.param_groups:
        group.setdefault("peak_lr", group["lr"])
        group["lr"] = share * group["peak_lr"]


def warmup_share(iteration: int, warmup: int) -> float:
    """The share of the learning rate in an iteration, from 1: a tenth in the first, all after the last."""
    return min(1.0, 0.1 + 0.9 * (iteration - 1) / warmup)


@torch.no_grad()
def update_average(learner: Learner, decay: float | None) -> None:
    """After an update: average <- decay average + (1 - decay) weights, of the policy."""
    if learner.average is None:
        return
    assert decay is not None
    weights = zip(learner.average.parameters(), learner.policy.model.parameters(), strict=True)
    for average, weight in weights:
        if average is not weight:  # of a backbone that is shared
            average.lerp_(weight, 1 - decay)


def measure_result(actors: Actors, learner: Learner, setup: TrainingSetup, split: Split) -> dict[str, float]:
    """Measure the KL of what is evaluated to the reference, on val (`measure_kl`).

    Where a reward model's score is to be held against it, and where weights are averaged: rollouts are drawn
    from others then.
    """
    metrics = {metric.id for metric in setup.config.train_evaluation.metrics}
    if split != "val" or not (learner.average is not None or "reward_model" in metrics):
        return {}
    samples, dtype = setup.evaluator.samples[split], setup.config.runtime.dtype
    return measure_kl(actors, learner.result, samples, setup.world, dtype)
