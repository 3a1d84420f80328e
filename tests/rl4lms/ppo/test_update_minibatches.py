"""The update of PPO: minibatches from their unique sequences against one row per token; when it stops."""

import copy
import logging
import math
from typing import Any

import pytest
import torch
from on_policy_runs import (
    KINDS,
    algorithm,
    changed,
    next_step,
    random_batch,
    rollouts_of,
    rows_of,
    tiny_policy,
    update,
)
from torch import Tensor
from torch.testing import assert_close

from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.mask import MaskModel, MaskRule
from rl4lms.ppo.rollouts import Rollouts
from rl4lms.ppo.update import (
    estimate_advantages,
    minibatches,
    ppo_loss,
    predict,
)
from rl4lms.record import NonFiniteError

REWARDS = [1.0, -0.5, 0.3, 2.0, -1.0]
kinds = pytest.mark.parametrize("kind", KINDS)


def made(
    kind: str, nlpo: bool = False, temperature: float = 1.0, tokens: int = 17
) -> tuple[PolicyModel, Rollouts]:
    """A policy that has moved since it made its rollouts; 17 of 18 tokens, so that one is cut."""
    policy = tiny_policy(kind)
    mask_model = None
    if nlpo:
        mask_model = MaskModel(changed(policy.model, seed=5), MaskRule("learned_top_p", 0.7, 2, (0, 1)))
    batch = random_batch(side="left" if kind == "gpt2" else "right")
    rollouts = rollouts_of(policy, batch, REWARDS, tokens, temperature=temperature, mask_model=mask_model)
    policy.model = changed(policy.model, 0.02, seed=6)
    return policy, rollouts


def one_row_per_token(
    policy: PolicyModel, rollouts: Rollouts, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and values of tokens, each from a forward pass over its own prefix."""
    rows = rows_of(rollouts.sequences)
    found: tuple[list[Tensor], ...] = ([], [], [])
    for token in tokens.tolist():
        prompt, response = rows[rollouts.rows[token]]
        column = int(rollouts.columns[token])
        logits, _ = next_step(policy.model, prompt, response[:column])
        allowed = torch.arange(len(logits))
        if rollouts.allowed is not None:
            allowed = rollouts.allowed.masks()[token].nonzero()[:, 0]
        probabilities = (logits[allowed] / temperature).softmax(0)
        found[0].append(probabilities[allowed == response[column]].log()[0])
        found[1].append(-(probabilities * probabilities.log()).sum())
        _, state = next_step(policy.value_model, prompt, response[:column])
        found[2].append(policy.value_head.weight[0] @ state)
    return tuple(torch.stack(values) for values in found)


def naive_loss(
    predicted: tuple[Tensor, Tensor, Tensor],
    old: Tensor,
    advantages: Tensor,
    returns: Tensor,
    plain: bool = False,
) -> Tensor:
    """PPO's loss with an entropy bonus of 0.05, from its definition; plain: A2C's."""
    logprobs, entropy, values = predicted
    ratio = (logprobs - old).exp()
    surrogate = torch.stack([ratio * advantages, ratio.clip(0.8, 1.2) * advantages]).amin(0)
    if plain:
        surrogate = logprobs * advantages
    return -surrogate.mean() + 0.5 * ((returns - values) ** 2).mean() - 0.05 * entropy.mean()


def gradients(policy: PolicyModel, loss: Tensor) -> list[Tensor]:
    policy.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in policy.parameters()]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Relative to the largest of all."""
    flat, other = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, expected))
    return ((flat - other).norm() / other.norm()).item()


@pytest.mark.parametrize("many", [1, 99], ids=["packed", "padded"])
@pytest.mark.parametrize("nlpo", [False, True], ids=["ppo", "nlpo"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@kinds
def test_unique_sequences_give_the_gradient_of_one_row_per_token(kind, temperature, nlpo, many, monkeypatch):
    monkeypatch.setattr("rl4lms.model.forward._MANY_SEQUENCES", many)
    policy, rollouts = made(kind, nlpo, temperature)
    advantages, returns = estimate_advantages(rollouts, 0.99, 0.95)
    for tokens in (torch.randperm(17), torch.tensor([16, 3, 4, 9, 0]), torch.tensor([2])):
        naive = one_row_per_token(policy, rollouts, tokens, temperature)
        found = predict(policy, rollouts, tokens, temperature)
        assert_close(found, naive, rtol=2e-5, atol=2e-5)
        given = (rollouts.logprobs[tokens], advantages[tokens], returns[tokens])
        expected = gradients(policy, naive_loss(naive, *given))
        logprobs, entropy, values = predict(policy, rollouts, tokens, temperature)
        loss = ppo_loss(logprobs, *given[:2], values, given[2], entropy, ent_coef=0.05)["total_loss"]
        assert difference(gradients(policy, loss), expected) < 1e-5


@torch.no_grad()
def test_the_minibatch_of_an_update_reads_each_sequence_once(monkeypatch):
    """And no longer than up to the last token asked for."""
    policy, rollouts = made("gpt2")
    shapes = []
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    rows, columns = rollouts.rows, rollouts.columns
    tokens = torch.cat([((rows == row) & (columns < 3)).nonzero()[:, 0] for row in (0, 2)])
    predict(policy, rollouts, tokens, 1.0)
    assert len(tokens) == 6 and shapes == [(2, 3 + 2)], "two prompts of at most 3 tokens, 2 before the last"


@pytest.mark.parametrize("unit", ["token", "sequence"])
@pytest.mark.parametrize(("alg", "epochs"), [("ppo", 2), ("nlpo", 2), ("a2c", 1)])
@kinds
def test_update_is_the_naive_loop(kind, alg, epochs, unit):
    """In minibatches, by plain gradient steps, gradients clipped over all weights together."""
    policy, rollouts = made(kind, alg == "nlpo", 0.7)
    other = copy.deepcopy(policy)
    config = algorithm(
        kind, alg, generation={"temperature": 0.7}, batch_size=6, n_epochs=epochs, ent_coef=0.05,
        gamma=0.9, gae_lambda=0.8, max_grad_norm=0.7, minibatch_unit=unit,
    )  # fmt: skip
    found = update(policy, torch.optim.SGD(policy.parameters(), 0.3), rollouts, config, seed=4)

    advantages, returns = estimate_advantages(rollouts, 0.9, 0.8)
    parameters, norms = list(other.parameters()), []
    for tokens in minibatches(rollouts, 6, unit, epochs, 4):
        own = advantages[tokens]
        normalized = (own - own.mean()) / (own.std(correction=1) + 1e-8) if len(own) > 1 else own
        naive = one_row_per_token(other, rollouts, tokens, 0.7)
        loss = naive_loss(naive, rollouts.logprobs[tokens], normalized, returns[tokens], alg == "a2c")
        grads = gradients(other, loss)
        norms.append(math.sqrt(sum(float((grad**2).sum()) for grad in grads)))
        with torch.no_grad():
            for weight, grad in zip(parameters, grads, strict=True):
                weight -= 0.3 * grad * min(1.0, 0.7 / norms[-1])
    assert max(norms) > 0.7
    assert found["ppo/updates"] == len(norms)
    assert found["ppo/grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    for one, expected in zip(policy.parameters(), parameters, strict=True):
        assert_close(one, expected, rtol=1e-4, atol=1e-5)


@kinds
def test_what_is_logged_of_one_minibatch(kind):
    policy, rollouts = made(kind)
    _, returns = estimate_advantages(rollouts, 0.99, 0.95)
    tokens = torch.arange(17)
    with torch.no_grad():
        logprobs, entropy, values = one_row_per_token(policy, rollouts, tokens, 1.0)
    log_ratio = logprobs - rollouts.logprobs
    expected = {
        "ppo/value_loss": ((returns - values) ** 2).mean(),
        "ppo/entropy_loss": -entropy.mean(),
        "ppo/approx_kl": (log_ratio.exp() - 1 - log_ratio).mean(),
        "ppo/clip_fraction": ((log_ratio.exp() - 1).abs() > 0.2).float().mean(),
        "ppo/explained_variance": 1 - (returns - rollouts.values).var() / returns.var(),
        "ppo/updates": 1.0,
        "ppo/tokens": 17.0,
    }
    alg = algorithm(kind, batch_size=17, n_epochs=1)
    found = update(policy, build_optimizer(policy, 1e-3, 0.0), rollouts, alg, seed=0)
    assert found.keys() == expected.keys() | {"ppo/policy_gradient_loss", "ppo/loss", "ppo/grad_norm"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert found["ppo/loss"] == pytest.approx(
        found["ppo/policy_gradient_loss"] + 0.5 * found["ppo/value_loss"], rel=1e-4
    )


def test_update_depends_on_the_seed_alone():
    first, again, other = (made("gpt2") for _ in range(3))
    for (policy, rollouts), seed in zip((first, again, other), (1, 1, 2), strict=True):
        torch.rand(seed)
        update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, algorithm(), seed)
    weights = [torch.cat([w.flatten() for w in policy.parameters()]) for policy, _ in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def rollouts_now(kind: str = "gpt2") -> tuple[PolicyModel, Rollouts]:
    """A policy as it was when it made its rollouts."""
    policy = tiny_policy(kind)
    return policy, rollouts_of(policy, random_batch(), REWARDS)


def test_target_kl_ends_the_epochs_early():
    """The first minibatch comes from the policy itself; the minibatch that exceeds it changes nothing."""
    policy, rollouts = rollouts_now()
    assert (
        update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, algorithm(target_kl=1e9), 0)[
            "ppo/updates"
        ]
        == 15
    )
    policy, _ = rollouts_now()
    found = update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, algorithm(target_kl=1e-9), 0)
    assert found["ppo/updates"] == 1 and found["ppo/approx_kl"] == pytest.approx(0, abs=1e-6)
    expected, _ = rollouts_now()
    one = algorithm(n_epochs=1, batch_size=18)
    tokens = next(minibatches(rollouts, 8, "token", 1, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("on_policy_runs.minibatches", lambda *_: [tokens])
        update(expected, build_optimizer(expected, 1e-2, 0.0), rollouts, one, 0)
    assert_close(list(policy.parameters()), list(expected.parameters()), rtol=0, atol=0)


@pytest.mark.parametrize(("share", "updates"), [(0.99, 0), (1.01, 1)])
def test_target_kl_is_exceeded_at_one_and_a_half_times(share, updates):
    policy, rollouts = made("gpt2")
    alg = algorithm(n_epochs=1, batch_size=17)
    kl = update(copy.deepcopy(policy), torch.optim.SGD([policy.value_head.weight], 0.0), rollouts, alg, 0)[
        "ppo/approx_kl"
    ]
    alg = algorithm(n_epochs=1, batch_size=17, target_kl=kl / 1.5 * share)
    before = copy.deepcopy(list(policy.parameters()))
    found = update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, alg, 0)
    assert found["ppo/updates"] == updates
    assert math.isnan(found["ppo/loss"]) == (updates == 0)
    assert updates != all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def spoilt(rollouts: Rollouts, *tokens: int) -> Rollouts:
    """Rollouts with old log-probabilities that are no numbers."""
    rollouts.logprobs[list(tokens)] = torch.nan
    return rollouts


def test_a_gradient_that_is_no_number_stops_with_the_weights_from_before():
    """Before that minibatch: what the earlier ones taught stays."""
    policy, rollouts = rollouts_now()
    expected = copy.deepcopy(policy)
    batches = [set(tokens.tolist()) for tokens in minibatches(rollouts, 6, "token", 1, 7)]
    bad = min(batches[1])
    alg = algorithm(batch_size=6)
    with pytest.raises(NonFiniteError, match=r"the gradient's norm is nan in minibatch 2$"):
        update(policy, torch.optim.SGD(policy.parameters(), 0.1), spoilt(rollouts, bad), alg, seed=7)
    kept = [torch.tensor(sorted(batches[0]))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("on_policy_runs.minibatches", lambda *_: kept)
        update(expected, torch.optim.SGD(expected.parameters(), 0.1), rollouts, alg, seed=7)
    for one, other in zip(policy.parameters(), expected.parameters(), strict=True):
        assert_close(one, other)


def test_minibatches_without_a_finite_gradient_are_left_out_and_named(caplog):
    policy, rollouts = rollouts_now()
    expected = copy.deepcopy(policy)
    batches = list(minibatches(rollouts, 6, "token", 1, 7))
    alg: Any = algorithm(batch_size=6, n_epochs=1)
    spoilt(rollouts, int(batches[0][0]), int(batches[2][0]))
    with caplog.at_level(logging.WARNING):
        optimizer = build_optimizer(policy, 1e-2, 0.0)
        found = update(policy, optimizer, rollouts, alg, seed=7, on_non_finite="continue")
    assert found["ppo/updates"] == 1 and math.isfinite(found["ppo/loss"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("on_policy_runs.minibatches", lambda *_: [batches[1]])
        update(expected, build_optimizer(expected, 1e-2, 0.0), rollouts, alg, seed=7)
    assert_close(list(policy.parameters()), list(expected.parameters()), rtol=0, atol=0)
    assert [record.getMessage() for record in caplog.records] == [
        f"minibatch {number} left out: its gradient's norm is nan" for number in (1, 3)
    ]


@pytest.mark.parametrize("where", ["value", "policy"])
def test_a_weight_that_is_no_number_is_noticed(where):
    policy, rollouts = rollouts_now()
    model = policy.value_model if where == "value" else policy.model
    with torch.no_grad():
        next(model.parameters())[:] = torch.inf
    with pytest.raises(NonFiniteError):
        update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, algorithm(), seed=0)


@kinds
def test_bfloat16_update_is_near_the_exact_one(kind):
    policy, rollouts = rollouts_now(kind)
    other, start = copy.deepcopy(policy), copy.deepcopy(policy)
    alg = algorithm(kind, batch_size=18, n_epochs=1, max_grad_norm=1e9)
    for one, dtype in ((policy, "float32"), (other, "bfloat16")):
        update(one, torch.optim.SGD(one.parameters(), 1.0), rollouts, alg, seed=0, dtype=dtype)
    steps = [
        torch.cat([(a - b).flatten() for a, b in zip(one.parameters(), start.parameters(), strict=True)])
        for one in (policy, other)
    ]
    assert 0 < difference([steps[1]], [steps[0]]) < 0.1
    assert {w.dtype for w in other.parameters()} == {torch.float32}
