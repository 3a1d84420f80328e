"""PPO as the paper runs it (Section 4.1). NLPO is PPO with an action mask, A2C one epoch without clipping."""

from __future__ import annotations

from functools import partial

import torch

from common.seeding import derive_seed
from rl4lms.config import NlpoConfig
from rl4lms.model.load import autocast
from rl4lms.model.optimiser import optimiser_step
from rl4lms.ppo.collect import assemble, sample, score
from rl4lms.ppo.learner import build, measure_result, set_learning_rates, update_average
from rl4lms.ppo.ptx import LOGGED_PTX, add_pretraining_gradient, draw_examples
from rl4lms.ppo.update import (
    LOGGED_LOSSES,
    estimate_advantages,
    explained_variance,
    minibatch_losses,
    minibatches,
)
from rl4lms.record import TARGET_KL_SLACK, Record
from rl4lms.run_setup import TrainingSetup


def train(setup: TrainingSetup) -> None:
    """Finetune by PPO, NLPO or A2C, or go on with it; leaves evaluations, logs, checkpoints and the model.

    Raises TrainingInterrupted (after a checkpoint), DivergenceError, RewardError, EvaluationError,
    GenerationError, ModelSourceError, CheckpointError.
    """
    # Policy with value model, frozen reference, NLPO's mask model; their optimiser, the KL coefficient.
    actors, learner = build(setup)
    policy, alg, runtime, world = actors.policy, actors.alg, setup.config.runtime, setup.world
    args, ptx = alg.args, alg.pretraining
    # The record evaluates, logs, checkpoints and stops between the iterations.
    logged = LOGGED_LOSSES | (LOGGED_PTX if ptx else {})
    with Record(setup, learner, logged, partial(measure_result, actors, learner, setup)) as record:
        for iteration in record.iterations():
            kl_coeff = learner.kl_controller.coeff
            set_learning_rates(learner.optimizer, args, iteration)
            with torch.no_grad(), autocast(actors.device, runtime.dtype):
                # 1. Sample responses to prompts drawn with replacement, until there are enough.
                episodes = sample(actors, iteration, learner.mean_length, world)
                # 2. Reward every text; of every token compute log pi, log pi_ref, the value V and
                #    the KL reward -kl_coeff (log pi - log pi_ref).
                scored = score(actors, episodes, kl_coeff, world)
            # 3. Fill the buffer, n_steps * n_envs tokens or all: a text's reward is added at its last one.
            rollouts = assemble(actors, episodes, scored)
            statistics = rollouts.statistics()
            learner.mean_length = statistics["rollout_info/ep_lens"]
            record.add_rollouts(rollouts, statistics, kl_coeff)  # raises DivergenceError
            learner.kl_controller.step(statistics["rollout_info/kl_div_mean"])
            # 4. Advantages (GAE) and returns.
            advantages, returns = estimate_advantages(
                rollouts, args.gamma, args.gae_lambda, alg.kl_div.norm_reward
            )
            # 5. Epochs of minibatches: clipped policy loss, value loss and entropy; a step of AdamW for each.
            if runtime.gradient_checkpointing:
                policy.recompute_activations()
            seed = derive_seed(actors.seed, "minibatches", iteration)
            batches = minibatches(rollouts, args.batch_size, args.minibatch_unit, args.n_epochs, seed)
            for number, batch in enumerate(batches):
                losses = minibatch_losses(
                    policy, rollouts, batch, advantages, returns, alg, world=world, dtype=runtime.dtype
                )
                if args.target_kl is not None and losses["approx_kl"] > TARGET_KL_SLACK * args.target_kl:
                    break
                #    PPO-ptx: the gradient of coeff times the loss of pretraining text is added.
                if ptx is not None and actors.pretraining is not None:
                    examples = draw_examples(actors.pretraining, ptx, rollouts, batch, seed, number)
                    losses |= add_pretraining_gradient(
                        policy.model, examples, ptx.coeff, world=world, dtype=runtime.dtype
                    )
                grad_norm = optimiser_step(learner.optimizer, policy, args.max_grad_norm)
                record.add_minibatch(losses, grad_norm, len(batch))
                update_average(learner, args.ema_decay)
            record.add_update({"ppo/explained_variance": explained_variance(rollouts.values, returns)})
            # 6. NLPO: now and then the mask model becomes a copy of the policy.
            if isinstance(alg, NlpoConfig) and iteration % alg.policy.args.target_update_iterations == 0:
                assert actors.mask_model is not None
                actors.mask_model.refresh(policy.model)
    record.save_model()
