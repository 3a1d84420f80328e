"""The buffer of tokens: which episode is cut, its rewards and bootstrap, and what is logged of them all."""

import statistics
from typing import Any

import pytest
import torch
from on_policy_runs import (
    KINDS,
    changed,
    filled,
    random_batch,
    rollouts_of,
    stepwise_logits,
    stepwise_values,
    tiny_policy,
)
from torch import Tensor
from torch.testing import assert_close

from rl4lms.model.policy import PolicyModel, Sequences
from rl4lms.ppo.rollouts import Rollouts, Scores, fill_buffer, score_rollouts

LENGTHS = [5, 1, 7, 3, 2]
REWARDS = [1.0, -2.0, 3.0, 0.5, 4.0]


def response_mask(lengths: list[int] = LENGTHS) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def made(tokens: int, samples: list[int] | None = None, rewards: list[float] = REWARDS) -> Rollouts:
    """The buffer of episodes whose scores are numbers that tell episode e and token t: 10 e + t."""
    mask = response_mask()
    places = (10 * torch.arange(5)[:, None] + torch.arange(7)).float() * mask
    scores = Scores(*(places * factor for factor in (-1, -2, -3, 1, 0.01)))
    ids = torch.zeros_like(mask, dtype=torch.long)
    sequences = Sequences(ids[:, :3], mask[:, :3] | True, ids, mask)
    texts = [f"text {i}" for i in range(5)]
    return Rollouts.build(
        sequences,
        fill_buffer(mask, tokens),
        scores,
        torch.tensor(rewards),
        torch.tensor(samples or range(5)),
        texts,
    )


@pytest.mark.parametrize("tokens", range(1, 19))
def test_the_buffer_is_exactly_full_episode_by_episode(tokens):
    mask = fill_buffer(response_mask(), tokens)
    assert mask.sum() == tokens
    expected = [(e, t) for e, n in enumerate(LENGTHS) for t in range(n)][:tokens]
    assert mask.nonzero().tolist() == [list(place) for place in expected]
    rollouts = made(tokens)
    assert (
        len(rollouts.rows)
        == len(rollouts.logprobs)
        == len(rollouts.values)
        == len(rollouts.rewards)
        == tokens
    )
    assert rollouts.values.tolist() == [10 * e + t for e, t in expected]
    assert rollouts.logprobs.tolist() == [-(10 * e + t) for e, t in expected]


@pytest.mark.parametrize("tokens", range(1, 19))
def test_only_whole_episodes_are_rewarded_and_only_the_cut_one_is_bootstrapped(tokens):
    rollouts = made(tokens)
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    expected, last_values = [], [0.0] * 5
    for e, (n, end) in enumerate(zip(LENGTHS, ends, strict=True)):
        kept = max(0, min(n, tokens - (end - n)))
        own = [0.01 * (10 * e + t) for t in range(kept)]
        if kept == n:
            own[-1] += REWARDS[e]
        elif kept:
            last_values[e] = 10 * e + kept  # of the token that would have followed
        expected += own
    assert rollouts.rewards.tolist() == pytest.approx(expected)
    assert rollouts.last_values.tolist() == last_values
    assert sum(value != 0 for value in last_values) == (tokens not in ends)
    assert rollouts.task_rewards.tolist() == REWARDS


def test_values_of_tokens_back_in_their_places():
    rollouts = made(9)
    found = rollouts.padded(torch.arange(1.0, 10.0))
    assert found[rollouts.mask].tolist() == list(range(1, 10)) and (found[~rollouts.mask] == 0).all()


def test_scores_are_left_as_they_were():
    """Rewards are added to a copy of the KL rewards, which the statistics count."""
    rollouts = made(18)
    assert rollouts.scores.kl_rewards[0].tolist()[:5] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])


def test_statistics_count_all_generated_tokens():
    """Also those of episodes that did not fit, whole and cut ones."""
    whole, cut = made(18).statistics(), made(7).statistics()
    assert cut == whole
    places = [10.0 * e + t for e, n in enumerate(LENGTHS) for t in range(n)]
    sums = [sum(0.01 * (10 * e + t) for t in range(n)) for e, n in enumerate(LENGTHS)]
    series: dict[str, list[float]] = {
        "ep_rew": REWARDS,
        "ep_lens": [float(n) for n in LENGTHS],
        "ep_kl_rew": sums,
        "kl_div_mean": places,  # raw - reference = -2 - -3
        "log_prob": [-p for p in places],
        "ref_log_prob": [-3 * p for p in places],
        "values": places,
        "ep_kl": [sum(10.0 * e + t for t in range(n)) for e, n in enumerate(LENGTHS)],
    }
    expected = {f"rollout_info/{name}": statistics.fmean(values) for name, values in series.items()}
    expected["rollout_info/ep_kl_root"] = expected["rollout_info/ep_kl"] ** 0.5
    expected |= {f"rollout_info/{name}_std": statistics.pstdev(values) for name, values in series.items()}
    assert whole == pytest.approx(expected | {"rollout_info/repeated_inputs": 0.0}, rel=1e-5)


def test_the_reward_std_of_inputs_that_were_drawn_more_than_once():
    rollouts = made(18, samples=[3, 8, 3, 8, 5], rewards=[1.0, 0.0, 4.0, 0.5, 9.0])
    assert rollouts.repeated_input_stds() == pytest.approx([1.5, 0.25])
    found = rollouts.statistics()
    assert found["rollout_info/repeated_inputs"] == 2
    assert found["rollout_info/input_reward_std"] == pytest.approx(0.875)
    thrice = made(18, samples=[3, 3, 3, 8, 5], rewards=[1.0, 2.0, 6.0, 0.0, 0.0])
    assert thrice.repeated_input_stds() == pytest.approx([statistics.pstdev([1, 2, 6])])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_kl_rewards_are_of_the_policy_at_its_temperature_and_the_reference_at_1(kind, temperature):
    policy, batch = tiny_policy(kind), random_batch(response_lengths=LENGTHS)
    reference = PolicyModel(changed(policy.model, 0.3, seed=4))
    scores = score_rollouts(
        policy, reference, *vars(batch).values(), kl_coeff=0.25, temperature=temperature
    )  # fmt: skip

    def logprobs(model: Any, at: float) -> Tensor:
        found = []
        for i, logits in enumerate(stepwise_logits(model, batch)):
            taken = batch.response_ids[i, : len(logits), None]
            found.append((logits / at).softmax(1).gather(1, taken)[:, 0].log())
        return filled(batch, found)

    own, other = logprobs(policy.model, temperature), logprobs(reference.model, 1.0)
    close = {"rtol": 2e-5, "atol": 2e-5}
    assert_close(scores.logprobs, own, **close)
    assert_close(scores.raw_logprobs, own, **close)
    assert_close(scores.ref_logprobs, other, **close)
    assert_close(scores.kl_rewards, -0.25 * (own - other), **close)
    assert_close(scores.values, filled(batch, stepwise_values(policy, batch)), **close)
    assert not scores.values.requires_grad


def test_the_policy_itself_as_reference_gives_no_kl_reward():
    policy, batch = tiny_policy("gpt2"), random_batch()
    scores = score_rollouts(policy, PolicyModel(policy.model), *vars(batch).values(), kl_coeff=5.0)
    assert (scores.kl_rewards == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_episode_bootstraps_from_the_value_of_the_following_token(kind):
    """The value that a step-by-step pass gives after the tokens that were kept."""
    policy, batch = tiny_policy(kind), random_batch(response_lengths=LENGTHS)
    rollouts = rollouts_of(policy, batch, REWARDS, tokens=10)
    with torch.no_grad():
        expected = stepwise_values(policy, batch)[2][4]  # 5 + 1 + 4 tokens
    assert_close(rollouts.last_values, torch.tensor([0, 0, expected, 0, 0]), rtol=2e-5, atol=2e-5)
