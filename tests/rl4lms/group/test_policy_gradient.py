"""The update's gradient, averaged over all groups with their probabilities, is the one of the theory.

All texts of a tiny autoregressive model are listed: E[g] = sum_y p(y) a(r(y)) grad log p(y), with
a(r) = E[A_1 | r_1 = r] of `rft_diagnose.group_signal`.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from enumerable import END, all_texts, cut, gradient, save_enumerable
from on_policy_jobs import job
from on_policy_runs import changed, next_step
from torch import Tensor

from rft_diagnose.group_signal import (
    effective_std,
    expected_advantages,
    group_amplification,
    spread_probability,
)
from rl4lms.episodes import Episode
from rl4lms.group.collect import Actors, Collected, Group, Rollouts, score
from rl4lms.group.step import estimate_advantages, minibatch_losses
from rl4lms.group.update import group_advantages, group_loss, has_spread
from rl4lms.model.load import load_model
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel
from rl4lms.model.sampling import sample_tokens

VOCABULARY = 4  # padding, end, two words
PROMPT, OTHER = torch.tensor([2, 3]), torch.tensor([3])
EPSILON = 0.01


def make_actors(folder: Path, alg: str, longest: int, **changes: Any) -> Actors:
    """A policy of texts of at most so many tokens; with a KL penalty a reference of other weights."""
    settings = {
        "alg__args__std_epsilon": EPSILON, "alg__kl_div__coeff": 0.0, "alg__args__prompts_per_iteration": 1,
        "alg__policy__args__generation_kwargs": {"do_sample": True, "top_k": 0, "max_new_tokens": longest},
        "env__args__max_episode_length": longest, "env__args__max_prompt_length": 4,
    }  # fmt: skip
    model = save_enumerable(folder / "gpt2_enumerable")
    config = job(folder, model, alg, **(settings | changes))
    policy = PolicyModel(load_model(str(model), "causal", torch.float32, "cpu"))
    reference = PolicyModel(changed(policy.model, 0.5)) if config.alg.needs_reference else None
    return Actors(
        policy=policy, reference=reference, tokenizer=None, train=[], reward=lambda batch: [],
        env=config.env, alg=config.alg, seed=0,
    )  # fmt: skip


def list_logprobs(policy: PolicyModel, prompt: Tensor, texts: list[tuple[int, ...]]) -> Tensor:
    """The log-probabilities of all texts' tokens, [texts, T], 0 after their ends."""
    steps: dict[tuple[int, ...], Tensor] = {}
    for before in {text[:t] for text in texts for t in range(len(text))}:
        steps[before] = next_step(policy.model, prompt.tolist(), list(before))[0].log_softmax(0)
    zero = torch.zeros(())
    return torch.stack(
        [
            torch.stack([steps[text[:t]][text[t]] if t < len(text) else zero for t in range(len(texts[-1]))])
            for text in texts
        ]
    )


def make_group(prompt: Tensor, texts: list[tuple[int, ...]], rewards: list[float]) -> Group:
    episodes = [Episode(0, prompt, torch.tensor(text)) for text in texts]
    return Group(
        episodes, [""] * len(texts), rewards, [True] * len(texts), len(set(rewards)) > 1, [{}] * len(texts)
    )


@torch.no_grad()
def scored(actors: Actors, groups: list[Group]) -> Rollouts:
    return score(actors, Collected(groups, [True] * len(groups), 1, 1), World())


def ascent(actors: Actors, groups: list[Group]) -> Tensor:
    """Minus the gradient of the loss of one minibatch of all texts."""
    rollouts = scored(actors, groups)
    advantages = estimate_advantages(rollouts, actors.alg)
    minibatch_losses(actors, rollouts, torch.arange(len(rollouts.mask)), advantages, world=World())
    return -gradient(actors.policy.model.parameters())


def gradient_of(policy: PolicyModel, objective: Tensor) -> Tensor:
    policy.model.zero_grad()
    objective.backward()
    return gradient(policy.model.parameters())


def check_equal(mean: Tensor, expected: Tensor) -> None:
    """Up to the rounding of float32."""
    assert expected.norm() > 1e-3
    assert torch.allclose(mean, expected, rtol=0, atol=2e-6 * float(expected.norm()) + 1e-7)


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
    actors = make_actors(tmp_path, alg, longest, alg__args__group_size=group_size, **changes)
    texts = all_texts(VOCABULARY, longest)
    rewards = np.random.default_rng(0).random(len(texts)).round(2)
    logprobs = list_logprobs(actors.policy, PROMPT, texts).sum(1)
    probabilities = logprobs.detach().exp().double().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)

    a = expected_advantages(rewards, probabilities, group_size, advantage, epsilon=EPSILON)
    lengths = np.array([len(text) for text in texts])
    weights = probabilities * a / (lengths if by_length else 1) * (1 / longest if factor is None else factor)
    expected = gradient_of(actors.policy, logprobs @ torch.tensor(weights, dtype=torch.float32))

    mean = torch.zeros_like(expected)
    for members in itertools.product(range(len(texts)), repeat=group_size):
        group = make_group(PROMPT, [texts[i] for i in members], [float(rewards[i]) for i in members])
        mean += probabilities[list(members)].prod() * ascent(actors, [group])
    check_equal(mean, expected)


@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("baseline", ["none", "group_mean"])
def test_the_mean_over_all_batches_of_reinforce_pp(tmp_path, baseline, kl_coeff):
    """Two texts: of two prompts, or a group of one with its mean. The advantages by hand, in float64."""
    longest, prompts = 2, [PROMPT, OTHER] if baseline == "none" else [PROMPT, PROMPT]
    groups = {"alg__args__group_size": 1, "alg__args__prompts_per_iteration": 2}
    if baseline == "group_mean":
        groups = {"alg__args__group_size": 2}
    actors = make_actors(
        tmp_path, "reinforce_pp", longest, alg__args__baseline=baseline, alg__kl_div__coeff=kl_coeff, **groups
    )
    texts = all_texts(VOCABULARY, longest)
    rewards = np.random.default_rng(0).random((2, len(texts))).round(2)
    if baseline == "group_mean":
        rewards[1] = rewards[0]
    logprobs = [list_logprobs(actors.policy, prompt, texts) for prompt in prompts]
    reference = actors.reference or actors.policy
    kl = [
        (now - list_logprobs(reference, prompt, texts)).detach().double().numpy()
        for now, prompt in zip(logprobs, prompts, strict=True)
    ]
    probabilities = [now.detach().double().sum(1).exp().numpy() for now in logprobs]

    weights = np.zeros((2, len(texts), longest))
    mean = torch.zeros(sum(weight.numel() for weight in actors.policy.parameters()), dtype=torch.float64)
    for batch in itertools.product(range(len(texts)), repeat=2):
        values = [rewards[row, text] for row, text in enumerate(batch)]
        middle = sum(values) / 2 if baseline == "group_mean" else 0.0
        returns = [
            [values[row] - middle - kl_coeff * sum(kl[row][text][t:]) for t in range(len(texts[text]))]
            for row, text in enumerate(batch)
        ]
        every = [value for row in returns for value in row]
        shift = sum(every) / len(every)
        std = math.sqrt(sum((value - shift) ** 2 for value in every) / (len(every) - 1))
        probability = probabilities[0][batch[0]] * probabilities[1][batch[1]]
        for row, text in enumerate(batch):
            for t, value in enumerate(returns[row]):
                weights[row, text, t] += probability * (value - shift) / (std + 1e-8) / len(every)
        parts = [[row] for row in range(2)] if baseline == "none" else [[0, 1]]
        made = [
            make_group(prompts[rows[0]], [texts[batch[r]] for r in rows], [float(values[r]) for r in rows])
            for rows in parts
        ]
        mean += probability * ascent(actors, made)
    objective = (torch.tensor(weights, dtype=torch.float32) * torch.stack(logprobs)).sum()
    check_equal(mean, gradient_of(actors.policy, objective))


def list_scores(policy: PolicyModel, prompt: Tensor, texts: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the texts' tokens, [texts, T], and their gradients, [texts, T, weights]; float64.

    Both are 0 after a text's end.
    """
    logprobs = list_logprobs(policy, prompt, texts)
    parameters = list(policy.model.parameters())
    scores = torch.zeros(*logprobs.shape, sum(p.numel() for p in parameters), dtype=torch.float64)
    for i, text in enumerate(texts):
        for t in range(len(text)):
            parts = torch.autograd.grad(logprobs[i, t], parameters, retain_graph=True)
            scores[i, t] = torch.cat([part.flatten() for part in parts]).double()
    return logprobs.detach().double(), scores


@torch.no_grad()
def sample_texts(policy: PolicyModel, texts: list[tuple[int, ...]], number: int) -> Tensor:
    """Places in the list of so many texts that are drawn token by token."""
    longest, generator = len(texts[-1]), torch.Generator().manual_seed(0)
    drawn = torch.zeros(number, dtype=torch.long)  # the tokens so far as the digits of a number
    for step in range(longest):
        before = itertools.product(range(VOCABULARY), repeat=step)
        logits = torch.stack([next_step(policy.model, PROMPT.tolist(), list(tokens))[0] for tokens in before])
        uniforms = torch.rand(number, generator=generator)
        drawn = VOCABULARY * drawn + sample_tokens(logits[drawn], uniforms, 1.0, 0, 1.0)
    every = itertools.product(range(VOCABULARY), repeat=longest)
    return torch.tensor([texts.index(cut(tokens, END)) for tokens in every])[drawn]


@pytest.mark.parametrize("alg", ["rloo", "grpo", "dr_grpo", "dapo"])
def test_the_mean_of_sampled_groups_is_the_expected_gradient(tmp_path, alg):
    """Of DAPO only groups with spread are kept: the expectation is over P(spread)."""
    groups, size, longest = 20_000, 4, 2
    actors = make_actors(tmp_path, alg, longest, alg__args__group_size=size)
    args, texts = actors.alg.args, all_texts(VOCABULARY, longest)
    logprobs, scores = list_scores(actors.policy, PROMPT, texts)
    probabilities = logprobs.sum(1).exp().numpy()
    order = probabilities.argsort()
    levels, level = np.array([1.0, 0.2, 0.0]), np.zeros(len(texts), int)  # the rarest texts are the best
    level[order] = np.searchsorted([0.06, 0.2], probabilities[order].cumsum())
    masses = np.bincount(level, probabilities)
    advantage = "grpo" if alg == "dapo" else alg
    a = expected_advantages(levels, masses, size, advantage, epsilon=EPSILON)[level]
    expected = torch.tensor(probabilities * a) @ scores.sum(1)

    members = sample_texts(actors.policy, texts, groups * size)
    rewards = torch.tensor(levels[level])[members].view(groups, size)
    if args.dynamic_sampling.enabled:
        kept = has_spread(rewards)
        assert 0.2 < kept.double().mean() < 0.8
        rewards, members = rewards[kept], members.view(groups, size)[kept].flatten()
        expected = expected / spread_probability(masses, size)
    advantages = group_advantages(rewards, args.baseline, args.scale, args.std_epsilon).flatten()
    leaf = logprobs[members].requires_grad_()
    mask = torch.tensor([[t < len(text) for t in range(longest)] for text in texts])[members]
    loss = group_loss(
        leaf, leaf.detach(), advantages, mask, ratio=args.ratio, clip_low=args.clip_low,
        clip_high=args.clip_high, how="sequence",
    )  # fmt: skip
    loss["total_loss"].backward()
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(30, scores.shape[2], generator=generator, dtype=torch.float64)
    directions = torch.cat([expected[None], random])
    along = (scores @ directions.T)[members] * -leaf.grad[..., None] * len(rewards)
    estimates = along.sum(1).view(len(rewards), size, -1).sum(1)  # of each group, in each direction
    error = estimates.std(0) / math.sqrt(len(rewards))
    assert ((estimates.mean(0) - directions @ expected).abs() < 4 * error).all()
    assert expected @ expected > 20 * error[0], "it would show an error of a tenth"


@pytest.mark.parametrize("group_size", [2, 4])
def test_the_bound_holds_on_texts(tmp_path, group_size):
    """|E g| <= effective std * sqrt(largest eigenvalue of the Fisher information of the weights)."""
    policy, texts = make_actors(tmp_path, "grpo", 2).policy, all_texts(VOCABULARY, 2)
    logprobs, scores = list_scores(policy, PROMPT, texts)
    probabilities = logprobs.sum(1).exp()
    # F = sum p s s^T has the eigenvalues of the texts' Gram matrix.
    weighted = probabilities.sqrt()[:, None] * scores.sum(1)
    largest = math.sqrt(torch.linalg.eigvalsh(weighted @ weighted.T)[-1])
    generator, ratios = np.random.default_rng(0), []
    for trial in range(30):
        # Three levels: as many texts of each, or two that differ from the others.
        levels = generator.random(3)
        level = np.arange(len(texts)) % 3 if trial % 2 else np.array([0] * (len(texts) - 2) + [1, 2])
        level = generator.permutation(level)
        masses = np.bincount(level, probabilities, minlength=3)
        for advantage in ("grpo", "rloo", "dr_grpo"):
            a = expected_advantages(levels, masses, group_size, advantage)[level]
            norm = float((probabilities * torch.tensor(a) @ scores.sum(1)).norm())
            bound = effective_std(levels, masses, group_size, advantage) * largest
            ratios.append(norm / bound)
    assert 0.3 < max(ratios) <= 1 + 1e-6


@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_two_levels_leave_the_direction_of_the_plain_gradient(tmp_path, group_size):
    """However the texts share them; GRPO's is longer by F_G'(p), the unbiased std's factor, over the gap."""
    policy, texts = make_actors(tmp_path, "grpo", 2).policy, all_texts(VOCABULARY, 2)
    logprobs, scores = list_scores(policy, PROMPT, texts)
    probabilities = logprobs.sum(1).softmax(0)
    generator = np.random.default_rng(0)
    for good in range(1, len(texts)):
        better = generator.permutation(np.arange(len(texts)) < good).astype(int)
        masses, levels = np.bincount(better, probabilities), np.array([-0.5, 1.5])
        plain, normalised = (
            probabilities
            * torch.tensor(expected_advantages(levels, masses, group_size, name)[better])
            @ scores.sum(1)
            for name in ("rloo", "grpo")
        )
        assert float(plain @ normalised / (plain.norm() * normalised.norm())) == pytest.approx(1, abs=1e-12)
        factor = group_amplification(masses[1], group_size) * math.sqrt(1 - 1 / group_size) / 2
        assert float(normalised.norm() / plain.norm()) == pytest.approx(float(factor), rel=1e-9)


def test_minibatches_that_split_groups_add_up_to_the_whole(tmp_path):
    """Advantages, also those over the std of a batch, are of all texts of the iteration."""
    texts = all_texts(VOCABULARY, 2)
    groups = [
        make_group(prompt, texts[first : first + 4], [0.1 * i * first + i**2 for i in range(4)])
        for first, prompt in ((3, PROMPT), (6, OTHER), (9, PROMPT))
    ]
    for name, changes in {
        "grpo": {}, "batch": {"alg__args__scale": "batch_std"}, "rloo": {}, "dr_grpo": {}, "gspo": {},
        "dapo": {}, "reinforce_pp": {"alg__kl_div__coeff": 0.3},
    }.items():  # fmt: skip
        alg = "grpo" if name == "batch" else name
        folder = tmp_path / name
        folder.mkdir()
        split = {"alg__args__batch_size": 5, "alg__args__prompts_per_iteration": 3}
        actors = make_actors(folder, alg, 2, alg__args__group_size=4, **split, **changes)
        whole = ascent(actors, groups)
        rollouts = scored(actors, groups)
        advantages = estimate_advantages(rollouts, actors.alg)
        total = torch.zeros_like(whole)
        for batch in torch.tensor([0, 5, 9, 2, 7, 1, 8, 3, 11, 4, 6, 10]).split(5):
            minibatch_losses(actors, rollouts, batch, advantages, world=World())
            by_token = actors.alg.args.aggregate == "token_mean"
            share = rollouts.mask[batch].sum() / rollouts.mask.sum() if by_token else len(batch) / 12
            total -= share * gradient(actors.policy.model.parameters())
        check_equal(total, whole)
