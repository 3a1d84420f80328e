"""Groups of labels: the exact gradient against autograd, enumeration and the mean of sampled groups."""

import math

import pytest
import torch
from controlled_setting import make_config, make_data

from rft_diagnose import group_signal
from sft_vs_rft.config import tracked_metrics
from sft_vs_rft.gradients import Targets, batch_gradient, global_norm, losses, sample_labels, tracked_values
from sft_vs_rft.group import (
    expected_group_surrogate,
    group_advantages,
    group_objective,
    group_std,
    log_odds,
    sampled_group_surrogate,
)
from sft_vs_rft.models import build_model
from sft_vs_rft.objectives import expected_reward, kl_divergence, rewards_of_labels
from sft_vs_rft.plan import Experiment
from sft_vs_rft.schedule import identify
from sft_vs_rft.train import epoch_uniforms, train, train_targets

B, C = 6, 5
SIZES = [2, 3, 8, 64, 0]


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(B, C, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 0])


def exact_gradient(logits, labels, group_size, unbiased=False):
    surrogate = expected_group_surrogate(logits.log_softmax(-1), labels, group_size, unbiased)
    return torch.autograd.grad(surrogate.sum(), logits)[0]


def objective_of_p(p, group_size):
    """F_G by its sum over tails, differentiable, from p itself."""
    if group_size == 0:
        return 2 * p.sqrt().asin()
    total = torch.zeros_like(p)
    for k in range(1, group_size):
        tail = sum(
            math.comb(group_size - 1, j) * p**j * (1 - p) ** (group_size - 1 - j)
            for j in range(k, group_size)
        )
        total = total + tail / math.sqrt(k * (group_size - k))
    return total


@pytest.mark.parametrize("group_size", SIZES)
def test_the_exact_gradient_is_that_of_what_grpo_maximises(logits, labels, group_size):
    p = logits.softmax(-1)[range(B), labels]
    (expected,) = torch.autograd.grad(objective_of_p(p, group_size).sum(), logits)
    torch.testing.assert_close(exact_gradient(logits, labels, group_size), expected, atol=1e-12, rtol=0)
    margin = log_odds(logits.log_softmax(-1), labels)
    torch.testing.assert_close(group_objective(margin, group_size), objective_of_p(p, group_size))
    torch.testing.assert_close(
        group_std(margin, group_size), torch.tensor(group_signal.group_std_mean(p.tolist(), group_size))
    )


@pytest.mark.parametrize("wrong", [-1.0, 0.5])
@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_the_exact_gradient_is_that_of_the_enumerated_advantages(logits, labels, group_size, wrong):
    """Whatever a wrong label pays: normalised rewards are the same."""
    p = logits.softmax(-1).detach()
    rewards = rewards_of_labels(labels, torch.full((B,), wrong), C)
    gradient = exact_gradient(logits, labels, group_size, unbiased=True)
    for i in range(B):
        a = group_signal.expected_advantages(rewards[i].tolist(), p[i].tolist(), group_size)
        a = torch.tensor(a)
        torch.testing.assert_close(gradient[i], p[i] * (a - p[i] @ a), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("group_size", "factor"), [(2, 0.5), (3, math.sqrt(0.5))])
def test_groups_of_two_and_three_are_reinforce_times_a_constant(logits, labels, group_size, factor):
    """REINFORCE's rewards are +1 and -1, so that its gradient is 2 grad p."""
    rewards = rewards_of_labels(labels, torch.full((B,), -1.0), C).double()
    value = expected_reward(logits.softmax(-1), rewards)
    (reinforce,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(exact_gradient(logits, labels, group_size), factor * reinforce)


def test_solved_and_hopeless_inputs_keep_their_digits_in_float32():
    """1 - p rounds to 0 from a log odds of 17 on; the gradient's norm is D_G(p) |grad m| all the same."""
    for group_size in SIZES:
        for logit in (40.0, -40.0):
            logits = torch.zeros(1, C, requires_grad=True)
            start = torch.tensor([[logit] + [0.0] * (C - 1)])
            gradient = torch.autograd.grad(
                expected_group_surrogate(
                    (start + logits).log_softmax(-1), torch.tensor([0]), group_size, False
                ).sum(),
                logits,
            )[0]
            rare = math.exp(-40.0) * (C - 1) ** math.copysign(1, logit)
            expected = float(group_signal.group_std_mean(rare, group_size)) * math.sqrt(1 + 1 / (C - 1))
            assert float(gradient.norm()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("advantage", ["grpo", "rloo", "dr_grpo"])
@pytest.mark.parametrize("wrong", [-1.0, 0.5])
def test_the_mean_of_sampled_groups_is_the_exact_gradient(advantage, wrong):
    groups, group_size = 20_000, 4
    row, label = torch.tensor([[0.5, -1.0, 1.0, 0.0, 0.3]], dtype=torch.float64), torch.tensor([1])
    p = row.softmax(-1)[0]
    rewards = rewards_of_labels(label, torch.tensor([wrong]), C).double()
    a = group_signal.expected_advantages(rewards[0].tolist(), p.tolist(), group_size, advantage)
    a = torch.tensor(a)
    expected = p * (a - p @ a)

    many = row.repeat(groups, 1).requires_grad_()
    uniforms = torch.rand(groups, group_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logprobs = many.log_softmax(-1)
    sampled = sample_labels(logprobs, uniforms)
    surrogate = sampled_group_surrogate(logprobs, rewards.expand(groups, C), sampled, advantage, True)
    (grads,) = torch.autograd.grad(surrogate.sum(), many)
    error = grads.std(0) / math.sqrt(groups)
    assert ((grads.mean(0) - expected).abs() < 4 * error).all()
    assert expected.norm() > 20 * error.norm(), "a gradient of 0 would pass otherwise"


def test_advantages_by_hand_and_none_without_spread():
    rewards = torch.tensor([[1.0, -1.0, -1.0, -1.0], [0.1, 0.1, 0.1, 0.1]])
    assert group_advantages(rewards, "dr_grpo", True)[0].tolist() == [1.5, -0.5, -0.5, -0.5]
    assert group_advantages(rewards, "rloo", True)[0].tolist() == pytest.approx([2, -2 / 3, -2 / 3, -2 / 3])
    assert group_advantages(rewards, "grpo", True)[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    population = group_advantages(rewards, "grpo", False)[0]
    assert population.tolist() == pytest.approx([1.5 * math.sqrt(4 / 3)] + [-0.5 * math.sqrt(4 / 3)] * 3)
    for advantage in ("grpo", "rloo", "dr_grpo"):
        assert group_advantages(rewards, advantage, True)[1].tolist() == [0.0] * 4


def test_groups_are_drawn_per_input_and_epoch():
    config = make_config(opt_method="sampled_group", group_size=5)
    labels = torch.zeros(64, dtype=torch.long)
    uniforms = epoch_uniforms(config, 0, labels)
    assert uniforms is not None and uniforms.shape == (64, 5)
    again, later = epoch_uniforms(config, 0, labels), epoch_uniforms(config, 1, labels)
    assert torch.equal(uniforms, again) and not torch.equal(uniforms, later)
    assert epoch_uniforms(make_config(opt_method="expected_group"), 0, labels) is None
    logprobs = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    chosen = sample_labels(logprobs, torch.tensor([[0.1, 0.3, 0.9], [0.1, 0.3, 0.9]]))
    assert chosen.tolist() == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("method", ["expected_group", "sampled_group"])
def test_the_kl_stands_in_the_loss(method, labels):
    """As GRPO has it: the gradient is that without, minus c grad KL."""
    config = make_config(opt_method=method, group_size=4, kl_regularization_coeff=0.3)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(B, C, generator=generator).requires_grad_()
    reference = torch.randn(B, C, generator=generator).log_softmax(-1)
    rewards = rewards_of_labels(labels, torch.full((B,), -1.0), C)
    uniforms = torch.rand(B, 4, generator=generator) if method == "sampled_group" else None
    targets = Targets(labels, rewards, reference, uniforms)
    loss, values = losses(config, logits, targets, None)
    plain, plain_values = losses(
        config.model_copy(update={"kl_regularization_coeff": 0.0}), logits, targets, None
    )
    kl = kl_divergence(logits.log_softmax(-1), reference)
    torch.testing.assert_close(loss, plain + 0.3 * kl)
    torch.testing.assert_close(values.kl, kl.detach())
    torch.testing.assert_close(values.objective, plain_values.objective - 0.3 * kl.detach())
    assert plain_values.kl.eq(0).all()


@pytest.mark.parametrize(
    ("method", "size"), [("expected_group", 8), ("expected_group", 0), ("sampled_group", 8)]
)
def test_the_reward_stays_what_it_was_and_the_group_s_objective_is_tracked_beside_it(method, size):
    config = make_config(opt_method=method, group_size=size, group_std="unbiased")
    data = make_data()
    model = build_model(config, data)
    targets = train_targets(config, data, model, None)
    if method == "sampled_group":
        uniforms = epoch_uniforms(config, 0, targets.labels)
        targets = Targets(targets.labels, targets.rewards, None, uniforms)
    result = batch_gradient(model, model, data.train_inputs, targets, 10, config, None)
    values = tracked_values(config, targets, None, result, global_norm(list(model.parameters())))
    assert sorted(values) == sorted(tracked_metrics(config)[0])
    with torch.no_grad():
        p = model(data.train_inputs).softmax(-1)[range(64), targets.labels]
    correction = math.sqrt(1 - 1 / size) if size else 1.0
    torch.testing.assert_close(values["reward"], (2 * p - 1).mean())
    for suffix, part in (
        ("", slice(None)),
        (" small reward std", slice(10)),
        (" large reward std", slice(10, 64)),
    ):
        expected = correction * objective_of_p(p[part].double(), size).mean()
        torch.testing.assert_close(values["group objective" + suffix].double(), expected, rtol=1e-4, atol=0)
    only = make_config(opt_method="sampled_group", advantage="rloo")
    assert "group objective" not in tracked_metrics(only)[0]


@pytest.mark.parametrize("fields", [
    {"opt_method": "expected_group"},
    {"opt_method": "expected_group", "group_size": 0, "reward_type": "labels_with_custom"},
    {"opt_method": "sampled_group", "advantage": "rloo", "group_size": 16},
])  # fmt: skip
def test_training_raises_the_reward(fields):
    config = make_config(epochs=40, **fields)
    model = build_model(config, make_data())
    rows = train(config, make_data(), model).rows
    assert rows[-1]["train"]["reward"] > rows[0]["train"]["reward"] + 0.3


@pytest.mark.parametrize(("fields", "field", "message"), [
    ({"opt_method": "expected_group", "group_size": 1}, "group_size",
     "must be at least 2, or 0 for infinitely many, got 1"),
    ({"opt_method": "sampled_group", "group_size": 0}, "group_size",
     "a sampled group has at least 2 labels, got 0"),
    ({"opt_method": "expected_group", "advantage": "rloo"}, "advantage",
     "expected_group is the exact gradient of 'grpo', got 'rloo': that of 'rloo' is expected_reinforce's, "
     "that of 'dr_grpo' (1 - 1/G) times as long"),
])  # fmt: skip
def test_groups_that_cannot_be_are_refused(fields, field, message):
    problems = make_config(**fields).check()
    assert [(problem.path, problem.message) for problem in problems] == [(field, message)]
    assert make_config(**(fields | {"opt_method": "supervised"})).check() == []


def test_other_methods_are_the_same_run_whatever_their_groups():
    """So that runs of before there were groups are used as they are."""

    def key(**fields):
        return identify(Experiment("name", "setting", 0, make_config(**fields)))

    assert key(opt_method="supervised") == key(opt_method="supervised", group_size=64)
    assert key(opt_method="expected_group") != key(opt_method="expected_group", group_size=64)
