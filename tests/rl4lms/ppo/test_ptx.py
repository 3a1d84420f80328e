"""PPO-ptx against its definition, and the KL of what is evaluated."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from instructgpt_runs import everything, pretraining
from on_policy_jobs import checkpoint, job, rows, start
from on_policy_runs import (
    KINDS,
    actors_of,
    algorithm,
    changed,
    collect,
    random_batch,
    random_rows,
    rollouts_of,
    tiny_policy,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.collect import measure_kl
from rl4lms.ppo.ptx import LOGGED_PTX, add_pretraining_gradient
from rl4lms.ppo.update import estimate_advantages, minibatch_losses
from rl4lms.pretraining import Example

pytestmark = pytest.mark.usefixtures("no_plots_and_no_fsync")
kinds = pytest.mark.parametrize("kind", KINDS)
models = pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_t5"])


# PPO-ptx


def examples_of(kind: str, seed: int = 3) -> list[Example]:
    sources = [[7]] * 5 if kind == "gpt2" else random_rows([4, 2, 6, 3, 5], seed)
    return [
        Example(source, target)
        for source, target in zip(sources, random_rows([6, 3, 1, 8, 4], seed + 1), strict=True)
    ]


def lm_loss(model: Any, examples: list[Example]) -> Tensor:
    """The mean over all target tokens, an example a pass of the plain model."""
    losses = []
    for example in examples:
        target = torch.tensor(example.target)
        if model.config.is_encoder_decoder:
            logits = model(input_ids=torch.tensor([example.source]), labels=target[None]).logits[0]
        else:
            ids = torch.tensor([example.source + example.target])
            logits = model(input_ids=ids).logits[0, len(example.source) - 1 : -1]
        losses.append(cross_entropy(logits, target, reduction="sum"))
    return torch.stack(losses).sum() / sum(len(example.target) for example in examples)


def flat(gradients: Any) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def ppo_gradient(policy: PolicyModel) -> list[Tensor]:
    """Of a minibatch, left in the weights too."""
    rollouts = rollouts_of(policy, random_batch(), [1, -0.5, 0.3, 2, -1])
    advantages, returns = estimate_advantages(rollouts, 1.0, 0.95)
    policy.model.load_state_dict(changed(policy.model, 0.02, seed=6).state_dict())
    batch = torch.arange(len(rollouts.rows))
    minibatch_losses(policy, rollouts, batch, advantages, returns, algorithm(), world=World())
    return [weight.grad.clone() for weight in policy.parameters()]


@pytest.mark.parametrize("at_a_time", [2**25, 1], ids=["in one pass", "in many"])
@kinds
def test_the_gradient_is_ppos_plus_coeff_times_that_of_pretraining(kind, at_a_time, monkeypatch):
    monkeypatch.setattr("rl4lms.pretraining._LOGITS_AT_A_TIME", at_a_time)
    policy, examples = tiny_policy(kind), examples_of(kind)
    ppo = ppo_gradient(policy)
    other = copy.deepcopy(policy.model)
    expected = lm_loss(other, examples)
    lm = [27.8 * g for g in torch.autograd.grad(expected, list(other.parameters()))]
    statistics = add_pretraining_gradient(policy.model, examples, 27.8, world=World())
    found = [weight.grad for weight in policy.parameters()]
    number = len(lm)
    assert flat(lm).norm() > 0.1 * flat(ppo[:number]).norm() > 0
    summed = flat(ppo[:number]) + flat(lm)
    assert (flat(found[:number]) - summed).norm() <= 1e-6 * summed.norm()
    assert all(torch.equal(a, b) for a, b in zip(found[number:], ppo[number:], strict=True)), "values'"
    p, q = flat(ppo[:number]), flat(lm)
    by_hand = {
        "ptx_loss": expected,
        "ptx_grad_norm": q.norm(),
        "policy_grad_norm": p.norm(),
        "ptx_cosine": p @ q / (p.norm() * q.norm()),
        "policy_share": p @ (p + q) / (p + q).square().sum(),
    }
    assert statistics.keys() == by_hand.keys() == LOGGED_PTX.keys()
    for name, value in by_hand.items():
        assert statistics[name].item() == pytest.approx(value.item(), rel=1e-4), name


@models
def test_a_coefficient_of_0_is_ppo_bit_for_bit(model, tmp_path, request):
    folder = request.getfixturevalue(model)
    changes = everything(tmp_path, folder) | {"train_evaluation__n_iters": 2}
    block = pretraining(tmp_path, folder, coeff=0.0, examples_per_episode=2)
    with_text = start(tmp_path, job(tmp_path, folder, **(changes | {"alg__pretraining": block})))
    without = start(tmp_path, job(tmp_path, folder, **(changes | {"alg__pretraining": None})))
    assert_close(checkpoint(with_text), checkpoint(without), rtol=0, atol=0)
    logged = rows(with_text, "training_info")[-1]
    assert logged["ppo/ptx_grad_norm"] == 0 and 1 < logged["ppo/ptx_loss"] < 10
    assert logged["ppo/policy_grad_share"] == 1 and logged["ppo/policy_grad_norm"] > 0


@models
def test_pretraining_text_is_kept(model, tmp_path, request):
    """With a large coefficient its loss falls, and the log says so."""
    folder = request.getfixturevalue(model)
    changes = everything(tmp_path, folder) | {"alg__args__warmup_iterations": 0}
    run = start(tmp_path, job(tmp_path, folder, train_evaluation__n_iters=6, **changes))
    logged = rows(run, "training_info")
    assert logged[-1]["ppo/ptx_loss"] < logged[0]["ppo/ptx_loss"] - 0.3
    for row in logged:
        assert math.isfinite(row["ppo/ptx_cosine"]) and abs(row["ppo/ptx_cosine"]) <= 1
        assert row["ppo/updates"] == 3 and row["ppo/ptx_grad_norm"] > row["ppo/policy_grad_norm"] > 0


# The KL of what is evaluated


@models
def test_the_kl_of_the_reference_is_0_and_of_another_model_that_of_its_texts(model, request):
    actors = actors_of(
        request.getfixturevalue(model), lambda batch: [0.0] * len(batch), n_steps=None, episodes=4
    )
    samples = list(actors.train)
    same = measure_kl(actors, actors.reference.model, samples, World())
    assert same == {"kl/episode": pytest.approx(0, abs=1e-5), "kl/episode_root": pytest.approx(0, abs=1e-2)}
    near = PolicyModel(changed(actors.reference.model, 1e-3, seed=5)).model
    assert measure_kl(actors, near, samples, World())["kl/episode"] > 0
    found = measure_kl(actors, actors.policy.model, samples * 4, World())
    assert found["kl/episode"] > 1e-3 and found["kl/episode_root"] == found["kl/episode"] ** 0.5
    assert measure_kl(actors, actors.policy.model, samples * 4, World()) == found
    # Rollouts of the same policy, on the same prompts, have about the same.
    expected = [collect(actors, i, 0.1, 5.0).statistics()["rollout_info/ep_kl"] for i in range(1, 30)]
    assert found["kl/episode"] == pytest.approx(sum(expected) / len(expected), rel=0.5)


def test_evaluations_on_val_measure_it_where_it_is_of_use(tmp_path, tiny_gpt2):
    metrics = [{"id": "on_policy_jobs:length"}]
    changes: dict[str, Any] = {"train_evaluation__n_iters": 1, "train_evaluation__metrics": metrics}
    plain = start(tmp_path / "plain", job(tmp_path, tiny_gpt2, **changes))
    assert [row["metrics"].keys() for row in rows(plain, "val_split_metrics")] == [{"letters"}] * 2
    averaged = start(tmp_path / "ema", job(tmp_path, tiny_gpt2, **changes, alg__args__ema_decay=0.5))
    first, last = (row["metrics"] for row in rows(averaged, "val_split_metrics"))
    assert first["kl/episode"] == pytest.approx(0, abs=1e-5)
    assert last.keys() == {"letters", "kl/episode", "kl/episode_root"} and last["kl/episode"] != 0
    assert rows(averaged, "test_split_metrics")[-1]["metrics"].keys() == {"letters"}


def test_rollouts_log_the_kl_of_a_text_and_its_root(tmp_path, tiny_gpt2):
    run = start(
        tmp_path, job(tmp_path, tiny_gpt2, train_evaluation__n_iters=2, alg__args__learning_rate=3e-3)
    )
    row = rows(run, "rollout_info")[-1]
    assert row["rollout_info/ep_kl"] == pytest.approx(-row["rollout_info/ep_kl_rew"] / 0.01, rel=1e-4)
    assert row["rollout_info/ep_kl_root"] == pytest.approx(max(0.0, row["rollout_info/ep_kl"]) ** 0.5)


def test_a_checkpoint_without_an_average_is_as_it_was(tmp_path: Path, tiny_gpt2: Path) -> None:
    run = start(tmp_path, job(tmp_path, tiny_gpt2, train_evaluation__n_iters=1))
    assert "average" not in checkpoint(run)
