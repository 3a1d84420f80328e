"""Group gradients and tracked values against one plain backward pass over each set of inputs."""

import pytest
import torch
from controlled_setting import C, make_config, make_data

from sft_vs_rft.config import tracked_metrics
from sft_vs_rft.gradients import Targets, batch_gradient, global_norm, losses, small_first, tracked_values
from sft_vs_rft.models import build_model
from sft_vs_rft.tracked import LARGE, SMALL
from sft_vs_rft.train import train_targets

KINDS = {"vectors": "mlp", "images": "resnet18", "text": "bert-mini"}
FAST_KINDS = ["vectors", "images", "text"]


def setting(kind, **fields):
    dataset = {"vectors": "digits", "images": "digits", "text": "docstring_pairs"}[kind]
    config = make_config(model_type=KINDS[kind], dataset=dataset, micro_batch_size=5, **fields)
    data = make_data(kind)
    model = build_model(config, data)
    index, num_small = small_first(torch.arange(24), data.modified)
    targets = train_targets(config, data, model, None)[index]
    model.train()
    return config, data, model, data.train_inputs[index], targets, num_small


def plain_gradient(model, inputs, targets, config, part):
    """Gradient of the mean loss over the inputs of `part`, from one forward pass over the whole batch."""
    loss, _ = losses(config, model(inputs), targets, None)
    return torch.autograd.grad(loss[part].mean(), list(model.parameters()))


@pytest.mark.parametrize("method", ["supervised", "expected_reinforce", "expected_group"])
@pytest.mark.parametrize("kind", FAST_KINDS)
def test_group_gradients_are_those_of_the_groups_and_sum_to_the_batch_gradient(kind, method):
    config, _, model, inputs, targets, num_small = setting(kind, opt_method=method)
    result = batch_gradient(model, model, inputs, targets, num_small, config, None)
    parts = {SMALL: slice(0, num_small), LARGE: slice(num_small, 24)}
    assert 0 < num_small < 24
    for suffix, part in parts.items():
        expected = plain_gradient(model, inputs, targets, config, part)
        _, gradient = result.groups[suffix]
        assert global_norm([a - b for a, b in zip(gradient, expected, strict=True)]) < 2e-5 * global_norm(
            expected
        )
    whole = plain_gradient(model, inputs, targets, config, slice(0, 24))
    assert global_norm([a - b for a, b in zip(result.gradient, whole, strict=True)]) < 2e-5 * global_norm(
        whole
    )


def test_batch_norm_statistics_are_updated_once_a_step_from_the_whole_batch():
    config, _, model, inputs, targets, num_small = setting("images")
    batch_gradient(model, model, inputs, targets, num_small, config, None)
    counts = {
        int(value) for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")
    }
    assert counts == {1}


def test_values_keep_the_order_of_the_batch_whatever_the_micro_batches():
    config, _, model, inputs, targets, num_small = setting("text")
    by_fives = batch_gradient(model, model, inputs, targets, num_small, config, None).values
    at_once = batch_gradient(
        model, model, inputs, targets, num_small, config.model_copy(update={"micro_batch_size": 24}), None
    ).values
    torch.testing.assert_close(by_fives.logprobs, at_once.logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_fives.objective, at_once.objective, atol=1e-5, rtol=1e-5)


def test_finite_differences_agree_with_the_expected_gradient():
    config, _, model, inputs, targets, num_small = setting("vectors")
    model.double()
    inputs, targets = inputs.double(), Targets(targets.labels, targets.rewards.double())
    result = batch_gradient(model, model, inputs, targets, num_small, config, None)
    weight, step = next(model.parameters()), 1e-4
    for i, j in [(0, 0), (3, 5), (15, 11)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[i, j] += sign * step
            logprobs = torch.log_softmax(model(inputs), -1)
            p_right = logprobs.exp()[range(24), targets.labels]
            values.append((2 * p_right - 1).mean().item())
            with torch.no_grad():
                weight[i, j] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(-result.gradient[0][i, j].item() - slope) < 1e-6  # the log-softmax is in float32


def test_tracked_names_and_values_by_hand():
    config, _, model, inputs, targets, num_small = setting("vectors", logits_temperature=2.0)
    result = batch_gradient(model, model, inputs, targets, num_small, config, None)
    values = tracked_values(config, targets, None, result, global_norm(list(model.parameters())))
    assert sorted(values) == sorted(tracked_metrics(config)[0])
    with torch.no_grad():
        p = torch.softmax(model(inputs) / 2, -1)
    right = p[range(24), targets.labels]
    small, large = slice(0, num_small), slice(num_small, 24)
    by_hand = {
        "reward": 2 * right - 1,
        "train loss": -right.log(),
        "train accuracy": (p.argmax(-1) == targets.labels).float(),
    }
    for name, value in by_hand.items():
        torch.testing.assert_close(values[name], value.mean())
    std = 2 * (right * (1 - right)).sqrt()
    for suffix, part in {SMALL: small, LARGE: large}.items():
        torch.testing.assert_close(values["avg reward std" + suffix], std[part].mean())
        torch.testing.assert_close(values["reward" + suffix], (2 * right - 1)[part].mean())
        torch.testing.assert_close(values["reg objective" + suffix], (2 * right - 1)[part].mean())
    norm = torch.cat([p.flatten() for p in model.parameters()]).norm()
    torch.testing.assert_close(values["params_norm"], norm)
    torch.testing.assert_close(values["normalized grad norm"], values["grad norm"] / norm)


def test_a_batch_without_modified_inputs_has_no_small_group():
    config, data, model, *_ = setting("vectors")
    index = (~data.modified).nonzero().squeeze(1)[:8]
    targets = train_targets(config, data, model, None)[index]
    result = batch_gradient(model, model, data.train_inputs[index], targets, 0, config, None)
    values = tracked_values(config, targets, None, result, torch.tensor(1.0))
    assert not any(name.endswith(SMALL) for name in values)
    assert any(name.endswith(LARGE) for name in values)


def test_label_sets_track_no_accuracy_and_no_reward():
    config = make_config(
        use_multiple_labels_per_sample=True, opt_method="supervised", frac_samples_to_modify_labels=0.0
    )
    data = make_data()
    model = build_model(config, data)
    targets = train_targets(config, data, model, None)
    result = batch_gradient(model, model, data.train_inputs, targets, 0, config, data.label_sets)
    values = tracked_values(config, targets, data.label_sets, result, torch.tensor(1.0))
    assert sorted(values) == sorted(tracked_metrics(config)[0])
    logprobs = torch.log_softmax(model(data.train_inputs), -1)
    expected = -logprobs.gather(1, data.label_sets[data.train_labels]).mean()
    torch.testing.assert_close(values["train loss"], expected)
    assert data.label_sets.shape == (C, 2)


def test_small_first_keeps_the_order_within_groups():
    modified = torch.tensor([True, False, True, False, True])
    index, num_small = small_first(torch.tensor([4, 1, 0, 3, 2]), modified)
    assert index.tolist() == [4, 0, 2, 1, 3] and num_small == 3
