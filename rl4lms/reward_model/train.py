"""A reward model from rankings, as in Ouyang et al. 2022, Section 3.5 and Appendix C.2."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from common.files import atomic_write_json
from common.seeding import derive_seed, isolated_rng
from rl4lms.model.load import autocast
from rl4lms.plots import draw_training
from rl4lms.reward_model.data import draw_batch, make_elements, micro_batches, sum_losses
from rl4lms.reward_model.learner import (
    begin_update,
    build,
    learning_rate,
    normalize,
    sum_gradients,
    take_step,
)
from rl4lms.reward_model.record import Record
from rl4lms.reward_model.setup import RewardSetup
from rl4lms.teacher import teacher_report

logger = logging.getLogger(__name__)
TEACHER_FILE = "teacher.json"


def train(setup: RewardSetup) -> None:
    """Train a reward model, or go on with it; leaves measurements on val, logs, checkpoints and the model.

    On CPU a run that was cut and resumed ends with the weights of one that was not. Raises
    TrainingInterrupted (after a checkpoint), DivergenceError, TrainingDataError, ModelSourceError,
    CheckpointError.
    """
    # A language model without its unembedding, with a head on the end token's state; AdamW. An element is a
    # prompt with all its completions.
    learner = build(setup)
    model, args, runtime, world = learner.model, setup.alg.args, setup.config.runtime, setup.world
    elements = make_elements(setup.train, args, "train")
    device = model.model.device
    with Record(setup, learner, len(elements)) as record:  # evaluates, logs, checkpoints and stops in between
        for update in record.updates():
            # 1. The next elements of the epoch's random order, the same in all processes.
            batch = draw_batch(elements, update, args, runtime.seed)
            whole = sum(element.share for element in batch)
            begin_update(learner, args, runtime)
            sums = torch.zeros(4, device=device)  # loss; comparisons, right ones, texts
            with isolated_rng(derive_seed(runtime.seed, "dropout", update, world.rank)):
                for part in micro_batches(world.share(batch), model, args.micro_batch_size):
                    # 2. Rewards of all completions: each passes once, however many comparisons it is in.
                    with autocast(device, runtime.dtype):
                        rewards = model(part.rows)
                    # 3. The loss (eq. 1): the mean over prompts of the mean over their comparisons of
                    #    -log sigma(r_w - r_l). The gradients of the parts add up to that of the batch.
                    loss, counts = sum_losses(rewards, part.elements, args)
                    (loss / whole).backward()
                    sums += torch.stack([loss.detach() / whole, *counts])
            # 4. Sum over the processes, clip, and take a step of AdamW.
            sum_gradients(learner, world)
            world.sum_([sums])
            rate = learning_rate(update, record.total, args)
            grad_norm = take_step(learner, rate, args.max_grad_norm)
            record.add_update(sums, rate, grad_norm)  # raises DivergenceError
    # 5. Normalise: the loss leaves a constant free.
    normalize(model, setup)
    # 6. The model.
    if setup.run is not None:
        draw_training(setup.path, setup.prefix)
        model.save(setup.model_path, setup.alg.lora)
        logger.info("reward %.6g * raw %+.6g; model: %s", model.scale, model.bias, setup.model_path)
    # 7. Does it teach? The spread of its rewards over a policy's own texts (Razin et al. 2025).
    if setup.run is not None and setup.alg.policy_samples is not None:
        texts = Path(setup.alg.policy_samples).expanduser()
        summary, lines = teacher_report(model, texts, setup.config.train_evaluation.eval_batch_size)
        atomic_write_json(setup.path / f"{setup.prefix}{TEACHER_FILE}", summary)
        for line in lines:
            logger.info("%s", line)
    world.barrier()
