"""The losses of the group algorithms: TRL's values on the same tensors, and what advantages must be."""

import pytest
import torch

from rl4lms.group.update import (
    aggregate,
    group_advantages,
    group_loss,
    has_spread,
    kl_estimate,
    overlong_penalty,
    returns_to_go,
    whiten,
)

F = torch.float64
_I, _T = torch.arange(8, dtype=F)[:, None], torch.arange(5, dtype=F)[None]
LOGPROBS = -1.5 + torch.sin(1.7 * _I + 0.9 * _T)
OLD = LOGPROBS + 0.35 * torch.cos(2.3 * _I - 1.1 * _T)
REF = LOGPROBS + 0.2 * torch.sin(0.7 * _I + 2.1 * _T)
MASK = _T < torch.tensor([5, 3, 4, 1, 2, 5, 5, 3])[:, None]
REWARDS = torch.tensor([[0, 1, 0, 0.25], [0.5, 0.5, 0.5, 0.5]], dtype=F)

GRPO = group_advantages(REWARDS, "group_mean", "group_std", 1e-4).flatten()
DR_GRPO = group_advantages(REWARDS, "group_mean", "none", 0).flatten()
RLOO = group_advantages(REWARDS, "leave_one_out", "none", 0).flatten()
BATCH = group_advantages(REWARDS, "group_mean", "batch_std", 1e-4).flatten()

# Losses that TRL 1.16 computes of these tensors, but for the rounding of its float32 advantages (5e-8).
TRL = {
    "grpo": (GRPO, {}, 0.0293996629),
    "grpo with KL": (GRPO, {"kl_coeff": 0.04}, 0.0298223504),
    "dr_grpo": (DR_GRPO, {"how": "constant", "max_new_tokens": 5}, 0.0317995291),
    "dapo": (GRPO, {"clip_high": 0.28, "how": "token_mean"}, 0.0927238283),
    "gspo": (GRPO, {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}, 0.0283055284),
    "gspo, wide": (GRPO, {"ratio": "sequence", "clip_high": 0.28}, 0.0250094865),
    "rloo": (RLOO, {"ratio": "product", "how": "sequence"}, 0.0675214693),
    "std of the batch": (BATCH, {"how": "token_mean"}, 0.1394702230),
}


@pytest.mark.parametrize("name", TRL)
def test_losses_are_those_of_trl(name):
    advantages, options, expected = TRL[name]
    loss = group_loss(LOGPROBS, OLD, advantages, MASK, ref_logprobs=REF, **options)["total_loss"]
    assert float(loss) == pytest.approx(expected, rel=5e-8)


@pytest.mark.parametrize("name", TRL)
def test_parts_of_a_minibatch_add_up_to_it(name):
    advantages, options, _ = TRL[name]
    whole = group_loss(LOGPROBS, OLD, advantages, MASK, LOGPROBS.abs(), REF, **options)
    totals = (8.0, float(MASK.sum()))
    parts = [
        group_loss(
            LOGPROBS[rows],
            OLD[rows],
            advantages[rows],
            MASK[rows],
            LOGPROBS[rows].abs(),
            REF[rows],
            **options,
            totals=totals,
        )
        for rows in (slice(0, 3), slice(3, 8))
    ]
    for key, value in whole.items():
        assert float(sum(part[key] for part in parts)) == pytest.approx(float(value), abs=1e-12)


def test_the_loss_by_hand():
    """Text 1 of the first group: three tokens, advantage of the best."""
    rewards = REWARDS[0]
    advantage = (1 - rewards.mean()) / (rewards.std() + 1e-4)
    total = 0.0
    for t in range(3):
        ratio = float((LOGPROBS - OLD)[1, t].exp())
        total -= min(ratio * float(advantage), min(max(ratio, 0.8), 1.2) * float(advantage))
    loss = group_loss(LOGPROBS[1:2], OLD[1:2], GRPO[1:2], MASK[1:2])["policy_loss"]
    assert float(loss) == pytest.approx(total / 3, abs=1e-12)


def test_advantages_of_a_group_without_spread_are_exactly_zero():
    """0.1 seven times has a mean that is not 0.1."""
    rewards = torch.full((1, 7), 0.1, dtype=torch.float32)
    for baseline in ("group_mean", "leave_one_out"):
        for scale in ("group_std", "none"):
            assert group_advantages(rewards, baseline, scale, 1e-9).tolist() == [[0.0] * 7]
    assert has_spread(REWARDS).tolist() == [True, False]


def test_affine_rewards_change_rloo_s_scale_and_not_grpo():
    shifted = 3 + 0.01 * REWARDS
    assert torch.allclose(
        group_advantages(shifted, "group_mean", "group_std", 0.0)[0],
        group_advantages(REWARDS, "group_mean", "group_std", 0.0)[0],
    )
    rloo = group_advantages(shifted, "leave_one_out", "none", 0.0)
    assert torch.allclose(rloo, 0.01 * group_advantages(REWARDS, "leave_one_out", "none", 0.0))


def test_rloo_subtracts_the_mean_of_the_others():
    expected = [reward - (REWARDS[0].sum() - reward) / 3 for reward in REWARDS[0]]
    assert RLOO[:4].tolist() == pytest.approx([float(value) for value in expected])
    assert torch.allclose(RLOO, 4 / 3 * DR_GRPO)


def test_returns_to_go_hold_the_penalty_of_later_tokens():
    penalty = torch.tensor([[1.0, 2.0, 4.0], [1.0, 8.0, 8.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert returns_to_go(torch.tensor([10.0, 20.0]), penalty, mask).tolist() == [[17, 16, 14], [21, 0, 0]]
    whitened = whiten(returns_to_go(torch.tensor([10.0, 20.0]), penalty, mask), mask)
    assert whitened[mask].mean() == pytest.approx(0, abs=1e-6) and whitened[mask].std() == pytest.approx(1)
    assert whitened[1, 1:].tolist() == [0, 0]


def test_the_overlong_penalty_rises_over_the_buffer():
    lengths = torch.tensor([1, 16, 18, 20])
    assert overlong_penalty(lengths, 20, 4, 1.0).tolist() == [0, 0, -0.5, -1]


def test_aggregates_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert float(aggregate(values, mask, "sequence_mean")) == (2 + 4) / 2
    assert float(aggregate(values, mask, "sequence")) == (6 + 4) / 2
    assert float(aggregate(values, mask, "token_mean")) == 10 / 4
    assert float(aggregate(values, mask, "constant", max_new_tokens=5)) == 10 / 10
    texts = torch.tensor([[6.0], [2.0]])
    assert float(aggregate(texts, mask, "sequence_mean")) == 4 == float(aggregate(texts, mask, "sequence"))
    assert float(aggregate(texts, mask, "token_mean")) == 20 / 4
    left_out = torch.tensor([[True, True, True], [False, False, False]])
    assert float(aggregate(values, left_out, "sequence_mean")) == 1.0


def test_clipped_terms_have_no_gradient_and_are_counted():
    logprobs = torch.zeros(4, 1, dtype=F, requires_grad=True)
    old = torch.tensor([[-0.5], [-0.5], [0.5], [0.5]], dtype=F)  # ratios 1.65, 1.65, .61, .61
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=F)
    losses = group_loss(logprobs, old, advantages, torch.ones(4, 1, dtype=torch.bool))
    losses["total_loss"].backward()
    assert (logprobs.grad[:, 0] != 0).tolist() == [False, True, False, True]
    assert float(losses["clip_high_fraction"]) == float(losses["clip_low_fraction"]) == 0.25


def test_the_kl_estimate_is_that_of_deepseekmath():
    assert kl_estimate(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -1.5])).tolist() == pytest.approx(
        [0.0, torch.exp(torch.tensor(-0.5)).item() + 0.5 - 1]
    )
