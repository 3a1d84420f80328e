"""The update's gradient, averaged over all groups with their probabilities, is the one of the theory.

All texts of a tiny autoregressive model are enumerated: E[g] = sum_y p(y) a(r(y)) grad log p(y), with
a(r) = E[A_1 | r_1 = r] of `rft_diagnose.group_signal`.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from on_policy_jobs import job
from on_policy_runs import next_step
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rft_diagnose.group_signal import expected_advantages
from rl4lms.episodes import Episode
from rl4lms.group.collect import Actors, Collected, Group, score
from rl4lms.group.step import estimate_advantages, minibatch_losses
from rl4lms.model.load import load_model
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel

END, WORDS = 1, 4  # tokens: padding, end, two words
PROMPT = torch.tensor([2, 3])


def save_enumerable(folder: Path) -> Path:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[END]": END, "a": 2, "b": 3}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "initializer_range": 0.6}
    config = GPT2Config(vocab_size=WORDS, pad_token_id=0, bos_token_id=0, eos_token_id=END, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def all_texts(longest: int) -> list[tuple[int, ...]]:
    """Every text: cut at its first end token, or of so many tokens."""
    every = itertools.product(range(WORDS), repeat=longest)
    return sorted({text[: text.index(END) + 1] if END in text else text for text in every})


def gradient(model) -> torch.Tensor:
    return torch.cat([weight.grad.flatten().double() for weight in model.parameters()])


SUM = {"alg__args__aggregate": "sequence"}
# alg, changes -> the theory's advantage, its factor, and whether log-probabilities are divided by the length.
CASES = {
    "rloo": ("rloo", {}, "rloo", 1.0, False),
    "grpo": ("grpo", SUM, "grpo", 1.0, False),
    "grpo by sequence_mean": ("grpo", {}, "grpo", 1.0, True),
    "gspo": ("gspo", {}, "grpo", 1.0, True),
    "dr_grpo": ("dr_grpo", SUM, "dr_grpo", 1.0, False),
    "dr_grpo with its constant": ("dr_grpo", {}, "dr_grpo", None, False),
    "dapo": ("dapo", SUM, "grpo", 1.0, False),
}


@pytest.mark.parametrize(("group_size", "longest"), [(2, 2), (3, 1)])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_all_groups_is_the_expected_gradient(tmp_path, case, group_size, longest):
    alg, changes, advantage, factor, by_length = CASES[case]
    folder = save_enumerable(tmp_path / "gpt2_enumerable")
    config = job(
        tmp_path, folder, alg, alg__args__group_size=group_size, alg__args__prompts_per_iteration=1,
        alg__args__std_epsilon=0.01, env__args__max_episode_length=longest,
        alg__policy__args__generation_kwargs={"do_sample": True, "top_k": 0, "max_new_tokens": longest},
        env__args__max_prompt_length=4, alg__kl_div__coeff=0.0, **changes,
    )  # fmt: skip
    policy = PolicyModel(load_model(str(folder), "causal", torch.float32, "cpu"))
    actors = Actors(
        policy=policy, reference=None, tokenizer=None, train=[], reward=lambda batch: [], env=config.env,
        alg=config.alg, seed=0,
    )  # fmt: skip
    texts = all_texts(longest)
    rewards = np.random.default_rng(0).random(len(texts)).round(2)
    logprobs = []
    for text in texts:
        steps = [
            next_step(policy.model, PROMPT.tolist(), list(text[:t]))[0].log_softmax(0)
            for t in range(len(text))
        ]
        logprobs.append(torch.stack([step[token] for step, token in zip(steps, text, strict=True)]).sum())
    probabilities = torch.stack(logprobs).detach().exp().double().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)

    a = expected_advantages(rewards, probabilities, group_size, advantage, epsilon=0.01)
    lengths = np.array([len(text) for text in texts])
    weights = probabilities * a / (lengths if by_length else 1) * (1 / longest if factor is None else factor)
    objective = torch.stack(logprobs) @ torch.tensor(weights, dtype=torch.float32)
    policy.model.zero_grad()
    objective.backward()
    expected = gradient(policy.model)

    mean = torch.zeros_like(expected)
    for members in itertools.product(range(len(texts)), repeat=group_size):
        episodes = [Episode(0, PROMPT, torch.tensor(texts[i])) for i in members]
        values = [float(rewards[i]) for i in members]
        group = Group(
            episodes, [""] * group_size, values, [True] * group_size, len(set(values)) > 1, [{}] * group_size
        )
        rollouts = score(actors, Collected([group], [True], 1, 1), World())
        advantages = estimate_advantages(rollouts, config.alg)
        minibatch_losses(actors, rollouts, torch.arange(group_size), advantages, world=World())
        mean -= probabilities[list(members)].prod() * gradient(policy.model)
    assert expected.norm() > 1e-3
    assert torch.allclose(mean, expected, rtol=0, atol=2e-6 * float(expected.norm()) + 1e-7), json.dumps(case)
