"""Gradients of single inputs: exact on small distributions and on tiny models."""

import itertools
import math

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rft_diagnose import DiagnosisError
from rl4lms.input_gradients import (
    check_settings,
    estimate_gradient,
    gradient_shares,
    jacobian_norm,
    linear_bound,
    log_ratios,
    power_bound,
    score_products,
    squared_gradient,
    summarise_all,
    summarise_gradients,
)
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import load_model
from rl4lms.model.policy import Sequences, token_logits
from rl4lms.model.sampling import sample_tokens, sampled_logprobs

PLAIN = GenerationSettings(do_sample=True, top_k=0, max_new_tokens=1)


def logprobs_of(logits: torch.Tensor, settings: GenerationSettings) -> torch.Tensor:
    return sampled_logprobs(logits, settings.temperature, settings.top_k, settings.top_p)


def test_the_squared_gradient_is_estimated_without_bias():
    """Its expectation over all samples of 4 and 5 outcomes of a distribution on three is exact."""
    probabilities, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.3])
    scores = np.random.default_rng(0).normal(size=(3, 4))
    scores -= probabilities @ scores  # the mean of a score is 0
    gradient = probabilities @ ((rewards - probabilities @ rewards)[:, None] * scores)
    for generations in (4, 5):
        expected = naive = 0.0
        for chosen in itertools.product(range(3), repeat=generations):
            chance, index = math.prod(probabilities[list(chosen)]), list(chosen)
            expected += chance * squared_gradient(rewards[index], scores[index] @ scores[index].T)
            centred = rewards[index] - rewards[index].mean()
            naive += chance * float(((centred @ scores[index] / (generations - 1)) ** 2).sum())
        assert expected == pytest.approx(float(gradient @ gradient), rel=1e-9)
        assert naive > 1.3 * expected  # what the norm of the leave-one-out gradient would say


def test_equal_rewards_give_no_gradient():
    scores = np.random.default_rng(0).normal(size=(6, 9))
    assert squared_gradient(np.full(6, 0.3), scores @ scores.T) == 0


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 0.5, "top_k": 4, "top_p": 0.8}]
)
def test_log_probabilities_are_of_what_is_sampled(options):
    settings = GenerationSettings(do_sample=True, **({"top_k": 0} | options))
    logits = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0, 1.5]])
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    drawn = sample_tokens(
        logits.expand(20_000, -1), uniforms, settings.temperature, settings.top_k, settings.top_p
    )
    frequencies = torch.bincount(drawn, minlength=6) / 20_000
    assert logprobs_of(logits, settings).exp()[0].tolist() == pytest.approx(frequencies.tolist(), abs=2e-4)


@pytest.fixture(params=["gpt2", "t5"])
def model(request, tiny_gpt2, tiny_t5):
    name, kind = {"gpt2": (tiny_gpt2, "causal"), "t5": (tiny_t5, "seq2seq")}[request.param]
    model = load_model(str(name), kind, torch.float32, "cpu")
    prompt = torch.tensor([AutoTokenizer.from_pretrained(name)("the old dog")["input_ids"]])
    return model, prompt


def test_scores_give_the_exact_gradient(model):
    """One token long, top_k 4: all four responses, with their probabilities, are the expected gradient."""
    model, prompt = model
    settings = GenerationSettings(do_sample=True, top_k=4, max_new_tokens=1)
    ids = prompt.expand(4, -1)
    first = Sequences(
        ids[:1], torch.ones_like(ids[:1]).bool(), torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    )
    zero = torch.tensor([0])
    logprobs = logprobs_of(token_logits(model, first, zero, zero), settings)[0]
    tokens = logprobs.topk(4).indices
    rewards = torch.tensor([0.0, 1.0, 0.2, 0.5])
    value = (logprobs[tokens].exp() * rewards).sum()
    exact = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    squared = sum(float(g.square().sum()) for g in exact if g is not None)

    four = Sequences(ids, torch.ones_like(ids).bool(), tokens[:, None], torch.ones(4, 1).bool())
    gram = score_products(model, four, settings)
    weights = (logprobs[tokens].exp() * (rewards - value)).detach().double().numpy()
    assert weights @ gram @ weights == pytest.approx(squared, rel=1e-4)
    assert squared > 0
    # Cauchy-Schwarz with the Fisher information of the same four.
    p = logprobs[tokens].exp().detach().double().numpy()
    fisher = np.linalg.eigvalsh(np.sqrt(p)[:, None] * gram * np.sqrt(p))[-1]
    std = math.sqrt(p @ (rewards.numpy() - p @ rewards.numpy()) ** 2)
    assert math.sqrt(squared) <= std * math.sqrt(fisher) * (1 + 1e-5)


def test_scores_of_whole_responses_add_up_over_tokens(model):
    model, prompt = model
    ids = prompt.expand(2, -1)
    responses, mask = torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    gram = score_products(model, Sequences(ids, torch.ones_like(ids).bool(), responses, mask), PLAIN)
    shorter = Sequences(ids[:1], torch.ones_like(ids[:1]).bool(), responses[1:, :2], mask[1:, :2])
    assert score_products(model, shorter, PLAIN)[0, 0] == pytest.approx(gram[1, 1], rel=1e-4)
    assert gram[0, 1] == pytest.approx(gram[1, 0]) and gram[0, 0] > 0


def test_what_is_sampled_otherwise_is_refused():
    for options, part in (
        ({"do_sample": False}, "do_sample is false"),
        ({"do_sample": True, "num_beams": 2}, "num_beams is 2"),
        ({"do_sample": True, "min_length": 3}, "min_length is 3"),
        ({"do_sample": True, "repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
    ):
        with pytest.raises(DiagnosisError, match=part):
            check_settings(GenerationSettings(**options), 10)
    with pytest.raises(DiagnosisError, match=r"at least 4 generations an input: .* is 3"):
        check_settings(PLAIN, 3)
    check_settings(PLAIN, 4)


def test_shares_of_the_lowest_inputs():
    rows = [
        {"generations": 10, "std": i / 20, "norm": i / 20, "squared": (i / 20) ** 2}
        | dict.fromkeys(("bound", "linear_bound", "power_bound"), i / 10)
        for i in range(20)
    ]
    tenth, quarter, half = gradient_shares(rows[::-1])
    total = sum(row["squared"] for row in rows)
    assert tenth["share"] == pytest.approx(rows[1]["squared"] / total)
    assert quarter["share"] == pytest.approx(sum(row["squared"] for row in rows[:5]) / total)
    assert half["lowest"] == 0.5 and half["low"] < half["share"] < half["high"]
    summary = summarise_gradients(rows)
    assert summary["rank_correlation"] == pytest.approx(1) and summary["generations_each"] == 10
    assert gradient_shares([row | {"squared": 0.0} for row in rows])[0]["share"] is None


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_jacobian_norm_is_the_largest_singular_value(model, temperature):
    """Against all rows of the Jacobian, at a token that is not the first."""
    model, prompt = model
    responses = torch.tensor([[5, 6, 7]])
    sequences = Sequences(
        prompt, torch.ones_like(prompt).bool(), responses, torch.ones_like(responses).bool()
    )
    logits = token_logits(model, sequences, torch.tensor([0]), torch.tensor([2]))[0] / temperature
    rows = []
    for logit in logits:
        found = torch.autograd.grad(logit, list(model.parameters()), retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in found if g is not None]))
    exact = float(torch.linalg.svdvals(torch.stack(rows))[0])
    found = jacobian_norm(model, sequences, 2, temperature, torch.Generator().manual_seed(0))
    assert 0.97 * exact < found < 1.0001 * exact


def test_bounds_scale_with_the_reward():
    """Theorem 1 for rewards in [-1, 1]; rewards c times as large have c times the gradient and the bound."""
    assert power_bound(0.3, 5, 2.0, 1.0) == pytest.approx(6 * 5 * 2 * 0.3 ** (2 / 3))
    assert power_bound(0.03, 5, 2.0, 0.1) == pytest.approx(0.1 * power_bound(0.3, 5, 2.0, 1.0))
    assert linear_bound(0.3, 8, 2.0) == pytest.approx(1.2)


def test_bounds_hold_for_the_exact_gradient(model):
    """One token long: Fisher <= linear <= power, with the exact gamma of the only prefix."""
    model, prompt = model
    zero = torch.tensor([0])
    one = Sequences(prompt, torch.ones_like(prompt).bool(), torch.zeros(1, 1).long(), torch.ones(1, 1).bool())
    logprobs = logprobs_of(token_logits(model, one, zero, zero), PLAIN)[0]
    rewards = torch.linspace(-1, 1, len(logprobs))
    value = (logprobs.exp() * rewards).sum()
    exact = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    norm = math.sqrt(sum(float(g.square().sum()) for g in exact if g is not None))
    std = math.sqrt((logprobs.exp() * (rewards - value) ** 2).sum().item())
    gamma = jacobian_norm(model, one, 0, 1.0, torch.Generator().manual_seed(0)) * 1.03
    assert 0 < norm <= linear_bound(std, 1, gamma) <= power_bound(std, 1, gamma, 1.0)


def test_the_kl_of_a_model_to_itself_is_0_and_follows_the_temperature(model):
    model, prompt = model
    ids, responses = prompt.expand(2, -1), torch.tensor([[5, 6, 7], [5, 6, 0]])
    mask = torch.tensor([[True] * 3, [True, True, False]])
    sequences = Sequences(ids, torch.ones_like(ids).bool(), responses, mask)
    assert log_ratios(model, model, sequences, PLAIN) == pytest.approx([0, 0], abs=1e-5)
    warm = GenerationSettings(do_sample=True, top_k=0, temperature=2.0)
    rows, columns = mask.nonzero(as_tuple=True)
    logits = token_logits(model, sequences, rows, columns)
    terms = [(logits / t).log_softmax(1).gather(1, responses[mask][:, None])[:, 0] for t in (2.0, 1.0)]
    expected = torch.zeros(2).index_add(0, rows, terms[0] - terms[1])
    assert log_ratios(model, model, sequences, warm) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_penalty_moves_the_gradient_as_a_reward_does():
    """squared_gradient of r - c k is that of the penalised reward, and 0 where they cancel."""
    scores = np.random.default_rng(0).normal(size=(6, 9))
    penalty = np.random.default_rng(1).normal(size=6)
    assert estimate_gradient(penalty - penalty, scores @ scores.T)["norm"] == 0
    found = estimate_gradient(2 * penalty, scores @ scores.T)
    assert found["squared"] == pytest.approx(4 * estimate_gradient(penalty, scores @ scores.T)["squared"])
    assert found["norm"] <= found["bound"] and found["generations"] == 6


def test_of_several_rewards_the_first_is_what_is_optimised():
    rows = [
        {"reward": name, "generations": 10, "std": i / 20, "norm": i / 20, "squared": (i / 20) ** 2}
        | {"bound": i / 10, "linear_bound": i / 5, "power_bound": 0.0}
        for name in ("a + b", "b")
        for i in range(20)
    ]
    found = summarise_all(rows)
    assert found["reward"] == "a + b" and list(found["others"]) == ["b"]
    assert found["bounds"]["bound"] == {"median": pytest.approx(0.5), "largest": pytest.approx(0.5)}
    assert found["bounds"]["power_bound"] == {"median": None, "largest": None}
    assert summarise_all([row | {"std": math.nan} for row in rows]) is None
