"""Objectives against closed forms, autograd, enumeration and the mean of sampled gradients."""

import math

import pytest
import torch

from sft_vs_rft.gradients import sample_labels
from sft_vs_rft.objectives import (
    cross_entropy,
    expected_reward,
    kl_divergence,
    regularised_objective,
    reward_std,
    rewards_of_labels,
    wrong_rewards,
)

B, C = 6, 5


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(B, C, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 0])


def objective(method, logits, labels, *, kl=0.0, ref=None, sampled=None, sets=None, wrong=-1.0):
    rewards = rewards_of_labels(labels, torch.full((len(labels),), wrong, dtype=logits.dtype), C)
    return regularised_objective(method, logits.log_softmax(-1), rewards, labels, sets, kl, ref, sampled)


def test_expected_reinforce_gradient_is_p_times_r_minus_v(logits, labels):
    loss, _, _ = objective("expected_reinforce", logits, labels)
    (grad,) = torch.autograd.grad(-loss.sum(), logits)
    p = logits.softmax(-1)
    r = torch.full((B, C), -1.0, dtype=torch.float64)
    r[range(B), labels] = 1.0
    v = (p * r).sum(-1, keepdim=True)
    torch.testing.assert_close(grad, p * (r - v), atol=1e-6, rtol=0)


def test_expected_reinforce_gradient_is_the_mean_of_sampled_reinforce_gradients(labels):
    n, label = 100_000, labels[:1]
    row = torch.tensor([[0.5, -1.0, 1.0, 0.0, 0.3]], dtype=torch.float64)
    exact_logits = row.clone().requires_grad_()
    (exact,) = torch.autograd.grad(
        objective("expected_reinforce", exact_logits, label)[0].sum(), exact_logits
    )

    many = row.repeat(n, 1).requires_grad_()
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampled = sample_labels(many.log_softmax(-1), uniforms)
    (grads,) = torch.autograd.grad(
        objective("reinforce", many, label.repeat(n), sampled=sampled)[0].sum(), many
    )
    error = grads.std(0) / math.sqrt(n)
    assert ((grads.mean(0) - exact[0]).abs() < 5 * error + 1e-12).all()


def test_sampled_reinforce_with_kl_estimates_the_gradient_of_reward_minus_kl(labels):
    n, label, coeff = 200_000, labels[1:2], 0.3
    row = torch.tensor([[0.5, -1.0, 1.0, 0.0, 0.3]], dtype=torch.float64)
    ref = torch.tensor([[0.1, 0.4, -0.2, 0.0, 1.0]], dtype=torch.float64).log_softmax(-1)
    exact_logits = row.clone().requires_grad_()
    loss, value, kl = objective("expected_reinforce", exact_logits, label, kl=coeff, ref=ref)
    (exact,) = torch.autograd.grad(loss.sum(), exact_logits)

    many = row.repeat(n, 1).requires_grad_()
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampled = sample_labels(many.log_softmax(-1), uniforms)
    sampled_loss, sampled_value, sampled_kl = objective(
        "reinforce", many, label.repeat(n), kl=coeff, ref=ref.expand(n, C), sampled=sampled
    )
    (grads,) = torch.autograd.grad(sampled_loss.sum(), many)
    assert ((grads.mean(0) - exact[0]).abs() < 5 * grads.std(0) / math.sqrt(n)).all()
    assert abs(sampled_value.mean() - value) < 5 * sampled_value.std() / math.sqrt(n)
    assert abs(sampled_kl.mean() - kl) < 5 * sampled_kl.std() / math.sqrt(n)


def test_sampled_labels_follow_the_distribution():
    n, p = 100_000, torch.tensor([0.0, 0.5, 0.2, 0.3, 0.0])
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(3))
    counts = sample_labels(p.log().expand(n, C), uniforms).bincount(minlength=C) / n
    assert counts[0] == 0 and counts[4] == 0
    assert (counts - p).abs().max() < 5 * 0.5 / math.sqrt(n)


def test_sampled_label_is_valid_at_the_end_of_the_unit_interval():
    p = torch.full((1, C), 1 / C)
    assert sample_labels(p.log(), torch.tensor([1 - 2**-24])).item() == C - 1
    assert sample_labels(p.log(), torch.tensor([0.0])).item() == 0


def test_reward_std_is_the_closed_form_and_does_not_cancel():
    p_right = torch.tensor([0.5, 0.1, 1e-6, 1e-12, 0.0], dtype=torch.float64)
    probs = torch.stack([p_right, 1 - p_right], 1)
    rewards = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    std = reward_std(probs, rewards)
    torch.testing.assert_close(std, 2 * (p_right * (1 - p_right)).sqrt(), rtol=1e-12, atol=0)


def test_reward_std_matches_enumeration():
    probs = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    rewards = torch.tensor([[0.5, -1.0, 0.25]], dtype=torch.float64)
    outcomes = torch.tensor([0.5] * 2 + [-1.0] * 3 + [0.25] * 5, dtype=torch.float64)
    torch.testing.assert_close(reward_std(probs, rewards)[0], outcomes.std(correction=0))
    torch.testing.assert_close(expected_reward(probs, rewards)[0], outcomes.mean())


def test_label_set_loss_is_the_mean_over_the_set_and_is_least_at_the_uniform_over_it(logits, labels):
    sets = torch.tensor([[0, 1], [1, 3], [2, 0], [3, 4], [4, 2]])
    logprobs = logits.log_softmax(-1)
    by_hand = torch.stack([-(logprobs[i, sets[c]]).mean() for i, c in enumerate(labels)])
    torch.testing.assert_close(cross_entropy(logprobs, labels, sets), by_hand)
    uniform = torch.full((1, C), -1e9)
    uniform[0, sets[0]] = 0
    best = cross_entropy(uniform.log_softmax(-1), torch.tensor([0]), sets)
    torch.testing.assert_close(best, torch.tensor([math.log(2)]))
    assert (cross_entropy(logprobs, labels, sets) > math.log(2)).all()


def test_cross_entropy_is_torchs(logits, labels):
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits.log_softmax(-1), labels), expected)


def test_kl_is_zero_at_the_reference_and_log_c_minus_entropy_at_uniform(logits):
    logprobs = logits.log_softmax(-1)
    uniform = torch.full_like(logprobs, -math.log(C))
    torch.testing.assert_close(kl_divergence(logprobs, logprobs), torch.zeros(B, dtype=torch.float64))
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    torch.testing.assert_close(kl_divergence(logprobs, uniform), math.log(C) - entropy)


def test_signs_of_the_regularised_objective(logits, labels):
    ref = torch.full((B, C), -math.log(C), dtype=torch.float64)
    loss, value, kl = objective("supervised", logits, labels, kl=0.1, ref=ref)
    torch.testing.assert_close(value, cross_entropy(logits.log_softmax(-1), labels) + 0.1 * kl)
    torch.testing.assert_close(loss, value)
    loss, value, kl = objective("expected_reinforce", logits, labels, kl=0.1, ref=ref)
    p = logits.softmax(-1)[range(B), labels]
    torch.testing.assert_close(value, 2 * p - 1 - 0.1 * kl)
    torch.testing.assert_close(loss, -value)


def test_custom_reward_pays_half_for_a_wrong_label_on_modified_inputs_only():
    modified = torch.tensor([True, False])
    assert wrong_rewards(modified, "labels", -1.0).tolist() == [-1.0, -1.0]
    assert wrong_rewards(modified, "labels_with_custom", -1.0).tolist() == [0.5, -1.0]
    rewards = rewards_of_labels(torch.tensor([0, 1]), wrong_rewards(modified, "labels_with_custom", -0.5), 3)
    assert rewards.tolist() == [[1.0, 0.5, 0.5], [-0.5, 1.0, -0.5]]


def test_a_constant_reward_has_no_gradient(logits, labels):
    loss, _, _ = objective("expected_reinforce", logits, labels, wrong=1.0)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.abs().max() < 1e-15
