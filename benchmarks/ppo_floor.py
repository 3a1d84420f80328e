"""PPO as a plain loop, the floor of `benchmarks/ppo.py`.

An iteration is `generate`, one scoring pass of policy, reference and value model, and epochs of minibatches:
forward, backward, AdamW. A pass reads whole padded sequences, each once. Nothing is logged or saved. The
project's code only loads models and tokenizer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from setting import letter_share
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.policy import PolicyModel
from rl4lms.model.source import Kind
from rl4lms.text import TextBatch

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

    def precision(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True)
class Episode:
    """Token ids of a prompt and of its response."""

    prompt: list[int]
    response: list[int]


class Models:
    """Policy, frozen reference, value model with its head, optimiser and tokenizer."""

    def __init__(self, path: str, kind: Kind, settings: Settings) -> None:
        loaded = PolicyModel.load(path, kind, settings.device)
        self.policy: Any = loaded.model
        self.value: Any = loaded.value_model
        self.head: Any = loaded.value_head
        self.reference = load_model(path, kind, torch.float32, settings.device).requires_grad_(False)
        self.is_seq2seq = kind == "seq2seq"
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, truncation_side="left")
        self.tokenizer.padding_side = "right" if self.is_seq2seq else "left"
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
    with torch.no_grad(), settings.precision():
        # 1. Texts, until there are enough tokens, and their rewards.
        episodes: list[Episode] = []
        used: list[str] = []
        while (missing := settings.tokens - sum(len(e.response) for e in episodes)) > 0:
            chosen = list(itertools.islice(prompts, math.ceil(missing / settings.episode_length)))
            episodes += generate(models, chosen, settings)
            used += chosen
        rewards = torch.tensor(letter_share(_text_batch(models, used, episodes)), device=settings.device)
        # 2. One scoring pass of each model, 3. advantages and returns.
        buffer = score(models, episodes, rewards, settings)
    # 4. Epochs of minibatches.
    log = []
    for _ in range(settings.n_epochs):
        for tokens in minibatches(buffer.rows, settings):
            log.append(step(models, episodes, buffer, tokens, settings))
    means = torch.stack(log).mean(0).tolist()
    return dict(zip(("policy_loss", "value_loss", "entropy_loss", "grad_norm"), means, strict=True))


def generate(models: Models, prompts: Sequence[str], settings: Settings) -> list[Episode]:
    """One response to each prompt, up to and including the end token."""
    inputs = models.tokenizer(
        list(prompts),
        padding=True,
        truncation=True,
        max_length=settings.prompt_length,
        return_tensors="pt",
        return_token_type_ids=False,
    ).to(settings.device)
    ids = models.policy.generate(
        **inputs,
        do_sample=settings.do_sample,
        top_k=settings.top_k if settings.do_sample else None,
        max_new_tokens=settings.episode_length,
        pad_token_id=models.tokenizer.pad_token_id,
    )
    ids = ids[:, 1 if models.is_seq2seq else inputs.input_ids.shape[1] :]
    is_end = ids == models.policy.config.eos_token_id
    real = is_end.cumsum(1) - is_end.long() == 0
    kept = inputs.attention_mask.bool()
    return [Episode(inputs.input_ids[i, kept[i]].tolist(), ids[i, real[i]].tolist()) for i in range(len(ids))]


def score(models: Models, episodes: Sequence[Episode], rewards: Tensor, settings: Settings) -> Buffer:
    """The first `tokens` tokens of the episodes with their log-probabilities, advantages and returns."""
    logprobs: list[Tensor] = []
    refs: list[Tensor] = []
    values: list[Tensor] = []
    for first in range(0, len(episodes), SCORED_AT_A_TIME):
        chunk = episodes[first : first + SCORED_AT_A_TIME]
        taken = _padded([e.response for e in chunk], "right", settings.device)[0][..., None]
        for model, column in ((models.policy, logprobs), (models.reference, refs)):
            column += list(compute_logits(models, model, chunk).log_softmax(-1).gather(2, taken)[..., 0])
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
    with settings.precision():
        distribution = compute_logits(models, models.policy, chosen)[row, column].log_softmax(-1)
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


def compute_logits(models: Models, model: Any, episodes: Sequence[Episode]) -> Tensor:
    """The logits [B, T, V] that predict the responses' tokens."""
    arguments, first = _inputs(models, model, episodes)
    return model(**arguments, use_cache=False).logits[:, first:].float()


def values_of(models: Models, episodes: Sequence[Episode]) -> Tensor:
    """The values [B, T] of the states before the responses' tokens."""
    arguments, first = _inputs(models, models.value, episodes)
    if models.is_seq2seq:
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


def _inputs(models: Models, model: Any, episodes: Sequence[Episode]) -> tuple[dict[str, Tensor], int]:
    """The arguments of a pass over episodes, and the first position that predicts a response's token."""
    side = "right" if models.is_seq2seq else "left"
    prompts, prompt_mask = _padded([e.prompt for e in episodes], side, model.device)
    responses, response_mask = _padded([e.response for e in episodes], "right", model.device)
    if models.is_seq2seq:
        start = torch.full_like(responses[:, :1], model.config.decoder_start_token_id)
        before = torch.cat([start, responses[:, :-1]], 1)
        return {"input_ids": prompts, "attention_mask": prompt_mask, "decoder_input_ids": before}, 0
    ids, mask = torch.cat([prompts, responses[:, :-1]], 1), torch.cat([prompt_mask, response_mask[:, :-1]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, prompts.shape[1] - 1


def _padded(rows: Sequence[list[int]], side: str, device: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest] of rows of ids."""
    ids = [torch.tensor(row, device=device) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_side=side),
        pad_sequence(mask, batch_first=True, padding_side=side),
    )


def _text_batch(models: Models, prompts: list[str], episodes: Sequence[Episode]) -> TextBatch:
    """What the reward is called with."""
    decode, tidy = models.tokenizer.decode, models.tokenizer.clean_up_tokenization
    texts = [tidy(decode(e.response, skip_special_tokens=True)) for e in episodes]
    return TextBatch(prompts, texts, [[] for _ in texts], [{} for _ in texts])
