"""The teacher-forced pass over padded batches against one plain forward pass per token."""

from typing import Any

import pytest
import torch
from on_policy_runs import (
    KINDS,
    VOCABULARY,
    batch_of,
    filled,
    next_step,
    padded,
    random_batch,
    random_rows,
    rows_of,
    stepwise_logits,
    stepwise_values,
    tiny_model,
    tiny_policy,
)
from torch import Tensor
from torch.testing import assert_close

from rl4lms.model.forward import compute_states, token_logits
from rl4lms.model.forward import padded as one_a_row
from rl4lms.model.load import autocast
from rl4lms.model.policy import (
    PolicyModel,
    Sequences,
    checkpoint_activations,
    compute_entropy,
    log_distribution,
)

CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5}
kinds = pytest.mark.parametrize("kind", KINDS)
sides = pytest.mark.parametrize("side", ["left", "right"])


def given(batch: Sequences) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.prompt_ids, batch.prompt_mask, batch.response_ids, batch.response_mask


def random_action_mask(batch: Sequences, seed: int = 0) -> Tensor:
    """About half of the tokens, those taken among them."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand((*batch.response_ids.shape, VOCABULARY), generator=generator) < 0.5
    return allowed.scatter(2, batch.response_ids[:, :, None], True)


def stepwise(
    policy: PolicyModel, batch: Sequences, temperature: float, action_mask: Tensor | None = None
) -> list[Tensor]:
    """Log-probabilities, those without the action mask, and entropies [B, T], each token on its own."""
    columns: tuple[list[Tensor], ...] = ([], [], [])
    for i, ((_, response), logits) in enumerate(
        zip(rows_of(batch), stepwise_logits(policy.model, batch), strict=True)
    ):
        raw = (logits / temperature).softmax(1)
        allowed = torch.ones_like(raw) if action_mask is None else action_mask[i, : len(response)].float()
        masked = raw * allowed / (raw * allowed).sum(1, keepdim=True)
        taken = torch.arange(len(response)), torch.tensor(response)
        columns[0].append(masked[taken].log())
        columns[1].append(raw[taken].log())
        columns[2].append(-torch.special.xlogy(masked, masked).sum(1))
    return [filled(batch, values) for values in columns]


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@sides
@kinds
@torch.no_grad()
def test_log_probabilities_and_entropies_are_those_of_single_steps(kind, side, temperature, masked):
    policy, batch = tiny_policy(kind), random_batch(side=side)
    action_mask = random_action_mask(batch) if masked else None
    found = policy.logprobs(*given(batch), temperature, action_mask)
    for name, one, expected in zip(
        ("log-probs", "raw", "entropy"), found, stepwise(policy, batch, temperature, action_mask), strict=True
    ):
        assert_close(one, expected, **CLOSE, msg=f"{name}: {one} {expected}")
        assert (one[~batch.response_mask] == 0).all()
    assert masked != torch.equal(found[0], found[1])


@sides
@kinds
@torch.no_grad()
def test_values_are_those_of_single_steps(kind, side):
    policy, batch = tiny_policy(kind), random_batch(side=side)
    assert_close(policy.values(*given(batch)), filled(batch, stepwise_values(policy, batch)), **CLOSE)


@kinds
@torch.no_grad()
def test_a_row_does_not_depend_on_the_rows_beside_it(kind):
    """Permuted, alone, and beside longer ones; padding on either side, of any width."""
    policy, batch = tiny_policy(kind), random_batch()
    rows = rows_of(batch)
    longer = list(zip(random_rows((15, 2), 5), random_rows((3, 12), 6), strict=True))

    def found(chosen: list[tuple[list[int], list[int]]], side: str) -> list[tuple[Tensor, ...]]:
        some = batch_of([prompt for prompt, _ in chosen], [response for _, response in chosen], side)
        tensors = (*policy.logprobs(*given(some), 0.7), policy.values(*given(some)))
        return [tuple(t[i][some.response_mask[i]] for t in tensors) for i in range(len(chosen))]

    expected = found(rows, "left")
    compositions = [[4, 2, 0, 3, 1], [2], [1, 3], [0, 0, 4]]
    for order in compositions:
        for side in ("left", "right"):
            assert_close(found([rows[i] for i in order], side), [expected[i] for i in order], **CLOSE)
            beside = found([longer[0], *(rows[i] for i in order), longer[1]], side)
            assert_close(beside[1:-1], [expected[i] for i in order], **CLOSE)


@kinds
@torch.no_grad()
def test_padding_within_prompts_is_not_seen(kind):
    """Whatever ids stand there, and wherever: the mask alone says what a prompt is."""
    policy, batch = tiny_policy(kind), random_batch()
    expected = policy.logprobs(*given(batch))[0]
    ids = batch.prompt_ids.where(batch.prompt_mask, torch.full_like(batch.prompt_ids, 3))
    response = batch.response_ids.where(batch.response_mask, torch.full_like(batch.response_ids, 11))
    found = policy.logprobs(ids, batch.prompt_mask, response, batch.response_mask)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@kinds
def test_generation_has_the_log_probabilities_of_the_scoring_pass(kind, temperature):
    policy = tiny_policy(kind)
    prompts, mask = padded(random_rows((3, 9, 1, 6) * 5, 0), "left" if kind == "gpt2" else "right")
    recorded: list[Tensor] = []

    def recording(input_ids: Tensor, scores: Tensor) -> Tensor:
        recorded.append(scores.clone())
        return scores

    uniforms = torch.rand(20, 8, generator=torch.Generator().manual_seed(0))
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "max_new_tokens": 8}
    responses, real = policy.generate(prompts, mask, how, uniforms, [recording])
    assert 1 < len(set(real.sum(1).tolist())), "texts of several lengths"
    distributions = (torch.stack(recorded, 1)[:, : real.shape[1]] / temperature).log_softmax(2)
    expected = distributions.gather(2, responses[:, :, None])[:, :, 0] * real
    entropies = -(distributions.exp() * distributions).sum(2) * real
    with torch.no_grad():
        logprobs, raw, entropy = policy.logprobs(prompts, mask, responses, real, temperature)
    assert_close(logprobs, expected, **CLOSE)
    assert_close(entropy, entropies, **CLOSE)
    assert torch.equal(logprobs, raw)


def test_generate_takes_settings_as_a_mapping_and_refuses_unknown_ones():
    policy, (prompts, mask) = tiny_policy("gpt2"), padded([[3, 4]], "left")
    torch.manual_seed(0)
    first, _ = policy.generate(prompts, mask, {"do_sample": True, "max_new_tokens": 5})
    torch.manual_seed(0)
    again, _ = policy.generate(prompts, mask, {"do_sample": True, "max_new_tokens": 5})
    assert torch.equal(first, again), "without numbers of its own it draws from torch's generator"
    with pytest.raises(ValueError, match="max_new_token"):
        policy.generate(prompts, mask, {"max_new_token": 5})


@kinds
@torch.no_grad()
def test_selected_tokens_are_those_of_the_full_pass(kind):
    policy, batch = tiny_policy(kind), random_batch()
    rows, columns = batch.response_mask.nonzero(as_tuple=True)
    every = token_logits(policy.model, batch, rows, columns)
    states = compute_states(policy.model, one_a_row(policy.model, batch, rows, columns))
    assert_close(every, torch.cat(stepwise_logits(policy.model, batch)), **CLOSE)
    chosen = torch.tensor([7, 0, 17, 7, 3])
    assert_close(token_logits(policy.model, batch, rows[chosen], columns[chosen]), every[chosen], **CLOSE)
    forward = one_a_row(policy.model, batch, rows[chosen], columns[chosen])
    assert_close(compute_states(policy.model, forward), states[chosen], **CLOSE)
    output = policy.model(**_plain_inputs(policy.model, batch))
    assert output.logits.dim() == 3, "the head is whole again"


def _plain_inputs(model: Any, batch: Sequences) -> dict[str, Tensor]:
    inputs = {"input_ids": batch.prompt_ids}
    return inputs | ({"decoder_input_ids": batch.response_ids} if model.config.is_encoder_decoder else {})


@kinds
def test_the_head_is_whole_after_a_failing_pass(kind):
    model, batch = tiny_model(kind), random_batch()
    with pytest.raises(IndexError):
        token_logits(model, batch, torch.tensor([99]), torch.tensor([0]))
    assert model(**_plain_inputs(model, batch)).logits.dim() == 3


@kinds
@torch.no_grad()
def test_selected_sequences_lose_common_padding_alone(kind):
    policy, batch = tiny_policy(kind), random_batch(side="left" if kind == "gpt2" else "right")
    some = batch.select(torch.tensor([4, 0]), 3)
    assert some.prompt_ids.shape == (2, 4) and some.response_ids.shape == (2, 3)
    assert rows_of(some) == [(p, r[:3]) for p, r in (rows_of(batch)[i] for i in (4, 0))]
    expected = policy.logprobs(*given(batch))[0][[4, 0], :3]
    assert_close(policy.logprobs(*given(some))[0], expected, **CLOSE)


@kinds
def test_gradients_flow_to_the_right_model_alone(kind):
    policy, batch = tiny_policy(kind), random_batch()
    parts = {name: getattr(policy, name) for name in ("model", "value_model", "value_head")}

    def reached() -> set[str]:
        names = {
            name for name, m in parts.items() for w in m.parameters() if w.grad is not None and w.grad.any()
        }
        policy.zero_grad()
        return names

    for which in range(3):
        policy.logprobs(*given(batch))[which].sum().backward()
        assert reached() == {"model"}
    policy.values(*given(batch)).sum().backward()
    assert reached() == {"value_model", "value_head"}


@sides
@kinds
def test_gradients_are_those_of_single_steps(kind, side):
    """Also of batches with padding, where a row of attention may be empty."""
    policy, batch = tiny_policy(kind), random_batch(side=side)
    weights = torch.randn(batch.response_mask.shape, generator=torch.Generator().manual_seed(0))

    def gradients(logprobs: Tensor, entropy: Tensor, values: Tensor) -> list[Tensor]:
        policy.zero_grad()
        ((logprobs + 0.3 * entropy + values) * weights).sum().backward()
        return [w.grad.clone() for w in policy.parameters() if w.grad is not None]

    logprobs, _, entropy = policy.logprobs(*given(batch), 0.7)
    found = gradients(logprobs, entropy, policy.values(*given(batch)))
    logprobs, _, entropy = stepwise(policy, batch, 0.7)
    expected = gradients(logprobs, entropy, filled(batch, stepwise_values(policy, batch)))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@kinds
def test_no_gradient_through_what_the_action_mask_rules_out(kind):
    """The entropy's -inf * 0 is 0, in the backward pass too."""
    policy, batch = tiny_policy(kind), random_batch()
    logprobs, _, entropy = policy.logprobs(*given(batch), 1.0, random_action_mask(batch))
    (logprobs + entropy).sum().backward()
    assert all(w.grad.isfinite().all() for w in policy.model.parameters())
    logits = torch.randn(3, VOCABULARY, requires_grad=True)
    allowed = random_action_mask(batch)[0, :3]
    compute_entropy(log_distribution(logits, 1.0, allowed)).sum().backward()
    assert (logits.grad[~allowed] == 0).all() and (logits.grad[allowed] != 0).any()


def test_the_entropy_of_a_single_allowed_token_is_0():
    allowed = torch.nn.functional.one_hot(torch.tensor([2, 0]), 5).bool()
    distribution = log_distribution(torch.randn(2, 5), 0.5, allowed)
    assert torch.equal(compute_entropy(distribution), torch.zeros(2))
    assert torch.equal(distribution.exp(), allowed.float())


@kinds
def test_recomputed_activations_give_the_same_gradients(kind):
    """Dropout of the config stays off though the layers are put into training mode."""
    policy, batch = tiny_policy(kind), random_batch()
    stacks = [m for m in policy.model.modules() if type(m).__name__ in ("GPT2Attention", "T5Attention")]
    calls: list[object] = []
    for stack in stacks:
        stack.register_forward_hook(lambda *_: calls.append(None))

    def gradients() -> list[Tensor]:
        policy.zero_grad()
        calls.clear()
        (policy.logprobs(*given(batch))[0].sum() + policy.values(*given(batch)).sum()).backward()
        return [w.grad.clone() for w in policy.parameters() if w.grad is not None]

    expected = gradients()
    assert len(calls) == len(stacks)
    for model in (policy.model, policy.value_model):
        checkpoint_activations(model)
    assert_close(gradients(), expected, rtol=1e-6, atol=1e-6)
    assert len(calls) == 2 * len(stacks)
    dropouts = [m for m in policy.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts and not any(m.training for m in dropouts)


@kinds
def test_autocast_to_bfloat16(kind):
    policy, batch = tiny_policy(kind), random_batch()
    exact = policy.logprobs(*given(batch))[0]
    with autocast(torch.device("cpu"), "bfloat16"):
        logprobs, _, entropy = policy.logprobs(*given(batch))
        values = policy.values(*given(batch))
    assert {t.dtype for t in (logprobs, entropy, values)} == {torch.float32}
    assert not torch.equal(logprobs, exact)
    assert_close(logprobs, exact, rtol=0.1, atol=0.3)
    (logprobs + entropy + values).sum().backward()
    grads = [w.grad for w in policy.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


@pytest.mark.parametrize(("folder", "kind"), [("tiny_gpt2", "causal"), ("tiny_t5", "seq2seq")])
def test_a_loaded_value_model_is_a_copy_with_a_seeded_head(folder, kind, request):
    name = str(request.getfixturevalue(folder))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, again, other = (PolicyModel.load(name, kind, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected), "torch's own generator is left alone"
    assert first.value_head.bias is None
    assert torch.equal(first.value_head.weight, again.value_head.weight)
    assert not torch.equal(first.value_head.weight, other.value_head.weight)
    own = {w.data_ptr() for w in first.model.parameters()}
    assert not own & {w.data_ptr() for w in first.value_model.parameters()}
    assert_close(list(first.value_model.parameters()), list(first.model.parameters()), rtol=0, atol=0)
    assert not any(m.training for m in first.model.modules()) and not first.value_model.training


@torch.no_grad()
def test_values_are_a_linear_function_of_the_state_without_bias():
    policy, batch = tiny_policy("gpt2"), random_batch()
    (prompt, response), *_ = rows_of(batch)
    state = next_step(policy.value_model, prompt, response[:2])[1]
    before = policy.values(*given(batch))
    policy.value_head.weight *= 2
    assert_close(policy.values(*given(batch)), 2 * before)
    assert_close(before[0, 2] * 2, policy.value_head.weight[0] @ state, **CLOSE)
