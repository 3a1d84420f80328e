"""Expected policy gradients of single inputs, estimated from generations of their own, and their bounds.

G generations y_j of an input x, with rewards r_j and scores s_j = grad log q(y_j | x) in the D weights, q
being what is sampled from (temperature, top_k and top_p included). grad V(x) = E (r - V) s = Cov(r, s).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from common.seeding import derive_seed
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.statistics import bootstrap_interval, spearman
from rft_diagnose.tables import Target
from rl4lms.config import ExtractConfig
from rl4lms.datapools import load_datapool
from rl4lms.extract import score_inputs
from rl4lms.metrics import build_metric
from rl4lms.model.generation import Decoding, decode, encode_prompts, prompt_limit
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.load import choose_device, load_model, load_tokenizer
from rl4lms.model.policy import PolicyModel, Sequences, token_logits
from rl4lms.model.sampling import forced_start, generate_ids, sampled_logprobs

MAX_STEPS, CONVERGED = 40, 0.005  # of the power iteration; growth at which it has


def power_bound(std: float, length: int, gamma: float, half_range: float) -> float:
    """6 M^(1/3) L gamma STD^(2/3) (Theorem 1, M = 1): rewards lie within M of some number."""
    return 6 * half_range ** (1 / 3) * length * gamma * std ** (2 / 3)


def linear_bound(std: float, length: int, gamma: float) -> float:
    """sqrt(L / 2) gamma STD."""
    return math.sqrt(length / 2) * gamma * std


def jacobian_norm(
    model: PreTrainedModel, sequences: Sequences, place: int, temperature: float, generator: torch.Generator
) -> float:
    """Largest singular value of d (logits / temperature) / d weights, [V, D], by power iteration.

    The logits are those at response token `place` of the one sequence. The estimate is never above the true
    value but for rounding.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    device = sequences.response_ids.device
    zero, column = torch.tensor([0], device=device), torch.tensor([place], device=device)
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
        logits = token_logits(model, sequences, zero, column)[0] / temperature
        gradients = torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True)
        pairs = zip(weights, gradients, strict=True)
        weights = [weight for weight, gradient in pairs if gradient is not None]
        # J^T u is linear in u: its derivative, times v, is J v.
        dual = torch.zeros_like(logits, requires_grad=True)
        back = torch.autograd.grad(logits, weights, dual, create_graph=True)
        direction = torch.randn(logits.shape, generator=generator).to(device)
        direction /= direction.norm()
        norm = 0.0
        for _ in range(MAX_STEPS):
            product = torch.autograd.grad(logits, weights, direction, retain_graph=True)
            before, norm = norm, math.sqrt(sum(float(part.square().sum()) for part in product))
            if norm == 0 or norm - before < CONVERGED * norm:
                break
            (direction,) = torch.autograd.grad(back, dual, product, retain_graph=True)
            direction = direction / direction.norm()
    return norm


logger = logging.getLogger(__name__)
FEWEST_GENERATIONS = 4
PREFIXES = 3  # of an input, whose Jacobians are looked at
# Fields of the generation settings that would make q another distribution than `sampled_logprobs` says.
_PLAIN = ("num_beams", "min_length", "no_repeat_ngram_size", "repetition_penalty")


@dataclass(frozen=True)
class GradientTarget:
    """A reward whose gradients are measured. stds: the inputs', by other generations, [inputs].

    half_range: the reward lies within so much of some number.
    """

    reward: Target
    stds: Floats
    half_range: float


def measure_gradients(
    config: ExtractConfig,
    positions: Sequence[int],
    targets: Sequence[GradientTarget],
    reference: str | None = None,
    progress: Callable[[int], None] = lambda inputs: None,
) -> list[dict[str, Any]]:
    """Generate anew for some inputs, and estimate each one's gradient.

    positions: the inputs', in the train split. The stds of the targets are by other generations (the
    extraction's), so that ordering by them does not use the same chance. reference: hub name or folder of the
    model that a KL penalty is to. Returns a row per input and target:
    reward (name), input, generations, std (as given), fresh_std (ddof 1), squared (unbiased estimate of
    ||grad V||^2, may be negative), norm (its root, 0 if negative), and the bounds on it with fresh_std:
    bound (root of the Fisher information's largest eigenvalue, by the same generations), linear_bound and
    power_bound (with gamma, the largest Jacobian norm at PREFIXES of their tokens, so no larger than gamma).
    Raises DiagnosisError.
    """
    settings, each = config.alg.generation_kwargs, config.evaluation.num_samples_per_input
    check_settings(settings, each)
    device = choose_device(config.runtime.device)
    model = load_model(config.alg.model_name, config.alg.model_type, torch.float32, device)
    frozen = None
    if reference is not None:
        frozen = load_model(reference, config.alg.model_type, torch.float32, device)
    tokenizer = load_tokenizer(
        config.tokenizer.model_name,
        truncation_side=config.tokenizer.truncation_side,
        pad_token_as_eos_token=config.tokenizer.pad_token_as_eos_token,
        clean_up_tokenization_spaces=config.tokenizer.clean_up_tokenization_spaces,
    )
    metrics = {metric.id: build_metric(metric.id, metric.args) for metric in config.evaluation.metrics}
    pool = load_datapool(
        config.datapool.id, config.datapool.split, config.datapool.args, config.tokenizer.model_name
    )
    decoding = Decoding(
        settings=settings,
        max_prompt_length=config.tokenizer.max_length,
        truncation_side=config.tokenizer.truncation_side,
        batch_size=each,
        num_samples=each,
    )
    limit = prompt_limit(model, tokenizer, decoding)
    weights = sum(weight.numel() for weight in model.parameters())
    logger.info("gradients of %d x %s weights are in memory at a time", each, f"{weights:,}")
    rows = []
    for number, position in enumerate(positions):
        sample = pool[position]
        prompts = [sample.prompt_or_input_text]
        prompt_ids, prompt_mask = encode_prompts(model, tokenizer, prompts, limit, decoding.truncation_side)
        generator = np.random.default_rng(derive_seed(config.runtime.seed, "gradients", position))
        uniforms = torch.from_numpy(generator.random((1, each, settings.max_new_tokens), dtype=np.float32))
        ids, mask = generate_ids(model, prompt_ids, prompt_mask, settings, uniforms)
        texts = [decode(tokenizer, row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]
        scores = score_inputs(metrics, [sample], [texts], model, config.datapool.split)
        columns = {name: np.array(values[0], dtype=float) for name, values in scores.items()}
        sequences = Sequences(prompt_ids.expand(each, -1), prompt_mask.expand(each, -1), ids, mask)
        penalty = np.zeros(each) if frozen is None else log_ratios(model, frozen, sequences, settings)
        gram = score_products(model, sequences, settings)
        gamma = largest_jacobian(model, sequences, settings.temperature, generator)
        for target in targets:
            rewards = target.reward.values(columns) - (target.reward.kl_coef or 0.0) * penalty
            known = ~np.isnan(rewards)
            if known.sum() < FEWEST_GENERATIONS:
                continue
            estimates = estimate_gradient(rewards[known], gram[np.ix_(known, known)])
            fresh = estimates["fresh_std"]
            half_range = max(target.half_range, float(np.ptp(rewards[known])) / 2)
            rows.append(
                {"reward": target.reward.name, "input": str(sample.id), "std": float(target.stds[number])}
                | estimates
                | {
                    "gamma": gamma,
                    "linear_bound": linear_bound(fresh, settings.max_new_tokens, gamma),
                    "power_bound": power_bound(fresh, settings.max_new_tokens, gamma, half_range),
                }
            )
        progress(number + 1)
    return rows


def estimate_gradient(rewards: Floats, gram: NDArray[np.float64]) -> dict[str, Any]:
    """Estimate an input's gradient from rewards [G] and products of scores [G, G]: see measure_gradients."""
    squared, fresh = squared_gradient(rewards, gram), float(rewards.std(ddof=1))
    largest = max(0.0, float(np.linalg.eigvalsh(gram)[-1]))
    return {
        "generations": len(rewards),
        "fresh_std": fresh,
        "squared": squared,
        "norm": math.sqrt(max(0.0, squared)),
        "bound": fresh * math.sqrt(largest / len(rewards)),
    }


@torch.no_grad()
def log_ratios(
    model: PreTrainedModel, reference: PreTrainedModel, sequences: Sequences, settings: GenerationSettings
) -> Floats:
    """log pi - log pi_ref of each response, as PPO penalises it: without top_k and top_p, [G]."""
    policy_logprobs, _ = PolicyModel(model).taken_logprobs(sequences, settings.temperature)
    reference_logprobs, _ = PolicyModel(reference).taken_logprobs(sequences)
    ratios: Floats = (policy_logprobs - reference_logprobs).double().sum(1).cpu().numpy()
    return ratios


def largest_jacobian(
    model: PreTrainedModel, sequences: Sequences, temperature: float, generator: np.random.Generator
) -> float:
    """The largest Jacobian norm of the logits at some tokens, drawn from all of the generations."""
    places = sequences.response_mask.nonzero().cpu().numpy()
    chosen = generator.permutation(len(places))[:PREFIXES]
    directions = torch.Generator().manual_seed(int(generator.integers(2**31)))
    norms = [0.0]
    for row, column in places[chosen]:
        sequence = sequences.select(torch.tensor([row], device=sequences.response_ids.device))
        norms.append(jacobian_norm(model, sequence, int(column), temperature, directions))
    return max(norms)


def check_settings(settings: GenerationSettings, generations: int) -> None:
    """Raises DiagnosisError: the settings sample from something whose gradient is not computed here."""
    if not settings.do_sample:
        raise DiagnosisError("gradients need sampled texts: alg.generation_kwargs.do_sample is false")
    for name in _PLAIN:
        if getattr(settings, name) != type(settings).model_fields[name].default:
            raise DiagnosisError(
                f"gradients are of sampling by temperature, top_k and top_p: alg.generation_kwargs.{name} is "
                f"{getattr(settings, name)}"
            )
    if generations < FEWEST_GENERATIONS:
        raise DiagnosisError(
            f"gradients need at least {FEWEST_GENERATIONS} generations an input: "
            f"evaluation.num_samples_per_input is {generations}"
        )


def score_products(
    model: PreTrainedModel, sequences: Sequences, settings: GenerationSettings
) -> NDArray[np.float64]:
    """s_j . s_k for all pairs of the generations, [G, G]. sequences: the input's generations."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    scores = []
    for row in range(len(sequences.response_ids)):
        sequence = sequences.select(torch.tensor([row], device=sequences.response_ids.device))
        sampled = sequence.response_mask.clone()
        sampled[:, : 0 if forced_start(model) is None else 1] = False
        rows, columns = sampled.nonzero(as_tuple=True)
        logits = token_logits(model, sequence, rows, columns)
        logprobs = sampled_logprobs(logits, settings.temperature, settings.top_k, settings.top_p)
        total = logprobs.gather(1, sequence.response_ids[rows, columns][:, None]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        scores.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    stacked = torch.stack(scores)
    return (stacked @ stacked.T).double().cpu().numpy()


def squared_gradient(rewards: Floats, gram: NDArray[np.float64]) -> float:
    """Unbiased estimate of ||Cov(r, s)||^2 = ||grad V||^2. rewards: [G], G >= 4; gram: [G, G], s_j . s_k.

    ||g||^2 of the gradient with leave-one-out baselines, g = sum_j (r_j - mean of the others) s_j / G, is too
    large by g's variance; here no generation meets itself (Song et al. 2012, eq. 4, with linear kernels).
    """
    g = len(rewards)
    centred = rewards - rewards.mean()  # changes nothing but rounding
    rewarded, scored = np.outer(centred, centred), gram.copy()
    np.fill_diagonal(rewarded, 0.0)
    np.fill_diagonal(scored, 0.0)
    sums = rewarded.sum() * scored.sum() / ((g - 1) * (g - 2))
    crossed = 2 / (g - 2) * float(rewarded.sum(0) @ scored.sum(0))
    return float(((rewarded * scored).sum() + sums - crossed) / (g * (g - 3)))


LOWEST = (0.1, 0.25, 0.5)  # shares of the inputs, by reward std
BOUNDS = ("bound", "linear_bound", "power_bound")


def gradient_shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of the total squared gradient that the inputs of lowest std have, with bootstrap intervals."""
    stds = np.array([row["std"] for row in rows])
    squared = np.array([row["squared"] for row in rows])

    def shares(chosen: Ints) -> Floats:
        ordered = squared[chosen][np.argsort(stds[chosen], kind="stable")].cumsum()
        if ordered[-1] <= 0:
            return np.full(len(LOWEST), np.nan)
        last = [max(1, round(part * len(ordered))) - 1 for part in LOWEST]
        return np.asarray(ordered[last] / ordered[-1])

    estimates = shares(np.arange(len(rows)))
    low, high = bootstrap_interval(shares, len(rows))
    return [
        {"lowest": part, "share": _known(estimates[i]), "low": _known(low[i]), "high": _known(high[i])}
        for i, part in enumerate(LOWEST)
    ]


def summarise_gradients(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The gradients' part of summary.json for one reward."""
    std, norm = np.array([row["std"] for row in rows]), np.array([row["norm"] for row in rows])
    return {
        "inputs": len(rows),
        "generations_each": rows[0]["generations"],
        "rank_correlation": _known(spearman(std, norm)),
        "shares": gradient_shares(rows),
        "bounds": {name: bound_ratios(rows, name) for name in BOUNDS},
    }


def summarise_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Summarise the gradients of what is optimised, the first reward of the rows, and by name the others'."""
    by_reward: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not math.isnan(row["std"]):
            by_reward.setdefault(row["reward"], []).append(row)
    if not by_reward:
        return None
    summaries = {name: summarise_gradients(reward_rows) for name, reward_rows in by_reward.items()}
    first = next(iter(summaries))
    main = summaries.pop(first)
    return {"reward": first, **main, "others": summaries}


def bound_ratios(rows: Sequence[dict[str, Any]], bound: str) -> dict[str, float | None]:
    """Gradient norm over a bound: median and largest over the inputs where that is not 0."""
    ratios = [row["norm"] / row[bound] for row in rows if row[bound] > 0]
    if not ratios:
        return {"median": None, "largest": None}
    return {"median": float(np.median(ratios)), "largest": max(ratios)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
