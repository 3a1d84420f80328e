"""The losses of the group algorithms: TRL's values on the same tensors, and what advantages must be."""

import math
from itertools import product
from statistics import mean, stdev

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from rft_diagnose.group_signal import group_std_mean
from rl4lms.config.group import DEFAULTS
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


def update_loss(logprobs, advantages, mask, args):
    """The loss of the first update on a rollout, with the default settings of an algorithm."""
    return group_loss(
        logprobs, logprobs.detach(), advantages, mask, ratio=args["ratio"], clip_low=args["clip_low"],
        clip_high=args["clip_high"], how=args["aggregate"], max_new_tokens=mask.shape[1],
    )["total_loss"]  # fmt: skip


@pytest.mark.parametrize("name", TRL)
def test_losses_are_those_of_trl(name):
    advantages, options, expected = TRL[name]
    loss = group_loss(LOGPROBS, OLD, advantages, MASK, ref_logprobs=REF, **options)["total_loss"]
    assert float(loss) == pytest.approx(expected, rel=0, abs=5.1e-11)  # all ten digits


def advantages_by_hand(baseline, scale):
    """Of the eight texts, from plain numbers."""
    every, advantages = REWARDS.flatten().tolist(), []
    for first in (0, 4):
        group = every[first : first + 4]
        for place, reward in enumerate(group):
            others = group[:place] + group[place + 1 :]
            advantage = reward - mean(others if baseline == "leave_one_out" else group)
            if scale != "none":
                advantage /= stdev(group if scale == "group_std" else every) + 1e-4
            advantages.append(advantage)
    return advantages


def loss_by_hand(
    advantages, ratio="token", clip_low=0.2, clip_high=0.2, how="sequence_mean", max_new_tokens=0, kl_coeff=0
):
    """Text by text and token by token, from plain numbers."""
    texts, tokens = [], 0
    for now, before, reference, mask, advantage in zip(
        LOGPROBS.tolist(), OLD.tolist(), REF.tolist(), MASK.tolist(), advantages, strict=True
    ):
        length = sum(mask)
        logs = [new - old for new, old in zip(now[:length], before[:length], strict=True)]
        ratios = {
            "token": [math.exp(log) for log in logs],
            "sequence": [math.exp(sum(logs) / length)],
            "product": [math.exp(sum(logs))],
        }[ratio]
        terms = [-min(r * advantage, min(max(r, 1 - clip_low), 1 + clip_high) * advantage) for r in ratios]
        if kl_coeff:
            kl = [math.exp(ref - new) - (ref - new) - 1 for new, ref in zip(now, reference, strict=True)]
            terms = [term + kl_coeff * k for term, k in zip(terms, kl[:length], strict=True)]
        texts.append(sum(terms) / (len(terms) if how == "sequence_mean" else 1))
        tokens += length
    return sum(texts) / {
        "sequence_mean": 8, "sequence": 8, "token_mean": tokens, "constant": 8 * max_new_tokens
    }[how]  # fmt: skip


@pytest.mark.parametrize("name", TRL)
def test_losses_are_the_formulas_by_hand(name):
    given, options, _ = TRL[name]
    baseline = "leave_one_out" if name == "rloo" else "group_mean"
    scale = {"dr_grpo": "none", "rloo": "none", "std of the batch": "batch_std"}.get(name, "group_std")
    advantages = advantages_by_hand(baseline, scale)
    assert given.tolist() == pytest.approx(advantages, rel=0, abs=1e-12)
    loss = group_loss(LOGPROBS, OLD, given, MASK, ref_logprobs=REF, **options)["total_loss"]
    assert float(loss) == pytest.approx(loss_by_hand(advantages, **options), rel=0, abs=1e-12)


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


def test_advantages_of_a_group_without_spread_are_exactly_zero():
    """0.1 seven times has a mean that is not 0.1."""
    rewards = torch.full((1, 7), 0.1, dtype=torch.float32)
    for baseline in ("group_mean", "leave_one_out"):
        for scale in ("group_std", "none"):
            assert group_advantages(rewards, baseline, scale, 1e-9).tolist() == [[0.0] * 7]
    assert has_spread(REWARDS).tolist() == [True, False]


def test_equal_returns_are_whitened_to_exactly_zero():
    """Their mean is off by rounding, and so is their std of 0."""
    for tokens in (7, 20, 57):
        values, mask = torch.full((1, tokens), 0.7), torch.ones(1, tokens, dtype=torch.bool)
        assert float((values - values.mean()).abs().max()) > 0
        assert whiten(values, mask).tolist() == [[0.0] * tokens]


@pytest.mark.parametrize(
    ("alg", "factor"), [("grpo", 1), ("gspo", 1), ("dapo", 1), ("rloo", 0.01), ("dr_grpo", 0.01)]
)
def test_affine_rewards_change_rloo_s_scale_and_not_grpo(alg, factor):
    """Without epsilon: the gradient in the log-probabilities."""
    args = DEFAULTS[alg][0]

    def gradient(rewards):
        logprobs = LOGPROBS.clone().requires_grad_()
        advantages = group_advantages(rewards, args["baseline"], args["scale"], 0.0).flatten()
        loss = update_loss(logprobs, advantages, MASK, args)
        return torch.autograd.grad(loss, logprobs)[0]

    assert_close(gradient(3 + 0.01 * REWARDS), factor * gradient(REWARDS), rtol=1e-9, atol=1e-15)


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


# Two prompts whose texts of one token succeed with p .5 (live) and .001 (dead)

LIVE, DEAD = 0.5, 0.001


def groups_of(p, size):
    """A log odds with that p, and every number of successes in a group: probability, rewards, logprobs."""
    margin = torch.tensor(math.log(p / (1 - p)), dtype=F, requires_grad=True)
    groups = []
    for successes in range(size + 1):
        rewards = (torch.arange(size) < successes).to(F)
        logprobs = torch.where(rewards > 0, logsigmoid(margin), logsigmoid(-margin))[:, None]
        groups.append(
            (math.comb(size, successes) * p**successes * (1 - p) ** (size - successes), rewards, logprobs)
        )
    return margin, groups


def expected_weight(alg, p, size):
    """What stands before grad log(p / (1 - p)) in the expected gradient, and P(spread)."""
    args, (margin, groups) = DEFAULTS[alg][0], groups_of(p, size)
    total, spread = 0.0, 0.0
    for probability, rewards, logprobs in groups:
        if args.get("dynamic_sampling", {}).get("enabled") and not has_spread(rewards[None])[0]:
            continue
        spread += probability * float(has_spread(rewards[None])[0])
        advantages = group_advantages(rewards[None], args["baseline"], args["scale"], 0.0)[0]
        loss = update_loss(logprobs, advantages, torch.ones(size, 1, dtype=torch.bool), args)
        total -= probability * float(torch.autograd.grad(loss, margin, retain_graph=True)[0])
    return total, spread


SHARES = {("rloo", 8): 0.004, ("dr_grpo", 8): 0.004, ("rloo", 64): 0.004}
SHARES |= {(alg, size): share for alg in ("grpo", "gspo") for size, share in ((8, 0.0057), (64, 0.0155))}


@pytest.mark.parametrize(("alg", "size"), SHARES)
def test_the_share_of_a_dead_prompt(alg, size):
    live, dead = (expected_weight(alg, p, size)[0] for p in (LIVE, DEAD))
    assert dead / (live + dead) == pytest.approx(SHARES[alg, size], rel=0.01)
    if alg in ("grpo", "gspo"):
        theory = group_std_mean([LIVE, DEAD], size) * math.sqrt((size - 1) / size)
        assert [live, dead] == pytest.approx(theory.tolist(), rel=1e-9)


@pytest.mark.parametrize(("size", "generated"), [(8, 125), (64, 16)])
def test_the_share_of_a_dead_prompt_among_kept_groups_is_that_of_grpo(size, generated):
    """A kept group's gradient is longer by 1 / P(spread), and a batch has as many fewer of them."""
    (live, live_spread), (dead, dead_spread) = (expected_weight("dapo", p, size) for p in (LIVE, DEAD))
    assert 1 / dead_spread == pytest.approx(generated, rel=0.03)
    kept = dead_spread / (live_spread + dead_spread)
    by_share = [(1 - kept) * live / live_spread, kept * dead / dead_spread]
    assert by_share[1] / sum(by_share) == pytest.approx(SHARES["grpo", size], rel=0.01)


@pytest.mark.parametrize("alg", ["std of the batch", "reinforce_pp"])
def test_the_std_of_a_mixed_batch_leaves_the_dead_prompt_s_share(alg):
    """One factor for both prompts: RLOO's share, up to what a success of the dead one adds to that std."""
    size, mask = 32, torch.ones(64, 1, dtype=torch.bool)
    args = DEFAULTS["reinforce_pp"][0]
    (live, live_groups), (dead, dead_groups) = groups_of(LIVE, size), groups_of(DEAD, size)
    total = torch.zeros(2, dtype=F)
    for (p, rewards, logprobs), (q, dead_rewards, dead_logprobs) in product(live_groups, dead_groups[:5]):
        both = torch.stack([rewards, dead_rewards])
        scale = "none" if alg == "reinforce_pp" else "batch_std"
        advantages = group_advantages(both, "group_mean", scale, 0.0).flatten()
        if alg == "reinforce_pp":
            advantages = whiten(returns_to_go(advantages, torch.zeros(64, 1, dtype=F), mask), mask)
        loss = update_loss(torch.cat([logprobs, dead_logprobs]), advantages, mask, args)
        total -= p * q * torch.stack(torch.autograd.grad(loss, (live, dead), retain_graph=True))
    assert float(total[1] / total.sum()) == pytest.approx(0.004, rel=0.07)
