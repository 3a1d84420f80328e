"""PPO as a plain loop, the floor of `benchmarks/ppo.py`.

An iteration is `generate`, one scoring pass of policy, reference and value model, and epochs of minibatches:
forward, backward, AdamW. A pass reads whole padded sequences, each once. Nothing is logged or saved. The
project's code only loads models and tokenizer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from floor import (
    Episode,
    compute_logits,
    generate,
    load_padding_tokenizer,
    make_inputs,
    padded,
    precision,
    reward_texts,
)
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence

from rl4lms.model.load import load_model
from rl4lms.model.policy import PolicyModel
from rl4lms.model.source import Kind

GAMMA, LAMBDA, CLIP, VALUE_WEIGHT, MAX_NORM = 0.99, 0.95, 0.2, 0.5, 0.5
SCORED_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes and hyperparameters; tokens: of an iteration."""

    tokens: int
    batch_size: int
    n_epochs: int
    unit: Literal["token", "sequence"]
    prompt_length: int
    episode_length: int
    learning_rate: float
    kl_coeff: float
    ent_coef: float = 0.0
    do_sample: bool = True
    top_k: int = 50
    device: str = "cpu"
    dtype: str = "float32"

    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        top_k = self.top_k if self.do_sample else None
        return {"do_sample": self.do_sample, "top_k": top_k, "max_new_tokens": self.episode_length}


class Models:
    """Policy, frozen reference, value model with its head, optimiser and tokenizer."""

    def __init__(self, path: str, kind: Kind, settings: Settings) -> None:
        loaded = PolicyModel.load(path, kind, settings.device)
        self.policy: Any = loaded.model
        self.value: Any = loaded.value_model
        self.head: Any = loaded.value_head
        self.reference = load_model(path, kind, torch.float32, settings.device).requires_grad_(False)
        self.tokenizer = load_padding_tokenizer(path, kind)
        self.weights = list(loaded.parameters())
        self.optimizer = torch.optim.AdamW(
            self.weights, settings.learning_rate, weight_decay=1e-6, fused=True
        )


@dataclass(frozen=True)
class Buffer:
    """Tensors [N] of the N tokens of an iteration. rows, columns: the token's episode and place in it."""

    rows: Tensor
    columns: Tensor
    logprobs: Tensor
    advantages: Tensor
    returns: Tensor


def iterate(models: Models, prompts: Iterator[str], settings: Settings) -> dict[str, float]:
    """One iteration on the next prompts; returns the means over minibatches of the losses."""
    with torch.no_grad(), precision(settings.device, settings.dtype):
        # 1. Texts, until there are enough tokens, and their rewards.
        episodes: list[Episode] = []
        used: list[str] = []
        while (missing := settings.tokens - sum(len(e.response) for e in episodes)) > 0:
            chosen = list(itertools.islice(prompts, math.ceil(missing / settings.episode_length)))
            episodes += generate(
                models.policy, models.tokenizer, chosen, settings.prompt_length, **settings.sampling()
            )
            used += chosen
        rewards = torch.tensor(reward_texts(models.tokenizer, used, episodes), device=settings.device)
        # 2. One scoring pass of each model, 3. advantages and returns.
        buffer = score(models, episodes, rewards, settings)
    # 4. Epochs of minibatches.
    log = []
    for _ in range(settings.n_epochs):
        for tokens in minibatches(buffer.rows, settings):
            log.append(step(models, episodes, buffer, tokens, settings))
    means = torch.stack(log).mean(0).tolist()
    return dict(zip(("policy_loss", "value_loss", "entropy_loss", "grad_norm"), means, strict=True))


def score(models: Models, episodes: Sequence[Episode], rewards: Tensor, settings: Settings) -> Buffer:
    """The first `tokens` tokens of the episodes with their log-probabilities, advantages and returns."""
    logprobs: list[Tensor] = []
    refs: list[Tensor] = []
    values: list[Tensor] = []
    for first in range(0, len(episodes), SCORED_AT_A_TIME):
        chunk = episodes[first : first + SCORED_AT_A_TIME]
        taken = padded([e.response for e in chunk], "right", settings.device)[0][..., None]
        for model, column in ((models.policy, logprobs), (models.reference, refs)):
            column += list(compute_logits(model, chunk).log_softmax(-1).gather(2, taken)[..., 0])
        values += list(values_of(models, chunk))
    old, ref, value = (pad_sequence(column, batch_first=True) for column in (logprobs, refs, values))
    lengths = torch.tensor([len(e.response) for e in episodes], device=settings.device)
    real = torch.arange(old.shape[1], device=settings.device) < lengths[:, None]
    kept = real & (real.flatten().cumsum(0).view(real.shape) <= settings.tokens)

    reward = -settings.kl_coeff * (old - ref)
    whole = kept.sum(1) == lengths  # the last episode may be cut: no reward, the value of what follows
    reward[whole, lengths[whole] - 1] += rewards[whole]
    advantages = torch.zeros_like(value)
    advantage = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards)
    for t in reversed(range(value.shape[1])):
        cut = real[:, t] & ~kept[:, t]
        delta = reward[:, t] + GAMMA * following - value[:, t]
        advantage = torch.where(kept[:, t], delta + GAMMA * LAMBDA * advantage, advantage)
        following = torch.where(kept[:, t] | cut, value[:, t], following)
        advantages[:, t] = advantage
    rows, columns = kept.nonzero(as_tuple=True)
    advantages = advantages[rows, columns]
    return Buffer(rows, columns, old[rows, columns], advantages, advantages + value[rows, columns])


def minibatches(rows: Tensor, settings: Settings) -> Iterator[Tensor]:
    """Random tokens of the buffer, or those of random whole episodes, about `batch_size` at a time."""
    if settings.unit == "token":
        yield from torch.randperm(len(rows), device=rows.device).split(settings.batch_size)
        return
    tokens = [(rows == row).nonzero()[:, 0] for row in rows.unique()]
    groups: dict[int, list[Tensor]] = {}
    used = 0
    for i in torch.randperm(len(tokens)).tolist():
        groups.setdefault(used // settings.batch_size, []).append(tokens[i])
        used += len(tokens[i])
    yield from map(torch.cat, groups.values())


def step(
    models: Models, episodes: Sequence[Episode], buffer: Buffer, tokens: Tensor, settings: Settings
) -> Tensor:
    """Forward over the sequences of the tokens, backward, AdamW; returns losses and gradient norm [4]."""
    unique, row = buffer.rows[tokens].unique(return_inverse=True)
    chosen = [episodes[i] for i in unique.tolist()]
    column = buffer.columns[tokens]
    taken = torch.tensor(
        [chosen[i].response[t] for i, t in zip(row.tolist(), column.tolist(), strict=True)],
        device=settings.device,
    )
    with precision(settings.device, settings.dtype):
        distribution = compute_logits(models.policy, chosen)[row, column].log_softmax(-1)
        values = values_of(models, chosen)[row, column]
    logprobs = distribution.gather(1, taken[:, None])[:, 0]
    advantages = buffer.advantages[tokens]
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (logprobs - buffer.logprobs[tokens]).exp()
    policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
    value_loss = mse_loss(values, buffer.returns[tokens])
    entropy_loss = torch.zeros_like(policy_loss)
    if settings.ent_coef:
        entropy_loss = (distribution.exp() * distribution).sum(1).mean()
    models.optimizer.zero_grad()
    (policy_loss + VALUE_WEIGHT * value_loss + settings.ent_coef * entropy_loss).backward()
    norm = nn.utils.clip_grad_norm_(models.weights, MAX_NORM)
    models.optimizer.step()
    return torch.stack([policy_loss, value_loss, entropy_loss, norm]).detach()


def values_of(models: Models, episodes: Sequence[Episode]) -> Tensor:
    """The values [B, T] of the states before the responses' tokens."""
    arguments, first = make_inputs(models.value, episodes)
    if models.value.config.is_encoder_decoder:
        prompts = {name: arguments[name] for name in ("input_ids", "attention_mask")}
        states = models.value.get_decoder()(
            input_ids=arguments["decoder_input_ids"],
            encoder_hidden_states=models.value.get_encoder()(**prompts).last_hidden_state,
            encoder_attention_mask=arguments["attention_mask"],
            use_cache=False,
        )
    else:
        states = models.value.base_model(**arguments, use_cache=False)
    return models.head(states.last_hidden_state[:, first:])[..., 0].float()
