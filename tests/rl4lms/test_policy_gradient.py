"""The formulas of docs/policy_gradient.md that no other test checks, exact on a model whose texts are listed.

A tiny language model's texts of at most three tokens, with their probabilities, give every expectation.
"""

import pytest
import torch
from enumerable import END, all_texts, save_enumerable
from on_policy_runs import changed, next_step
from torch import Tensor
from torch.func import functional_call, jacrev

from rl4lms.group.update import group_loss
from rl4lms.model.load import load_model
from rl4lms.ppo.update import gae, ppo_loss

VOCABULARY, LONGEST = 4, 3  # padding, end, two words
PROMPT = [2, 3]
TEXTS = all_texts(VOCABULARY, LONGEST)
MASK = torch.tensor([[t < len(text) for t in range(LONGEST)] for text in TEXTS])
Y = len(TEXTS)
REWARDS = torch.randn(Y, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Enumerated:
    """All texts of a model: log-probabilities of their tokens [Y, T] and the gradients of these [Y, T, D]."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.double()
        names, weights = zip(*self.model.named_parameters(), strict=True)
        sizes = [weight.numel() for weight in weights]
        flat = torch.cat([weight.detach().flatten() for weight in weights])

        def token_logprobs(vector: Tensor) -> Tensor:
            parts = [part.view_as(w) for part, w in zip(vector.split(sizes), weights, strict=True)]
            return self._logprobs(dict(zip(names, parts, strict=True)))

        self.logprobs = token_logprobs(flat).detach()
        self.scores = jacrev(token_logprobs)(flat).detach()
        self.probabilities = self.logprobs.sum(1).exp()
        self.text_scores = self.scores.sum(1)
        # The gradient of sum_y p(y) R(y), by differentiating the probabilities themselves.
        self.value_gradient = jacrev(lambda vector: token_logprobs(vector).sum(1).exp() @ REWARDS)(
            flat
        ).detach()

    def _logprobs(self, weights: dict[str, Tensor]) -> Tensor:
        """Log-probabilities [Y, T] under some weights, 0 after the ends of texts."""
        steps: dict[tuple[int, ...], Tensor] = {}
        for before in sorted({text[:t] for text in TEXTS for t in range(len(text))}):
            ids = torch.tensor([[*PROMPT, *before]])
            logits = functional_call(self.model, weights, (), {"input_ids": ids}).logits[0, -1]
            steps[before] = logits.log_softmax(0)
        zero = torch.zeros((), dtype=torch.float64)
        rows = [
            torch.stack([steps[text[:t]][text[t]] if t < len(text) else zero for t in range(LONGEST)])
            for text in TEXTS
        ]
        return torch.stack(rows)

    def values(self, rewards: Tensor) -> Tensor:
        """The true value [Y, T] before each token: the mean reward of all texts that begin as this one."""
        values = torch.zeros(Y, LONGEST, dtype=torch.float64)
        for y, text in enumerate(TEXTS):
            for t in range(len(text)):
                same = torch.tensor([other[:t] == text[:t] for other in TEXTS])
                chances = self.probabilities[same]
                values[y, t] = chances @ rewards[same] / chances.sum()
        return values


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Enumerated:
    folder = save_enumerable(tmp_path_factory.mktemp("model") / "gpt2")
    return Enumerated(load_model(str(folder), "causal", torch.float32, "cpu"))


@pytest.fixture(scope="module")
def other(policy: Enumerated) -> Enumerated:
    """A policy not far from the first: the one before an update, or a reference."""
    return Enumerated(changed(policy.model, 0.1))


def at_last_token(rewards: Tensor) -> Tensor:
    """A text's reward [Y] at its last token [Y, T]."""
    return rewards[:, None] * (MASK.cumsum(1) * MASK == MASK.sum(1, keepdim=True))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    assert expected.norm() > 1e-3
    assert torch.allclose(actual, expected, rtol=0, atol=1e-9 * float(expected.norm()) + 1e-12)


def test_the_texts_are_all_texts(policy):
    assert policy.probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    assert policy.probabilities.min() > 1e-6 and Y == len(set(TEXTS)) > 25
    logits, _ = next_step(policy.model, PROMPT, [2])
    step = logits.log_softmax(0)
    assert policy.logprobs[TEXTS.index((2, END)), 1].item() == pytest.approx(step[END].item(), abs=1e-12)


def test_the_policy_gradient_is_the_mean_of_reward_times_score(policy):
    """grad E[R] = E[R grad log p], with the log-probability of a text the sum of its tokens'."""
    assert_equal((policy.probabilities * REWARDS) @ policy.text_scores, policy.value_gradient)


def test_the_mean_score_is_0_after_every_prefix(policy):
    assert (policy.probabilities @ policy.text_scores).abs().max() < 1e-12
    for prefix in {text[:t] for text in TEXTS for t in range(len(text))}:
        same = [
            y for y, text in enumerate(TEXTS) if text[: len(prefix)] == prefix and len(text) > len(prefix)
        ]
        chances = policy.probabilities[same]
        assert (chances @ policy.scores[same, len(prefix)]).abs().max() < 1e-12


def test_a_baseline_leaves_the_mean(policy):
    """Any constant of the prompt, and any function of the prefix before each token."""
    for baseline in (3.0, float(policy.probabilities @ REWARDS)):
        assert_equal(
            (policy.probabilities * (REWARDS - baseline)) @ policy.text_scores, policy.value_gradient
        )
    noise = {text[:t]: torch.randn((), dtype=torch.float64) for text in TEXTS for t in range(len(text))}
    before = torch.tensor([[float(noise.get(text[:t], 0)) for t in range(LONGEST)] for text in TEXTS])
    weights = policy.probabilities[:, None] * (REWARDS[:, None] - before) * MASK
    assert_equal((weights[..., None] * policy.scores).sum((0, 1)), policy.value_gradient)


def test_the_best_constant_baseline_weighs_rewards_by_squared_scores(policy):
    """The variance of (R - b) grad log p is least at b = E[R |grad log p|^2] / E[|grad log p|^2]."""
    squares = policy.text_scores.square().sum(1)

    def variance(baseline: float) -> float:
        estimates = (REWARDS - baseline)[:, None] * policy.text_scores
        return float(policy.probabilities @ estimates.square().sum(1) - policy.value_gradient.square().sum())

    best = float((policy.probabilities * REWARDS) @ squares / (policy.probabilities @ squares))
    for step in (0.5, 0.01):
        assert variance(best) < min(variance(best - step), variance(best + step))
        # A parabola, whose curvature is the mean of the squared scores.
        rise = variance(best + step) - variance(best)
        assert rise == pytest.approx(step**2 * float(policy.probabilities @ squares), rel=1e-6)


def test_earlier_rewards_need_not_be_counted(policy):
    """Of rewards at every token, what a token's score is weighed by may leave out those before it."""
    rewards = torch.randn(Y, LONGEST, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rewards = torch.stack([rewards[TEXTS.index(cut_first(text)), :] for text in TEXTS]) * MASK
    to_go = rewards.flip(1).cumsum(1).flip(1)
    whole = (policy.probabilities * rewards.sum(1)) @ policy.text_scores
    weights = policy.probabilities[:, None] * to_go * MASK
    assert_equal((weights[..., None] * policy.scores).sum((0, 1)), whole)


def cut_first(text: tuple[int, ...]) -> tuple[int, ...]:
    """A text that begins as this one does, the same for all that begin so: a reward is of what is there."""
    return min(other for other in TEXTS if other[0] == text[0])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_true_values_gives_the_policy_gradient_at_any_lambda(policy, lam):
    rewards, values = at_last_token(REWARDS), policy.values(REWARDS)
    advantages = gae(rewards, values, MASK, 1.0, lam)
    weights = policy.probabilities[:, None] * advantages
    assert_equal((weights[..., None] * policy.scores).sum((0, 1)), policy.value_gradient)


def test_gae_with_wrong_values_gives_it_at_lambda_1_alone(policy):
    values = policy.values(REWARDS) + torch.tensor([0.3, -0.2, 0.5]) * policy.values(REWARDS.square())

    def estimate(lam: float) -> Tensor:
        advantages = gae(at_last_token(REWARDS), values, MASK, 1.0, lam)
        return ((policy.probabilities[:, None] * advantages)[..., None] * policy.scores).sum((0, 1))

    assert_equal(estimate(1.0), policy.value_gradient)
    assert (estimate(0.5) - policy.value_gradient).norm() > 0.01 * policy.value_gradient.norm()


def test_the_ratio_of_whole_texts_makes_up_for_an_old_policy(policy, other):
    """E_old[ratio R] = E[R]: the surrogate's value and gradient are those of the new policy."""
    logprobs = policy.logprobs.clone().requires_grad_()
    # group_loss averages over texts, here each once: weighed by the probability that it was drawn with.
    weighed = REWARDS * other.probabilities * Y
    loss = group_loss(
        logprobs,
        other.logprobs,
        weighed,
        MASK,
        ratio="product",
        clip_low=None,
        clip_high=None,
        how="sequence",
    )["total_loss"]
    assert -loss.item() == pytest.approx(float(policy.probabilities @ REWARDS), abs=1e-9)
    loss.backward()
    assert_equal(-(logprobs.grad[..., None] * policy.scores).sum((0, 1)), policy.value_gradient)


def test_the_first_update_s_clipped_loss_has_the_policy_gradient(policy):
    """At the policy that wrote the texts every ratio is 1: nothing is clipped."""
    advantages = gae(at_last_token(REWARDS), policy.values(REWARDS), MASK, 1.0, 0.95)
    chances = (policy.probabilities[:, None] * MASK)[MASK]
    logprobs = policy.logprobs[MASK].clone().requires_grad_()
    zeros = torch.zeros_like(logprobs)
    losses = ppo_loss(
        logprobs,
        policy.logprobs[MASK],
        advantages[MASK] * chances * len(chances),
        zeros,
        zeros,
        zeros,
        vf_coef=0.0,
    )
    losses["total_loss"].backward()
    assert losses["clip_fraction"] == 0
    assert_equal(-(logprobs.grad[:, None] * policy.scores[MASK]).sum(0), policy.value_gradient)


def test_the_clipped_objective_is_a_lower_bound(policy, other):
    arguments = (policy.logprobs[MASK], other.logprobs[MASK], at_last_token(REWARDS)[MASK])
    zeros = torch.zeros_like(arguments[0])
    clipped = ppo_loss(*arguments, zeros, zeros, zeros, clip_range=0.05, vf_coef=0.0)
    free = ppo_loss(*arguments, zeros, zeros, zeros, clip_range=1e9, vf_coef=0.0)
    assert clipped["clip_fraction"] > 0.1
    assert -clipped["policy_loss"] < -free["policy_loss"]


def test_the_kl_of_texts_is_the_mean_sum_over_tokens(policy, other):
    by_token = (policy.logprobs - other.logprobs) * MASK
    texts = policy.probabilities @ by_token.sum(1)
    # The chain rule: of each token the KL of the next-token distributions, weighed by its prefix's chance.
    chained = 0.0
    for prefix in {text[:t] for text in TEXTS for t in range(len(text))}:
        here, there = (next_step(m.model, PROMPT, list(prefix))[0].log_softmax(0) for m in (policy, other))
        same = [
            y for y, text in enumerate(TEXTS) if text[: len(prefix)] == prefix and len(text) > len(prefix)
        ]
        chained += float(policy.probabilities[same].sum() * (here.exp() * (here - there)).detach().sum())
    assert float(texts) == pytest.approx(chained, rel=1e-9)
    assert chained > 1e-3


def test_the_kl_penalty_as_a_reward_has_the_gradient_of_the_penalised_objective(policy, other):
    """grad (E[R] - beta KL) = E[(R - beta log p / p_ref) grad log p], per token or per text."""
    beta = 0.3
    log_ratio = (policy.logprobs - other.logprobs).sum(1)
    # By the product rule, of the sum of p (log p - log p_ref).
    probability_gradients = policy.probabilities[:, None] * policy.text_scores
    exact = policy.value_gradient - beta * ((log_ratio + 1)[:, None] * probability_gradients).sum(0)
    assert_equal((policy.probabilities * (REWARDS - beta * log_ratio)) @ policy.text_scores, exact)
    rewards = at_last_token(REWARDS) - beta * (policy.logprobs - other.logprobs) * MASK
    to_go = rewards.flip(1).cumsum(1).flip(1) * MASK
    weights = policy.probabilities[:, None] * to_go
    assert_equal((weights[..., None] * policy.scores).sum((0, 1)), exact)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_best_penalised_policy_is_the_reference_tilted_by_the_reward(policy, other, beta):
    """E[R] - beta KL(p || p_ref) = beta log Z - beta KL(p || p*), p* = p_ref e^(R / beta) / Z, for any p."""
    log_ref = other.logprobs.sum(1)
    log_z = torch.logsumexp(log_ref + REWARDS / beta, 0)
    log_best = log_ref + REWARDS / beta - log_z
    for log_p in (policy.logprobs.sum(1), log_ref, log_best):
        p = log_p.exp()
        objective = p @ REWARDS - beta * (p @ (log_p - log_ref))
        assert float(objective) == pytest.approx(
            float(beta * log_z - beta * (p @ (log_p - log_best))), abs=1e-9
        )
    assert float(log_best.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_gradient_is_at_most_the_std_times_the_root_of_the_fisher_information(policy):
    """|grad E[R]| <= STD sqrt(lambda_max(F)): it vanishes with the std, whatever the mean reward."""
    roots = policy.probabilities.sqrt()[:, None] * policy.text_scores
    largest = torch.linalg.eigvalsh(roots @ roots.T)[-1]
    for scale in (1.0, 1e-3, 1e-6):
        rewards = 5 + scale * REWARDS
        value = policy.probabilities @ rewards
        std = (policy.probabilities @ (rewards - value).square()).sqrt()
        gradient = (policy.probabilities * (rewards - value)) @ policy.text_scores
        assert 0 < gradient.norm() <= std * largest.sqrt() * (1 + 1e-9)
        assert float(gradient.norm()) == pytest.approx(scale * float(policy.value_gradient.norm()), rel=1e-6)
