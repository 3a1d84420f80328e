"""PPO's rollout and update against what the released code computed from the same weights and actions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ppo_golden import GOLDEN, SCENARIOS, models, move_to_update, per_token, sequences
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close

from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import Sequences
from rl4lms.ppo.rollouts import Rollouts, Scores, fill_buffer, score_rollouts
from rl4lms.ppo.update import (
    KLController,
    estimate_advantages,
    normalize_advantages,
    ppo_loss,
    predict,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
scenarios = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


def scored(scenario: dict[str, Any], left: bool) -> tuple[Sequences, Scores]:
    policy, reference = models(scenario)
    batch = sequences(scenario, left)
    config = scenario["config"]
    found = score_rollouts(
        policy,
        reference,
        batch.prompt_ids,
        batch.prompt_mask,
        batch.response_ids,
        batch.response_mask,
        kl_coeff=config["kl_coeff"],
        temperature=config["temperature"],
    )
    return batch, found


def buffer_of(scenario: dict[str, Any]) -> Rollouts:
    """The rollouts that our code makes of the episodes."""
    batch, scores = scored(scenario, left=scenario["config"]["kind"] == "gpt2")
    mask = fill_buffer(batch.response_mask, scenario["config"]["buffer_size"])
    task_rewards = torch.tensor([episode["task_rewards"][-1] for episode in scenario["episodes"]])
    texts = [str(i) for i in range(len(mask))]
    return Rollouts.build(batch, mask, scores, task_rewards, torch.arange(len(mask)), texts)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@scenarios
def test_scores_of_every_token(scenario, left):
    batch, scores = scored(scenario, left)
    names = {
        "logprobs": scores.logprobs,
        "ref_logprobs": scores.ref_logprobs,
        "values": scores.values,
        "kl_rewards": scores.kl_rewards,
    }
    for name, found in names.items():
        assert_close(found[batch.response_mask], per_token(scenario, name), **TOLERANCE, msg=name)


@scenarios
def test_entropy_of_every_token(scenario):
    policy, _ = models(scenario)
    batch = sequences(scenario, left=True)
    given = (batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask)
    _, _, entropy = policy.logprobs(*given, scenario["config"]["temperature"])
    assert_close(entropy[batch.response_mask], per_token(scenario, "entropies"), **TOLERANCE)


@scenarios
def test_buffer(scenario):
    config, golden = scenario["config"], scenario["buffer"]
    rollouts = buffer_of(scenario)
    advantages, returns = estimate_advantages(rollouts, config["gamma"], config["gae_lambda"])
    actions = rollouts.sequences.response_ids[rollouts.rows, rollouts.columns]
    assert actions.tolist() == golden["actions"]
    assert (rollouts.columns == 0).tolist() == golden["episode_starts"]
    for name, found in {
        "rewards": rollouts.rewards,
        "values": rollouts.values,
        "advantages": advantages,
        "returns": returns,
    }.items():
        assert_close(found, torch.tensor(golden[name]), **TOLERANCE, msg=name)


@scenarios
def test_rollout_statistics(scenario):
    found = buffer_of(scenario).statistics() | {"rollout_info/kl_coeff": scenario["config"]["kl_coeff"]}
    for name, value in scenario["rollout_info"].items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


@scenarios
def test_update(scenario):
    """Three epochs over the whole buffer in order, from the weights before the update."""
    config, golden = scenario["config"], scenario["update"]
    rollouts = buffer_of(scenario)
    advantages, returns = estimate_advantages(rollouts, config["gamma"], config["gae_lambda"])
    policy, reference = models(scenario)
    move_to_update(policy, scenario)
    optimizer = build_optimizer(policy, config["lr"], config["weight_decay"])
    tokens = torch.arange(config["buffer_size"])
    for epoch in range(golden["epochs"]):
        logprobs, entropy, values = predict(policy, rollouts, tokens, config["temperature"])
        for name, found in {"values": values, "log_prob": logprobs, "entropy": entropy}.items():
            expected = torch.tensor(golden["evaluations"][epoch][name])
            assert_close(found, expected, **TOLERANCE, msg=f"{name} in epoch {epoch}")
        losses = ppo_loss(
            logprobs,
            rollouts.logprobs,
            normalize_advantages(advantages),
            values,
            returns,
            entropy,
            clip_range=config["clip_range"],
            ent_coef=config["ent_coef"],
            vf_coef=config["vf_coef"],
            estimate_entropy=config["enforce_token_entropy_reg_estimate"],
        )
        for name, value in golden["losses"][epoch].items():
            assert losses[name].item() == pytest.approx(value, rel=1e-5, abs=1e-5), (name, epoch)
        optimizer.zero_grad()
        losses["total_loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config["max_grad_norm"])
        assert norm.item() == pytest.approx(golden["grad_norm_before_clip"][epoch], rel=1e-5)
        optimizer.step()
    assert policy.value_model is not None and policy.value_head is not None
    modules = {
        "_policy_model": policy.model,
        "_value_model": policy.value_model,
        "_value_head": policy.value_head,
        "_ref_model": reference.model,
    }
    for name, module in modules.items():
        # One sum in single precision, as the golden norm is: it is off by 1e-5 itself.
        norm = parameters_to_vector(module.parameters()).norm().item()
        assert norm == pytest.approx(golden["final_norms"][name], rel=1e-6), name


@pytest.mark.parametrize("golden", GOLDEN["kl_controller"])
def test_kl_controller(golden):
    controller = KLController(golden["kl_coeff"], golden["target_kl"])
    found = [controller.coeff, *(controller.step(kl) for kl in golden["kl_inputs"])]
    assert found == pytest.approx(golden["coeffs"], rel=1e-5)


@scenarios
def test_kl_coefficient_after_the_rollout(scenario):
    controller = KLController(scenario["config"]["kl_coeff"], scenario["config"]["target_kl"])
    kl = buffer_of(scenario).statistics()["rollout_info/kl_div_mean"]
    assert controller.step(kl) == pytest.approx(scenario["kl_coeff_after_rollout"], rel=1e-5)
