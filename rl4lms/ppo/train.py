"""Job 2's reinforcement finetuning: the iterations of PPO and NLPO, their checkpoints and their log."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from common.console import Progress, progress
from common.run_dir import load_checkpoint
from common.seeding import derive_seed
from rl4lms.config import NlpoConfig, OnPolicyConfig, SupervisedConfig
from rl4lms.config.training_blocks import TrainRuntimeConfig
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.load import check_vocabulary, choose_device
from rl4lms.model.policy import PolicyModel, checkpoint_activations
from rl4lms.plots import draw_training
from rl4lms.ppo.collect import Actors, collect, rollout_settings
from rl4lms.ppo.mask import MaskModel, MaskRule
from rl4lms.ppo.reward_log import RewardLog
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.ppo.update import KLController, NonFiniteError, build_optimizer, update
from rl4lms.rewards import build_reward
from rl4lms.run_setup import TrainingSetup, save_model

logger = logging.getLogger(__name__)
CHECKPOINTS_KEPT = 2
SECONDS_BETWEEN_PLOTS = 120
_REWARDS = "rollout_rewards"


@dataclass
class Learner:
    """What changes from iteration to iteration; all of it is in a checkpoint."""

    policy: PolicyModel
    optimizer: torch.optim.Optimizer
    controller: KLController
    mask_model: MaskModel | None
    mean_length: float  # of the last rollouts' episodes, to ask for the right number of them
    iteration: int = 0  # completed

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mask_model": None if self.mask_model is None else self.mask_model.model.state_dict(),
            "kl_coeff": self.controller.coeff,
            "mean_length": self.mean_length,
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.mask_model is not None:
            self.mask_model.model.load_state_dict(state["mask_model"])
        self.controller.coeff = state["kl_coeff"]
        self.mean_length, self.iteration = state["mean_length"], state["iteration"]


def train_on_policy(setup: TrainingSetup) -> None:
    """Run or continue PPO or NLPO; leaves the evaluations, the logs, the plots and the model.

    Raises TrainingInterrupted (after a checkpoint), DivergenceError, RewardError, EvaluationError,
    GenerationError, ModelSourceError, CheckpointError.
    """
    config = setup.config
    alg, env, iterations = config.alg, config.env, config.train_evaluation.n_iters
    assert not isinstance(alg, SupervisedConfig) and env is not None and iterations is not None
    assert config.reward_fn is not None  # TrainConfig.check

    # 1. Models. The reference is the start; value model and mask model begin as copies of it.
    device = choose_device(config.runtime.device)
    policy = PolicyModel.load(alg.model_name, alg.model_type, device, config.runtime.seed)
    check_vocabulary(policy.model, setup.tokenizer)
    actors = Actors(
        policy=policy,
        reference=PolicyModel(copy.deepcopy(policy.model).requires_grad_(False)),
        mask_model=_mask_model(alg, policy, setup),
        tokenizer=setup.tokenizer,
        train=setup.train,
        reward=build_reward(config.reward_fn.id, config.reward_fn.args),
        env=env,
        alg=alg,
        seed=config.runtime.seed,
        dtype=config.runtime.dtype,
    )
    learner = Learner(
        policy,
        build_optimizer(policy, alg.args.learning_rate, alg.policy.args.weight_decay),
        KLController(alg.kl_div.coeff, alg.kl_div.target_kl),
        actors.mask_model,
        mean_length=rollout_settings(alg, env).max_new_tokens,
    )
    _resume(setup, learner)
    rewarded = None
    if setup.run is not None:
        rewarded = RewardLog(setup.run.rows(f"{setup.prefix}{_REWARDS}.jsonl", "step"))

    # 2. Iterations, with evaluations before, between and after.
    drawn = time.monotonic()
    name = f"{alg.id} {setup.prefix.rstrip('_')}".strip()
    hidden = not setup.world.is_main
    with progress(iterations, name, unit="iteration", initial=learner.iteration, disable=hidden) as bar:
        while True:
            _evaluate(setup, learner, iterations)
            if learner.iteration == iterations:
                break
            _stop_if_asked(setup, learner)
            _iterate(setup, actors, learner, rewarded, bar)
            bar.update(1)
            if learner.iteration % config.train_evaluation.save_every == 0 or learner.iteration == iterations:
                _save_checkpoint(setup, learner)
            if setup.run is not None and time.monotonic() - drawn > SECONDS_BETWEEN_PLOTS:
                draw_training(setup.path, setup.prefix)
                drawn = time.monotonic()
    if setup.world.is_main:
        draw_training(setup.path, setup.prefix)
        logger.info("model: %s", save_model(setup, policy.model))


def _iterate(
    setup: TrainingSetup, actors: Actors, learner: Learner, rewarded: RewardLog | None, bar: Progress
) -> None:
    """One iteration: rollouts, KL coefficient, update, mask. rewarded: of the main process only."""
    runtime, iteration = setup.config.runtime, learner.iteration + 1
    start = time.monotonic()
    coeff = learner.controller.coeff
    rollouts = collect(actors, iteration, coeff, learner.mean_length, setup.world)
    info = rollouts.statistics() | {"rollout_info/kl_coeff": coeff}
    kl = info["rollout_info/kl_div_mean"]
    learner.mean_length = info["rollout_info/ep_lens"]
    rolled = time.monotonic()
    info |= _speed("rollout_info", int(rollouts.sequences.response_mask.sum()), rolled - start)
    if rewarded is not None:
        info |= rewarded.add(
            iteration,
            [str(setup.train[sample].id) for sample in rollouts.samples.tolist()],
            rollouts.task_rewards.tolist(),
            (-rollouts.scores.kl_rewards.sum(1)).tolist(),
        )
    _log(setup, "rollout_info", iteration, info)
    try:
        _check_rollouts(rollouts, kl, iteration, runtime)
    except DivergenceError:
        _save_checkpoint(setup, learner)  # of the completed iterations: nothing has changed since
        raise
    learner.controller.step(kl)

    if runtime.gradient_checkpointing:
        for model in (actors.policy.model, actors.policy.value_model):
            assert model is not None
            checkpoint_activations(model)
    seed = derive_seed(actors.seed, "minibatches", iteration)
    try:
        losses = update(
            actors.policy,
            learner.optimizer,
            rollouts,
            actors.alg,
            seed,
            world=setup.world,
            dtype=runtime.dtype,
            on_non_finite=runtime.on_divergence,
        )
    except NonFiniteError as error:
        raise DivergenceError(f"iteration {iteration}: {error}; {_REMEDY}") from error
    seconds = time.monotonic() - rolled
    _log(setup, "training_info", iteration, losses | _speed("ppo", losses["ppo/tokens"], seconds))
    learner.iteration = iteration
    if learner.mask_model is not None:
        assert isinstance(actors.alg, NlpoConfig)
        if iteration % actors.alg.policy.args.target_update_iterations == 0:
            learner.mask_model.refresh(actors.policy.model)
    speed = len(rollouts.rows) / (time.monotonic() - start)
    bar.show(f"reward {info['rollout_info/ep_rew']:.4g}, KL {kl:.3g}, {speed:,.0f} tokens/s")


_REMEDY = (
    "lower alg.args.learning_rate or raise alg.kl_div.coeff and start again; checkpoints, if there are any, "
    "are from before (runtime.on_divergence: continue goes on regardless)"
)


def _check_rollouts(rollouts: Rollouts, kl: float, iteration: int, runtime: TrainRuntimeConfig) -> None:
    """Notices what no update helps against. Raises DivergenceError if the config says stop."""
    if not abs(kl) <= runtime.max_kl:
        message = f"iteration {iteration}: the mean KL per token is {kl:.3g}, more than {runtime.max_kl:g}"
        if runtime.on_divergence == "stop":
            raise DivergenceError(f"{message}: the policy has left the starting model; {_REMEDY}")
        logger.warning("%s", message)
    rewards, texts = rollouts.task_rewards, rollouts.texts
    degenerate = None
    if not any(text.strip() for text in texts):
        degenerate = f"iteration {iteration}: all {len(texts)} texts are empty"
    elif len(texts) > 1 and rewards.min() == rewards.max():
        degenerate = (
            f"iteration {iteration}: all {len(texts)} rewards are {rewards[0].item():.4g}: nothing can be "
            "learnt from them but the KL penalty"
        )
    if degenerate is None:
        return
    if runtime.on_degenerate_rollout == "stop":
        raise DivergenceError(f"{degenerate} (runtime.on_degenerate_rollout: stop)")
    logger.warning("%s", degenerate)


def _mask_model(alg: OnPolicyConfig, policy: PolicyModel, setup: TrainingSetup) -> MaskModel | None:
    if not isinstance(alg, NlpoConfig):
        return None
    args = alg.policy.args
    special = tuple(sorted(set(setup.tokenizer.all_special_ids)))
    return MaskModel(policy.model, MaskRule(args.mask_type, args.top_mask, args.min_tokens_to_keep, special))


def _evaluate(setup: TrainingSetup, learner: Learner, iterations: int) -> None:
    """What is due after the completed iterations: all splits before and after training, val between."""
    done = learner.iteration
    if done in (0, iterations):
        splits = setup.splits
    elif done % setup.config.train_evaluation.eval_every == 0:
        splits = ["val"]
    else:
        return
    try:
        for split in splits:
            setup.evaluator(learner.policy.model, split, done)
    except TrainingInterrupted:
        _save_checkpoint(setup, learner)
        raise


def _stop_if_asked(setup: TrainingSetup, learner: Learner) -> None:
    """Raises TrainingInterrupted after a checkpoint; one process that is asked stops them all."""
    if any(setup.world.gather([setup.should_stop()])):
        _save_checkpoint(setup, learner)
        raise TrainingInterrupted


def _save_checkpoint(setup: TrainingSetup, learner: Learner) -> None:
    """Write the checkpoint of the completed iterations, if it is not there; the newest ones are kept."""
    run = setup.run
    if run is None or learner.iteration == 0:
        return
    before = run.checkpoints()
    path = run.save_checkpoint(learner.state_dict(), learner.iteration)
    run.delete_checkpoints(keep=[*[p for p in before if p != path][-CHECKPOINTS_KEPT + 1 :], path])


def _resume(setup: TrainingSetup, learner: Learner) -> None:
    """Continue from the newest checkpoint, and drop what was logged after it."""
    newest = setup.run.checkpoints()[-1:] if setup.run is not None else []
    for path in setup.world.same(newest):
        learner.load_state_dict(load_checkpoint(path, next(learner.policy.parameters()).device))
        logger.info("continuing after iteration %d", learner.iteration)
    if setup.run is not None:
        for name in ("rollout_info", "training_info"):
            setup.run.rows(f"{setup.prefix}{name}.jsonl", "epoch").keep(
                lambda row: row["epoch"] <= learner.iteration
            )
        rewarded = setup.run.rows(f"{setup.prefix}{_REWARDS}.jsonl", "step")
        rewarded.keep(lambda row: row["step"] <= learner.iteration)
    setup.evaluator.drop_after(learner.iteration)


def _log(setup: TrainingSetup, name: str, iteration: int, values: dict[str, float]) -> None:
    if setup.run is not None:
        setup.run.rows(f"{setup.prefix}{name}.jsonl", "epoch").append({"epoch": iteration, **values})
    if setup.tracker is not None:
        setup.tracker.send(values, iteration)


def _speed(group: str, tokens: float, seconds: float) -> dict[str, float]:
    return {f"{group}/seconds": seconds, f"{group}/tokens_per_second": tokens / seconds}
