"""The check of `benchmarks/ppo.py` that both sides compute the same numbers of the same texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import old_ppo
import torch
from old_ppo import OldModels, OldSettings
from ppo_sides import ENVIRONMENTS, Case, OurSide, old_reward, old_settings
from torch import Tensor, nn

from rl4lms.config import OnPolicyConfig, TrainConfig
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.ppo.update import build_optimizer, estimate_advantages, minibatches, update
from rl4lms.samples import Sample

TOLERANCE = 1e-5  # absolute for numbers of tokens and losses, relative for gradients
ENT_COEF, CHECKED_KL_COEFF = 0.01, 0.5  # large enough for an error in either to show


def check_same_numbers(config: TrainConfig, case: Case, samples: Sequence[Sample]) -> dict[str, float]:
    """The largest differences between the two sides on the same weights, prompts and tokens.

    Ours collects rollouts and makes an epoch of updates that change nothing; the old way steps through the
    same texts and computes the same minibatches. Policy, reference and value model differ, and the policy
    changes once more before the update. Raises ValueError: a difference above the tolerance.
    """
    assert isinstance(config.alg, OnPolicyConfig)
    args = config.alg.args.model_copy(update={"n_epochs": 1, "ent_coef": ENT_COEF})
    kl_div = config.alg.kl_div.model_copy(update={"coeff": CHECKED_KL_COEFF})
    alg = config.alg.model_copy(update={"args": args, "kl_div": kl_div})
    samples = list(samples)
    ours = OurSide(config.model_copy(update={"alg": alg}), samples)
    policy = ours.actors.policy
    assert policy.value_model is not None and policy.value_head is not None
    _perturb(policy.model, policy.value_model)
    first = ours.rollout()
    for i, text in zip(first.samples.tolist(), first.texts, strict=True):
        words = text.split()
        samples[i] = replace(samples[i], references=[" ".join(words[: len(words) // 2 + 1])])  # reward > 0
    rollouts = ours.rollout()
    assert rollouts.texts == first.texts and rollouts.task_rewards.any()
    advantages, returns = estimate_advantages(rollouts, args.gamma, args.gae_lambda, norm_reward=False)

    settings = replace(old_settings(case), tokens=case.tokens, ent_coef=ENT_COEF, kl_coeff=CHECKED_KL_COEFF)
    models = OldModels(
        policy.model, ours.actors.reference.model, policy.value_model, policy.value_head, settings
    )
    texts = [
        ids[real].tolist()
        for ids, real in zip(rollouts.sequences.response_ids, rollouts.sequences.response_mask, strict=True)
    ]
    drawn = [(samples[i].prompt_or_input_text, samples[i].references) for i in rollouts.samples.tolist()]
    episodes = [
        episode
        for first in range(0, len(texts), ENVIRONMENTS)
        for episode in old_ppo.score(
            models,
            ours.actors.tokenizer,
            drawn[first : first + ENVIRONMENTS],
            texts[first : first + ENVIRONMENTS],
            old_reward(),
            settings,
        )
    ]
    buffer = old_ppo.fill(episodes, models.policy.config.vocab_size, settings)
    refs = np.concatenate([episode.ref_logprobs for episode in episodes])
    found = {
        "log-probs": _distance(rollouts.logprobs, buffer.logprobs),
        "reference": _distance(rollouts.scores.ref_logprobs[rollouts.sequences.response_mask], refs),
        "values": _distance(rollouts.values, buffer.values),
        "rewards": _distance(rollouts.rewards, buffer.rewards),
        "advantages": _distance(advantages, buffer.advantages),
        "returns": _distance(returns, buffer.returns),
    }
    _perturb(policy.model)
    found |= compare_updates(ours, rollouts, models, buffer, settings)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise ValueError(f"{case.name}: ours and the old way differ: {wrong}")
    return found


def compare_updates(
    ours: OurSide, rollouts: Rollouts, models: OldModels, buffer: old_ppo.Buffer, settings: OldSettings
) -> dict[str, float]:
    """Of an epoch's minibatches: the difference of the mean losses, and the largest of the gradients."""
    optimizer = build_optimizer(ours.actors.policy, 0.0, 0.0)
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: gradients.append(_gradient(parameters)))
    args = ours.alg.args
    logged = update(ours.actors.policy, optimizer, rollouts, ours.alg, seed=0)
    losses, differences = [], []
    batches = minibatches(rollouts, args.batch_size, args.minibatch_unit, args.n_epochs, 0)
    for tokens, gradient in itertools.zip_longest(batches, gradients):
        optimizer.zero_grad()
        loss = old_ppo.loss_of(models, buffer, tokens.numpy(), settings)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        losses.append(loss.item())
        old = _gradient(parameters)
        differences.append(float((gradient - old).norm() / old.norm()))
    weights = {"policy_gradient_loss": 1.0, "value_loss": args.vf_coef, "entropy_loss": args.ent_coef}
    total = sum(weight * logged[f"ppo/{name}"] for name, weight in weights.items())
    return {"loss": abs(total - float(np.mean(losses))), "gradient": max(differences)}


def _gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in parameters]
    ).clone()


@torch.no_grad()
def _perturb(*models: nn.Module) -> None:
    """Changes each weight by about a tenth of its tensor's size."""
    for seed, model in enumerate(models):
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(0.1 * weight.square().mean().sqrt() * noise)


def _distance(ours: Tensor, old: np.ndarray) -> float:
    return float((ours - torch.from_numpy(old)).abs().max())
