"""NLPO's action mask: which tokens it allows, in generation and in scoring, and how it is kept."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from on_policy_runs import (
    END,
    KINDS,
    VOCABULARY,
    algorithm,
    changed,
    padded,
    random_batch,
    random_rows,
    rollouts_of,
    tiny_model,
    tiny_policy,
    update,
)
from torch import Tensor
from torch.testing import assert_close

from rl4lms.model.optimiser import build_optimizer
from rl4lms.model.policy import PolicyModel, Sequences
from rl4lms.ppo.mask import MaskModel, MaskRule, PackedMasks, allowed_tokens
from rl4lms.ppo.update import predict

kinds = pytest.mark.parametrize("kind", KINDS)


def rule(
    kind: str = "learned_top_p", top: float = 0.7, fewest: int = 1, special: tuple[int, ...] = ()
) -> MaskRule:
    return MaskRule(kind, top, fewest, special)


def random_logits(rows: int, vocabulary: int, scale: float, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def nucleus(logits: Tensor, mass: float, fewest: int = 1) -> list[set[int]]:
    """For each row the likeliest tokens, added one by one until their mass exceeds `mass`."""
    found = []
    for row in logits.double().softmax(1).numpy():
        chosen: list[int] = []
        for token in np.argsort(-row):
            if len(chosen) >= fewest and row[chosen].sum() > mass:
                break
            chosen.append(int(token))
        found.append(set(chosen))
    return found


def sets(allowed: Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in allowed]


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scale", [0.1, 1, 5])
def test_the_nucleus_is_the_smallest_set_whose_mass_exceeds_top_mask(scale, mass):
    logits = random_logits(20, 60, scale)
    allowed = allowed_tokens(logits, rule(top=mass))
    assert sets(allowed) == nucleus(logits, mass)
    for row, kept in zip(logits.double().softmax(1), allowed, strict=True):
        assert row[kept].sum() > mass >= row[kept].sum() - row[kept].min()


def test_a_nucleus_by_hand():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    for mass, expected in [
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 2, 3}),
        (0.91, {0, 1, 2, 3}),
    ]:
        assert sets(allowed_tokens(logits, rule(top=mass))) == [expected]


@pytest.mark.parametrize("fewest", [1, 2, 7, 60, 1000])
def test_at_least_min_tokens_are_kept_and_no_more_than_that(fewest):
    """The released code keeps one more of seq2seq models."""
    logits = random_logits(20, 60, 5)
    allowed = allowed_tokens(logits, rule(top=1e-6, fewest=fewest))
    assert allowed.sum(1).tolist() == [min(fewest, 60)] * 20
    assert sets(allowed) == nucleus(logits, 1e-6, fewest)
    wide = allowed_tokens(logits, rule(top=0.9, fewest=fewest))
    assert sets(wide) == [a | b for a, b in zip(sets(allowed), nucleus(logits, 0.9), strict=True)]


@pytest.mark.parametrize("size", [1, 3, 60, 500])
@pytest.mark.parametrize("kind", ["learned_top_k", "topk"])
def test_top_k_keeps_the_likeliest(kind, size):
    logits = random_logits(20, 60, 1)
    expected = [set(row.argsort(descending=True)[:size].tolist()) for row in logits]
    assert sets(allowed_tokens(logits, rule(kind, float(size), fewest=50))) == expected


@pytest.mark.parametrize("kind", ["learned_top_p", "learned_top_k"])
def test_special_tokens_are_always_allowed(kind):
    logits = random_logits(20, 60, 3)
    logits[:, [0, 41]] = -1e4
    top = 0.5 if kind == "learned_top_p" else 4
    plain = allowed_tokens(logits, rule(kind, top))
    assert not plain[:, [0, 41]].any()
    expected = [row | {0, 41} for row in sets(plain)]
    assert sets(allowed_tokens(logits, rule(kind, top, special=(0, 41)))) == expected


@pytest.mark.parametrize("vocabulary", [511, 512, 513, 3000, 20_000])
@pytest.mark.parametrize("scale", [0.01, 1, 4])
def test_the_growing_search_finds_what_a_full_sort_finds(vocabulary, scale):
    logits = random_logits(6, vocabulary, scale)
    logits[0] *= 3  # rows of small and large nuclei beside each other
    rounding = 3e-6  # of sums in single precision: a token at the edge may be on its other side
    for mass, fewest in [(0.6, 1), (0.95, 700), (0.999, 100)]:
        allowed = allowed_tokens(logits, rule(top=mass, fewest=fewest))
        for row, kept in zip(logits.double().softmax(1), allowed, strict=True):
            ordered = row.sort(descending=True).values.cumsum(0)
            count = int(kept.sum())
            assert_close(row[kept].sum(), ordered[count - 1], rtol=1e-6, atol=0)  # the likeliest
            assert count >= min(fewest, vocabulary)
            assert ordered[count - 1] > mass - rounding or count == vocabulary
            assert count == min(fewest, vocabulary) or ordered[count - 2] <= mass + rounding


def test_a_top_mask_of_1_allows_all_tokens():
    """Their mass does not exceed it before the last one, whatever their sum is rounded to."""
    assert allowed_tokens(random_logits(4, 20_000, 4), rule(top=1.0)).all()


# The mask model


def model_and_mask(kind: str, what: MaskRule | None = None) -> tuple[PolicyModel, MaskModel]:
    """A policy, and the mask model that it was some updates ago."""
    policy = tiny_policy(kind)
    return policy, MaskModel(changed(policy.model, 0.1, seed=3), what or rule(special=(0, END)))


def generated(policy: PolicyModel, masks: MaskModel, side: str) -> tuple[Sequences, Tensor]:
    """Texts sampled under the mask, and what was allowed at each of their tokens [B, T, V]."""
    ids, mask = padded(random_rows((3, 9, 1, 6) * 5, 0), side)
    uniforms = torch.rand(20, 7, generator=torch.Generator().manual_seed(1))
    steps: list[Tensor] = []

    def record(input_ids: Tensor, scores: Tensor) -> Tensor:
        steps.append(scores > -torch.inf)
        return scores

    how = {"do_sample": True, "top_k": 0, "max_new_tokens": 7}
    responses, real = policy.generate(ids, mask, how, uniforms, [masks.processor(ids, mask), record])
    assert len(set(real.sum(1).tolist())) > (END in masks.rule.special_tokens)
    return Sequences(ids, mask, responses, real), torch.stack(steps, 1)[:, : real.shape[1]]


@pytest.mark.parametrize(
    "what", [rule(special=(0, END)), rule(top=0.3), rule("learned_top_k", 5.0), rule(fewest=9)]
)
@pytest.mark.parametrize(("kind", "side"), [("gpt2", "left"), ("t5", "left"), ("t5", "right")])
def test_generation_is_masked_as_the_scoring_pass_says(kind, side, what):
    policy, masks = model_and_mask(kind, what)
    sequences, steps = generated(policy, masks, side)
    real = sequences.response_mask
    allowed = masks.allowed(sequences)
    assert torch.equal(allowed[real], steps[real]), "with tiny models no token is at the edge"
    assert not allowed[~real].any()
    assert 1 < allowed[real].sum(1).float().mean() < VOCABULARY
    taken = allowed.gather(2, sequences.response_ids[:, :, None])[:, :, 0]
    assert taken[real].all()


@kinds
def test_the_mask_is_of_the_mask_models_logits_at_temperature_1(kind):
    """Whatever temperature and top-k the texts are sampled at."""
    policy, masks = model_and_mask(kind)
    ids, mask = padded(random_rows((3, 9, 1, 6), 0), "left")
    steps: list[Tensor] = []

    def record(input_ids: Tensor, scores: Tensor) -> Tensor:
        steps.append(scores > -torch.inf)
        return scores

    how = {"do_sample": True, "top_k": 1, "temperature": 5.0, "max_new_tokens": 4}
    responses, real = policy.generate(ids, mask, how, torch.rand(4, 4), [masks.processor(ids, mask), record])
    allowed = masks.allowed(Sequences(ids, mask, responses, real))
    assert torch.equal(allowed[real], torch.stack(steps, 1)[:, : real.shape[1]][real])


@kinds
def test_a_token_that_was_taken_is_allowed_even_if_rounding_says_otherwise(kind):
    _, masks = model_and_mask(kind, rule("topk", 1.0))
    batch = random_batch()
    allowed = masks.allowed(batch)
    taken = allowed.gather(2, batch.response_ids[:, :, None])[:, :, 0]
    assert taken[batch.response_mask].all()
    assert 2 in allowed[batch.response_mask].sum(1), "the likeliest, and the one that was taken"


@kinds
def test_refresh_makes_it_the_policy_and_no_more(kind):
    policy, masks = model_and_mask(kind)
    batch = random_batch()
    before = masks.allowed(batch)
    masks.refresh(policy.model)
    expected = MaskModel(policy.model, masks.rule).allowed(batch)
    assert torch.equal(masks.allowed(batch), expected) and not torch.equal(before, expected)
    own = {w.data_ptr() for w in masks.model.parameters()}
    assert not own & {w.data_ptr() for w in policy.model.parameters()}
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 1
    assert torch.equal(masks.allowed(batch), expected)
    assert not any(w.requires_grad for w in masks.model.parameters())


def test_generation_after_a_refresh_is_masked_anew():
    policy, masks = model_and_mask("gpt2")
    _, before = generated(policy, masks, "left")
    masks.refresh(policy.model)
    sequences, after = generated(policy, masks, "left")
    real = sequences.response_mask
    assert before.shape != after.shape or not torch.equal(before, after)
    assert torch.equal(after[real], MaskModel(policy.model, masks.rule).allowed(sequences)[real])


# Packed masks


@pytest.mark.parametrize("vocabulary", [1, 7, 8, 9, 24, 1001])
def test_packed_masks_are_the_masks(vocabulary):
    masks = torch.rand(13, vocabulary, generator=torch.Generator().manual_seed(0)) < 0.3
    packed = PackedMasks.of(masks)
    assert packed.bits.shape == (13, -(-vocabulary // 8)) and packed.bits.dtype == torch.uint8
    assert torch.equal(packed.masks(), masks)
    rows = torch.tensor([12, 0, 0, 5])
    assert torch.equal(packed.select(rows).masks(), masks[rows])
    assert torch.equal(packed.select(slice(2, 4)).masks(), masks[2:4])
    assert packed.select(slice(0)).masks().shape == (0, vocabulary)
    parts = [packed.select(slice(0, 4)), packed.select(slice(0)), packed.select(slice(4, 13))]
    assert torch.equal(PackedMasks.join(parts).masks(), masks)


# In rollouts and update


def nlpo_rollouts(kind: str, temperature: float = 1.0) -> tuple[PolicyModel, MaskModel, Sequences, Any]:
    policy, masks = model_and_mask(kind)
    batch = random_batch(side="left" if kind == "gpt2" else "right")
    rollouts = rollouts_of(
        policy, batch, [1.0, 0, -1, 2, 0.5], temperature=temperature, mask_model=masks, kl_coeff=0.3
    )
    return policy, masks, batch, rollouts


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@kinds
@torch.no_grad()
def test_log_probabilities_are_renormalized_and_the_kl_reward_is_unmasked(kind, temperature):
    policy, masks, batch, rollouts = nlpo_rollouts(kind, temperature)
    given = (batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask)
    plain, _, _ = policy.logprobs(*given, temperature)
    rows, columns = batch.response_mask.nonzero(as_tuple=True)
    allowed = masks.allowed(batch)
    mass = torch.zeros(len(rows))
    for token in range(VOCABULARY):
        # The same responses with this token in place of each: its probability there.
        for t in range(batch.response_ids.shape[1]):
            other = batch.response_ids.clone()
            other[:, t] = token
            probability = policy.logprobs(*given[:2], other, given[3], temperature)[0].exp()
            at = columns == t
            mass[at] += (probability * allowed[:, :, token])[rows[at], t]
    assert_close(rollouts.logprobs, plain[rows, columns] - mass.log(), rtol=1e-4, atol=1e-5)
    assert mass.min() < 0.95
    reference = PolicyModel(changed(policy.model, seed=9))
    expected = -0.3 * (plain - reference.logprobs(*given)[0])
    assert_close(rollouts.scores.kl_rewards, expected, rtol=1e-4, atol=1e-5)
    found = rollouts.statistics()
    kl = (plain - reference.logprobs(*given)[0])[batch.response_mask].mean().item()
    assert found["rollout_info/kl_div_mean"] == pytest.approx(kl, rel=1e-4)
    assert found["rollout_info/log_prob"] == pytest.approx(rollouts.logprobs.mean().item())


@kinds
def test_the_update_masks_as_the_rollout_did_though_all_models_have_moved(kind):
    policy, masks, batch, rollouts = nlpo_rollouts(kind)
    allowed = masks.allowed(batch)
    policy.model = changed(policy.model, 0.1, seed=7)
    masks.refresh(policy.model)
    tokens = torch.tensor([11, 0, 5, 17])
    found, entropy, _ = predict(policy, rollouts, tokens, 1.0)
    given = (batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask)
    logprobs, _, entropies = policy.logprobs(*given, 1.0, allowed)
    assert_close(found, logprobs[batch.response_mask][tokens], rtol=1e-5, atol=1e-5)
    assert_close(entropy, entropies[batch.response_mask][tokens], rtol=1e-5, atol=1e-5)
    anew, _, _ = policy.logprobs(*given, 1.0, masks.allowed(batch))
    assert not torch.allclose(anew, logprobs)


@kinds
def test_before_the_first_step_the_ratio_is_1(kind):
    policy, _, _, rollouts = nlpo_rollouts(kind, 0.7)
    alg = algorithm(kind, "nlpo", generation={"temperature": 0.7}, batch_size=18, n_epochs=1)
    found = update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, alg, seed=0)
    assert found["ppo/approx_kl"] == pytest.approx(0, abs=1e-6) and found["ppo/clip_fraction"] == 0


def test_the_update_changes_neither_mask_model_nor_masks():
    policy, masks, _, rollouts = nlpo_rollouts("gpt2")
    before, bits = copy.deepcopy(masks.model.state_dict()), rollouts.allowed.bits.clone()
    update(policy, build_optimizer(policy, 1e-2, 0.0), rollouts, algorithm(alg="nlpo"), seed=0)
    assert torch.equal(rollouts.allowed.bits, bits)
    assert_close(masks.model.state_dict(), before, rtol=0, atol=0)


def test_a_mask_that_allows_all_is_ppo():
    """The same rollouts and the same weights after the update."""
    everything = MaskModel(tiny_model("gpt2", seed=8), rule("topk", float(VOCABULARY)))
    weights = []
    for masks in (None, everything):
        policy = tiny_policy("gpt2")
        rollouts = rollouts_of(policy, random_batch(), [1.0, 0, -1, 2, 0.5], mask_model=masks)
        update(
            policy,
            build_optimizer(policy, 1e-2, 0.0),
            rollouts,
            algorithm(alg="nlpo" if masks else "ppo"),
            seed=0,
        )
        weights.append(list(policy.parameters()))
    assert_close(weights[0], weights[1], rtol=0, atol=0)
