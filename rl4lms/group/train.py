"""RLOO, GRPO, Dr. GRPO, DAPO, GSPO, REINFORCE++: several texts of a prompt are each other's baseline."""

from __future__ import annotations

import torch

from common.seeding import derive_seed
from rl4lms.group.collect import collect, score
from rl4lms.group.learner import build
from rl4lms.group.step import LOGGED_LOSSES, estimate_advantages, minibatch_losses, minibatches
from rl4lms.model.load import autocast
from rl4lms.model.optimiser import optimiser_step
from rl4lms.record import TARGET_KL_SLACK, Record
from rl4lms.run_setup import TrainingSetup


def train(setup: TrainingSetup) -> None:
    """Finetune by a group algorithm, or go on with it; leaves evaluations, logs, checkpoints and the model.

    Raises TrainingInterrupted (after a checkpoint), DivergenceError, RewardError, EvaluationError,
    GenerationError, ModelSourceError, CheckpointError.
    """
    # The policy, no value model; a frozen reference only if there is a KL penalty.
    actors, learner = build(setup)
    policy, alg, runtime, world = actors.policy, actors.alg, setup.config.runtime, setup.world
    args = alg.args
    # The record evaluates, logs, checkpoints and stops between the iterations.
    with Record(setup, learner, LOGGED_LOSSES) as record:
        for iteration in record.iterations():
            with torch.no_grad(), autocast(actors.device, runtime.dtype):
                # 1. Sample G responses to each of the next prompts and reward them; with dynamic sampling
                #    groups whose rewards are all equal are left out, and others sampled in their place.
                collected = collect(actors, iteration, learner.position, world)
                # 2. Of every token log pi_old and log pi_ref, where the loss needs them.
                rollouts = score(actors, collected, world)
            learner.position = collected.position
            record.add_rollouts(rollouts, rollouts.statistics(), alg.kl_div.coeff)  # raises DivergenceError
            # 3. Advantages: the reward of a text against those of its group.
            advantages = estimate_advantages(rollouts, alg)
            # 4. Minibatches of texts, mostly one of all: the clipped policy loss; a step of AdamW for each.
            if runtime.gradient_checkpointing:
                policy.recompute_activations()
            texts, seed = len(rollouts.mask), derive_seed(actors.seed, "minibatches", iteration)
            for batch in minibatches(texts, args.batch_size or alg.texts, args.n_epochs, seed):
                losses = minibatch_losses(
                    actors, rollouts, batch, advantages, world=world, dtype=runtime.dtype
                )
                if args.target_kl is not None and losses["approx_kl"] > TARGET_KL_SLACK * args.target_kl:
                    break
                grad_norm = optimiser_step(learner.optimizer, policy, args.max_grad_norm)
                record.add_minibatch(losses, grad_norm, int(rollouts.mask[batch.to(actors.device)].sum()))
            record.add_update({})
    record.save_model()
