"""The mean of many rollouts' policy gradients is the gradient of the mean reward, which can be enumerated.

With one minibatch of all tokens, from the policy that made them, gamma and lambda 1, advantages not
normalised, and no episode cut, the update's gradient is an unbiased estimate, whatever the values are.
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from enumerable import all_texts, gradient, save_enumerable
from on_policy_runs import actors_of, changed, collect, next_step, update
from torch import Tensor

from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.collect import Actors
from rl4lms.ppo.mask import MaskRule, allowed_tokens
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.rewards import TextBatch
from rl4lms.samples import Sample

WORDS = "abc"
VOCABULARY = 2 + len(WORDS)
TEXT = 3  # tokens at most
PROMPTS = [Sample(0, "a b", [""]), Sample(1, "c", [""])]
ROLLOUTS = 15


def reward(batch: TextBatch) -> list[float]:
    """Depends on the prompt and on every word at its place."""
    worth = {"a": 1.0, "b": -0.5, "c": 0.2}
    return [
        sum(worth[word] * (2 + place) for place, word in enumerate(text.split())) * (1 + len(prompt) / 3)
        for prompt, text in zip(batch.prompts, batch.generated, strict=True)
    ]


def expected_objective(actors: Actors, temperature: float, kl_coeff: float) -> Tensor:
    """The mean of reward - kl_coeff * log(policy / reference) over all texts of all prompts."""
    total = torch.zeros(())
    end = actors.policy.model.config.eos_token_id
    for sample in PROMPTS:
        prompt = actors.tokenizer(sample.prompt_or_input_text)["input_ids"]
        steps: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}
        for before in itertools.chain(*(itertools.product(range(VOCABULARY), repeat=n) for n in range(TEXT))):
            logits, _ = next_step(actors.policy.model, prompt, list(before))
            with torch.no_grad():
                reference = next_step(actors.reference.model, prompt, list(before))[0].log_softmax(0)
            own = (logits / temperature).log_softmax(0)
            sampled = own
            if actors.mask_model is not None:
                with torch.no_grad():
                    mask, _ = next_step(actors.mask_model.model, prompt, list(before))
                ruled_out = ~allowed_tokens(mask[None], actors.mask_model.rule)[0]
                sampled = (logits / temperature).masked_fill(ruled_out, -torch.inf).log_softmax(0)
            steps[before] = own, sampled, reference
        for text in all_texts(VOCABULARY, TEXT, end):
            places = [(steps[text[:t]], token) for t, token in enumerate(text)]
            probability = torch.stack([step[1][token] for step, token in places]).sum().exp()
            kl = torch.stack([step[0][token] - step[2][token] for step, token in places]).sum()
            words = actors.tokenizer.decode(text, skip_special_tokens=True)
            (worth,) = reward(TextBatch([sample.prompt_or_input_text], [words], [[""]], [{}]))
            # The KL term counts as a reward: its own derivative is 0 in the mean (of the unmasked policy).
            total = total + probability * (worth - kl_coeff * kl.detach()) / len(PROMPTS)
    return total


def whole(rollouts: Rollouts) -> Rollouts:
    """The same rollouts with a buffer for all their tokens: a cut episode's reward is missing."""
    return Rollouts.build(
        rollouts.sequences,
        rollouts.sequences.response_mask,
        rollouts.scores,
        rollouts.task_rewards,
        rollouts.samples,
        rollouts.texts,
    )


CASES: dict[str, dict[str, Any]] = {
    "gpt2 of a2c": {"kind": "gpt2", "alg": "a2c"},
    "t5 with texts of several lengths": {"kind": "t5", "end": 1},
    "gpt2 at temperature 0.7 with a KL penalty": {
        "kind": "gpt2", "end": 1, "temperature": 0.7, "kl_coeff": 0.8,
    },
    "t5 under a mask": {"kind": "t5", "rule": MaskRule("topk", 3.0, 1, ())},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_estimate_is_right(case, tmp_path, monkeypatch):
    temperature, kl_coeff = case.get("temperature", 1.0), case.get("kl_coeff", 0.0)
    actors = actors_of(
        save_enumerable(tmp_path / case["kind"], case["kind"], case.get("end"), WORDS),
        reward,
        train=PROMPTS,
        n_envs=1,
        env={"max_prompt_length": 4, "max_episode_length": TEXT},
        generation={"temperature": temperature, "max_new_tokens": TEXT},
        mask_rule=case.get("rule"),
        alg="nlpo" if "rule" in case else case.get("alg", "ppo"),
        n_steps=150 * TEXT,
        batch_size=10**6,
        n_epochs=1,
        gamma=1,
        gae_lambda=1,
        vf_coef=0,
        max_grad_norm=1e9,
    )
    # Far enough for its penalty to count.
    actors = replace(actors, reference=PolicyModel(changed(actors.policy.model, 0.5)))
    parameters = list(actors.policy.model.parameters())
    expected_objective(actors, temperature, kl_coeff).backward()
    exact = gradient(parameters)

    monkeypatch.setattr("rl4lms.ppo.update.normalize_advantages", lambda advantages: advantages)
    optimizer = torch.optim.SGD(actors.policy.parameters(), lr=0.0)
    errors, episodes = [], 0
    for iteration in range(ROLLOUTS):
        rollouts = collect(actors, iteration, kl_coeff, TEXT)
        if actors.mask_model is None:
            rollouts = whole(rollouts)
        update(actors.policy, optimizer, rollouts, actors.alg, seed=0)
        # The loss is minus a mean over tokens. Texts are drawn until there are tokens enough, so the sum over
        # them is in the mean their mean number times the mean of each (Wald).
        found = -len(rollouts.rows) * gradient(parameters)
        errors.append(found - len(rollouts.texts) * exact)
        episodes += len(rollouts.texts)
    total, spread = torch.stack(errors).sum(0), torch.stack(errors)
    standard_error = spread.square().sum().sqrt().item()
    assert standard_error < 0.1 * episodes * exact.norm(), "it would show an error of a few tenths"
    assert total.norm() < 2 * standard_error
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(30, len(exact), generator=generator, dtype=torch.float64)
    for direction in (exact, *directions):
        own = spread @ direction
        assert abs(own.sum()) < 4 * math.sqrt(own.square().sum())
