"""The steps of PPO on given tensors, against closed forms and hand-sized numbers."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from on_policy_runs import KINDS, random_batch, rollouts_of, tiny_policy
from torch import Tensor
from torch.testing import assert_close

from rl4lms.model.optimiser import build_optimizer
from rl4lms.ppo.update import (
    estimate_advantages,
    explained_variance,
    gae,
    minibatches,
    normalize_advantages,
    normalize_rewards,
    ppo_loss,
)

# Generalised advantage estimates


def episodes(
    lengths: list[int], seed: int = 0, nothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random rewards, values [B, T], mask, and last values [B]; `nothing` stands outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rewards, values = torch.randn(2, *mask.shape, generator=generator).where(mask, torch.tensor(nothing))
    return rewards, values, mask, torch.randn(len(lengths), generator=generator)


def closed_form(
    rewards: list[float], values: list[float], last: float, gamma: float, lam: float
) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t."""
    after = [*values[1:], last]
    deltas = [r + gamma * v - own for r, v, own in zip(rewards, after, values, strict=True)]
    return [
        sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (1, 1), (0.9, 0), (0, 0.5), (0.5, 1)])
def test_gae_is_the_sum_of_discounted_errors(gamma, lam, cut):
    lengths = [5, 1, 8, 3]
    rewards, values, mask, last = episodes(lengths, nothing=math.nan)
    last_values = last * torch.tensor([0, 1, 0, 1]) if cut else None  # some episodes were cut, some ended
    found = gae(rewards, values, mask, gamma, lam, last_values)
    for i, n in enumerate(lengths):
        end = 0.0 if last_values is None else last_values[i].item()
        expected = closed_form(rewards[i, :n].tolist(), values[i, :n].tolist(), end, gamma, lam)
        assert_close(found[i, :n], torch.tensor(expected))
    assert (found[~mask] == 0).all()


def test_gae_of_an_empty_episode_is_0():
    rewards, values, mask, last = episodes([3, 0])
    assert (gae(rewards, values, mask, 0.9, 0.9, last)[1] == 0).all()


def test_gae_without_discount_is_the_return_less_the_value():
    rewards, values, mask, _ = episodes([6, 2])
    returns = rewards.flip(1).cumsum(1).flip(1)
    assert_close(gae(rewards, values, mask, 1, 1), (returns - values) * mask)


def test_gae_with_true_values_is_0():
    """If the values are what the rewards add up to, there is no advantage, at any lambda."""
    rewards, _, mask, last = episodes([7, 7])
    values, following = torch.zeros_like(rewards), last
    for t in reversed(range(7)):
        following = values[:, t] = rewards[:, t] + 0.9 * following
    for lam in (0.0, 0.5, 1.0):
        assert_close(gae(rewards, values, mask, 0.9, lam, last), torch.zeros_like(rewards))


@pytest.mark.parametrize("norm_reward", [False, True])
def test_advantages_of_a_buffer_with_a_cut_episode(norm_reward):
    rollouts = rollouts_of(tiny_policy("gpt2"), random_batch(), [1, -2, 3, 0.5, 4], tokens=15)
    advantages, returns = estimate_advantages(rollouts, 0.9, 0.8, norm_reward)
    rewards = rollouts.rewards.double().numpy()
    if norm_reward:
        rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    expected: list[float] = []
    for row in range(4):
        own = (rollouts.rows == row).numpy()
        last = rollouts.last_values[row].item()
        expected += closed_form(rewards[own].tolist(), rollouts.values[own].tolist(), last, 0.9, 0.8)
    assert rollouts.last_values[3] != 0 and len(expected) == 15
    assert_close(advantages, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert_close(returns, advantages + rollouts.values)


# Normalisation


def test_normalized_rewards():
    rewards, _, mask, _ = episodes([5, 1, 8], nothing=math.nan)
    found, own = normalize_rewards(rewards, mask), rewards[mask].double().numpy()
    assert_close(found[mask].numpy(), ((own - own.mean()) / own.std()).astype(np.float32))
    assert (found[~mask] == 0).all()
    assert found[mask].std(correction=0).item() == pytest.approx(1)


def test_equal_rewards_become_0():
    mask = torch.ones(2, 3, dtype=torch.bool)
    assert (normalize_rewards(torch.full((2, 3), 0.25), mask) == 0).all()


def test_normalized_advantages_have_unbiased_std_1():
    own = torch.randn(9, generator=torch.Generator().manual_seed(0)) * 7 + 3
    found = normalize_advantages(own)
    exact = own.double()
    assert_close(found.double(), (exact - exact.mean()) / exact.std(correction=1), rtol=1e-5, atol=1e-6)
    assert_close(normalize_advantages(5 * own - 2), found)
    assert torch.equal(normalize_advantages(own[:1]), own[:1])
    assert torch.equal(normalize_advantages(torch.full((4,), 2.0)), torch.zeros(4))


# The loss of given tokens

# ratios 1.5, 0.5, 1.1, 0.9, each with an advantage of either sign
RATIOS = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.1, 0.9, 0.9])
ADVANTAGES = torch.tensor([2.0, -2.0] * 4)
OLD = torch.tensor([-1.0, -2.0, -0.5, -3.0, -1.5, -0.1, -2.5, -0.7])
# min(ratio A, clipped ratio A) at clip range 0.2, by hand
SURROGATES = [2.4, -3.0, 1.0, -1.6, 2.2, -2.2, 1.8, -1.8]


def losses(**changes: Any) -> dict[str, Tensor]:
    arguments: dict[str, Any] = {
        "logprobs": OLD + RATIOS.log(),
        "old_logprobs": OLD,
        "advantages": ADVANTAGES,
        "values": torch.arange(8.0),
        "returns": torch.arange(8.0) + torch.tensor([1.0, -3.0] * 4),
        "entropy": torch.arange(8.0) / 10,
    }
    return ppo_loss(**(arguments | changes))


def test_loss_of_eight_tokens():
    found = {name: value.item() for name, value in losses(ent_coef=0.01).items()}
    log_ratios = [math.log(ratio) for ratio in RATIOS.tolist()]
    expected = {
        "policy_loss": -sum(SURROGATES) / 8,
        "value_loss": 5.0,
        "entropy_loss": -0.35,
        "clip_fraction": 0.5,
        "approx_kl": sum(math.exp(x) - 1 - x for x in log_ratios) / 8,
    }
    expected["total_loss"] = expected["policy_loss"] + 0.5 * 5.0 - 0.01 * 0.35
    assert found == pytest.approx(expected, rel=1e-5)


def test_gradient_of_clipped_tokens():
    """Tokens beyond the range in their advantage's direction have none, the others -A ratio / N."""
    logprobs = (OLD + RATIOS.log()).requires_grad_()
    losses(logprobs=logprobs)["policy_loss"].backward()
    live = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1])
    assert_close(logprobs.grad, -ADVANTAGES * RATIOS * live / 8)


def test_gradient_at_ratio_1_is_the_policy_gradient():
    logprobs = OLD.clone().requires_grad_()
    found = losses(logprobs=logprobs)
    found["policy_loss"].backward()
    assert_close(logprobs.grad, -ADVANTAGES / 8)
    assert found["approx_kl"] == found["clip_fraction"] == 0


@pytest.mark.parametrize(("clip_range", "fraction"), [(0.05, 1), (0.2, 0.5), (0.6, 0)])
def test_clip_range(clip_range, fraction):
    expected = [
        min(r * a, min(max(r, 1 - clip_range), 1 + clip_range) * a)
        for r, a in zip(RATIOS.tolist(), ADVANTAGES.tolist(), strict=True)
    ]
    found = losses(clip_range=clip_range)
    assert found["policy_loss"].item() == pytest.approx(-sum(expected) / 8, abs=1e-6)
    assert found["clip_fraction"] == fraction


def test_without_a_clip_range_it_is_the_plain_policy_gradient():
    """Of A2C: the old policy plays no part but in what is logged."""
    logprobs = (OLD + RATIOS.log()).requires_grad_()
    found = losses(logprobs=logprobs, clip_range=None)
    found["policy_loss"].backward()
    assert_close(found["policy_loss"], -(ADVANTAGES * logprobs).mean())
    assert_close(logprobs.grad, -ADVANTAGES / 8)
    assert found["clip_fraction"] == 0 and found["approx_kl"] == losses()["approx_kl"]


def test_the_entropy_can_be_estimated_by_the_taken_tokens():
    logprobs = (OLD + RATIOS.log()).requires_grad_()
    entropy = torch.arange(8.0).requires_grad_()
    found = losses(logprobs=logprobs, entropy=entropy, ent_coef=2.0, estimate_entropy=True)
    assert_close(found["entropy_loss"], logprobs.mean())
    found["entropy_loss"].backward()
    assert_close(logprobs.grad, torch.full((8,), 1 / 8))
    assert entropy.grad is None
    without = losses(logprobs=logprobs, ent_coef=0.0)["total_loss"]
    assert_close(found["total_loss"] - without, 2 * logprobs.mean())


def test_gradients_of_the_parts_of_the_total():
    values, entropy = torch.arange(8.0).requires_grad_(), torch.zeros(8).requires_grad_()
    losses(values=values, entropy=entropy, vf_coef=0.3, ent_coef=0.2)["total_loss"].backward()
    assert_close(values.grad, 0.3 * -2 * torch.tensor([1.0, -3.0] * 4) / 8)
    assert_close(entropy.grad, torch.full((8,), -0.2 / 8))


def test_approximate_kl_and_clip_fraction_have_no_gradient():
    found = losses(logprobs=OLD.clone().requires_grad_())
    assert not found["approx_kl"].requires_grad and not found["clip_fraction"].requires_grad


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 2, 3], 1), ([0, 0, 0], 0), ([2, 2, 2], 0), ([3, 2, 1], -3), ([2, 3, 4], 1)]
)
def test_explained_variance(values, expected):
    found = explained_variance(torch.tensor(values, dtype=torch.float), torch.tensor([1.0, 2.0, 3.0]))
    assert found == pytest.approx(expected)


def test_explained_variance_of_equal_returns_is_nan():
    assert math.isnan(explained_variance(torch.randn(4), torch.ones(4)))


# Minibatches


def buffer(lengths: list[int]) -> Any:
    """Rows and columns of the tokens of episodes."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    rows, columns = mask.nonzero(as_tuple=True)
    return SimpleNamespace(mask=mask, rows=rows, columns=columns)


LENGTHS = [5, 1, 9, 3, 2, 0, 6, 4, 7, 1]  # 38 tokens


def drawn(
    batch_size: int, unit: Any, epochs: int = 1, seed: int = 0, lengths: list[int] = LENGTHS
) -> list[list[int]]:
    return [one.tolist() for one in minibatches(buffer(lengths), batch_size, unit, epochs, seed)]


@pytest.mark.parametrize("batch_size", [1, 2, 8, 19, 38, 100])
@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_every_token_once_an_epoch(unit, batch_size):
    tokens = [token for batch in drawn(batch_size, unit, epochs=3) for token in batch]
    for epoch in range(3):
        assert sorted(tokens[38 * epoch : 38 * (epoch + 1)]) == list(range(38))
    assert tokens[:38] != tokens[38:76] != tokens[76:]


def test_sizes_of_minibatches_of_tokens():
    assert [len(batch) for batch in drawn(8, "token", epochs=2)] == [8, 8, 8, 8, 6] * 2


@pytest.mark.parametrize("batch_size", [2, 4, 8, 38])
def test_minibatches_of_sequences_keep_episodes_whole(batch_size):
    rows = buffer(LENGTHS).rows
    for epoch in range(20):
        batches = drawn(batch_size, "sequence", seed=epoch)
        owners = [set(rows[batch].tolist()) for batch in batches]
        assert sum(map(len, owners)) == len(set(rows.tolist())), "no episode is in two minibatches"
        for batch in batches:
            assert len(batch) < batch_size + max(LENGTHS)
            assert all(a + 1 == b or rows[a] != rows[b] for a, b in pairwise(batch))


def test_as_many_minibatches_of_sequences_as_of_tokens():
    """Where episodes are shorter than minibatches, nearly the same number of updates."""
    lengths = [3, 7, 5, 6, 4] * 40
    of_tokens = drawn(64, "token", lengths=lengths)
    of_sequences = drawn(64, "sequence", lengths=lengths)
    assert len(of_sequences) == len(of_tokens) == 16
    assert all(64 - 7 < len(batch) < 64 + 7 for batch in of_sequences[:-1])


@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_the_order_is_a_function_of_the_seed(unit):
    torch.manual_seed(0)
    first = drawn(8, unit, epochs=2, seed=2**62 + 1)
    torch.rand(3)
    assert drawn(8, unit, epochs=2, seed=2**62 + 1) == first
    assert drawn(8, unit, epochs=2, seed=2**62 + 2) != first
    assert drawn(8, unit, epochs=1, seed=2**62 + 1) == first[: len(first) // 2]


def test_tokens_are_in_random_order():
    """Each token is in the first minibatch of four as often as the others."""
    counts = np.zeros(38)
    for seed in range(1000):
        counts[drawn(10, "token", seed=seed)[0]] += 1
    expected, spread = 1000 * 10 / 38, (1000 * 10 / 38 * 28 / 38) ** 0.5
    assert abs(counts - expected).max() < 4.5 * spread


# The optimizer


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_but_biases_decay(kind):
    policy = tiny_policy(kind)
    optimizer = build_optimizer(policy, 3e-4, 0.01)
    assert isinstance(optimizer, torch.optim.AdamW)
    decay = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
    named = dict(policy.named_parameters())
    assert len(decay) == sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
    for name, weight in named.items():
        assert decay[id(weight)] == (0.0 if "bias" in name else 0.01), name
    prefixes = {name.partition(".")[0] for name in named}
    assert prefixes == {"model", "value_model", "value_head"}
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}
    assert {0.0, 0.01} == set(decay.values())


def test_frozen_weights_are_not_optimized():
    policy = tiny_policy("gpt2")
    policy.model.requires_grad_(False)
    weights = {id(w) for group in build_optimizer(policy, 1e-3, 0.1).param_groups for w in group["params"]}
    assert not weights & {id(w) for w in policy.model.parameters()}
    assert weights == {id(w) for w in policy.parameters() if w.requires_grad}
