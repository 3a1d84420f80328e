"""The old way of PPO on tokens, re-created from its description for `benchmarks/ppo.py`.

Every token is a transition of its own. After one `generate` of `n_envs` texts, policy, value model and
reference are asked about one token after the other; a seq2seq model reads prompt and tokens so far anew each
time. A minibatch of the update has a row for each of its tokens: the prompt padded to the longest that is
allowed, and the tokens so far. The value model is a whole language model, with a head over the vocabulary
that nobody reads. An action mask of vocabulary size is stored with each token though plain PPO masks nothing.

Left out, which favours the old way: environments in ten processes, texts decoded at every step, draws from
the data set that took 23 ms each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

Reward = Callable[[str, list[str]], float]


@dataclass(frozen=True, kw_only=True)
class OldSettings:
    """Sizes and hyperparameters; tokens: of an iteration."""

    n_envs: int
    tokens: int
    batch_size: int
    max_prompt_length: int
    max_episode_length: int
    top_k: int = 50
    temperature: float = 1.0
    learning_rate: float = 1e-6
    weight_decay: float = 1e-6
    kl_coeff: float = 0.001
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


class OldModels:
    """Policy, frozen reference and value model with its head: three language models; and the optimiser."""

    def __init__(
        self, policy: Any, reference: Any, value: Any, head: nn.Linear, settings: OldSettings
    ) -> None:
        self.policy, self.reference, self.value, self.head = policy, reference, value, head
        self.is_seq2seq = bool(policy.config.is_encoder_decoder)
        for model in (policy, reference, value):
            model.eval()
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            (others if name.endswith("bias") else decayed).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of what is trained; names as the project's own policy has them."""
        for name, module in (("model", self.policy), ("value_model", self.value), ("value_head", self.head)):
            for inner, parameter in module.named_parameters():
                yield f"{name}.{inner}", parameter


@dataclass(frozen=True)
class Episode:
    """A prompt padded to the longest allowed [P], its text's tokens [T], and a number for each token."""

    prompt: np.ndarray
    prompt_mask: np.ndarray
    actions: np.ndarray
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    values: np.ndarray
    rewards: np.ndarray


@dataclass(frozen=True)
class Buffer:
    """An array of N transitions for each thing that is kept, the action masks [N, V] in float64."""

    prompts: np.ndarray
    prompt_masks: np.ndarray
    contexts: np.ndarray
    lengths: np.ndarray
    actions: np.ndarray
    logprobs: np.ndarray
    values: np.ndarray
    rewards: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    action_masks: np.ndarray


def encode(tokenizer: Any, prompts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, P] of prompts padded on the left to the longest that is allowed."""
    tokenizer.padding_side = "left"
    encoded = tokenizer(list(prompts), padding="max_length", max_length=max_length, truncation=True)
    return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])


@torch.no_grad()
def generate(models: OldModels, ids: Tensor, mask: Tensor, settings: OldSettings) -> list[list[int]]:
    """A text for each prompt, with its end token if it has one."""
    made = models.policy.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        top_k=settings.top_k,
        temperature=settings.temperature,
        max_new_tokens=settings.max_episode_length,
    )
    start, end = 1 if models.is_seq2seq else ids.shape[1], models.policy.config.eos_token_id
    texts = made[:, start:].tolist()
    return [text[: text.index(end) + 1] if end in text else text for text in texts]


@torch.no_grad()
def step_through(
    models: OldModels, ids: Tensor, mask: Tensor, texts: Sequence[Sequence[int]], settings: OldSettings
) -> list[Episode]:
    """The episodes of texts, without task rewards: each token asked about alone, all texts in step."""
    lengths = [len(text) for text in texts]
    padded = torch.tensor([list(text) + [0] * (max(lengths) - len(text)) for text in texts])
    steppers = [_stepper(model, ids, mask) for model in (models.policy, models.reference, models.value)]
    columns: list[list[np.ndarray]] = [[], [], []]
    for step in range(max(lengths)):
        actions = padded[:, step]
        (logits, _), (ref_logits, _), (_, state) = (stepper(padded[:, :step]) for stepper in steppers)
        found = (
            Categorical(logits=logits / settings.temperature).log_prob(actions),
            Categorical(logits=ref_logits).log_prob(actions),
            models.head(state)[:, 0],
        )
        for column, value in zip(columns, found, strict=True):
            column.append(value.numpy())
    logprobs, ref_logprobs, values = (np.stack(column, axis=1) for column in columns)
    kl_rewards = -settings.kl_coeff * (logprobs - ref_logprobs)
    return [
        Episode(
            ids[i].numpy(),
            mask[i].numpy(),
            np.array(texts[i]),
            *(array[i, :length] for array in (logprobs, ref_logprobs, values, kl_rewards)),
        )
        for i, length in enumerate(lengths)
    ]


def score(
    models: OldModels,
    tokenizer: Any,
    drawn: Sequence[tuple[str, list[str]]],
    texts: Sequence[Sequence[int]] | None,
    reward: Reward,
    settings: OldSettings,
) -> list[Episode]:
    """The episodes of prompts with references; texts: those to take instead of new ones, as tokens."""
    ids, mask = encode(tokenizer, [prompt for prompt, _ in drawn], settings.max_prompt_length)
    episodes = step_through(models, ids, mask, texts or generate(models, ids, mask, settings), settings)
    for episode, (_, references) in zip(episodes, drawn, strict=True):
        text = tokenizer.decode(episode.actions.tolist(), skip_special_tokens=True)
        episode.rewards[-1] += reward(tokenizer.clean_up_tokenization(text), references)
    return episodes


def collect(
    models: OldModels,
    tokenizer: Any,
    draw: Callable[[int], list[tuple[str, list[str]]]],
    reward: Reward,
    settings: OldSettings,
) -> tuple[list[Episode], Buffer]:
    """Episodes of `n_envs` prompts at a time until the buffer is full. draw(n): prompts with references."""
    episodes: list[Episode] = []
    while sum(len(episode.actions) for episode in episodes) < settings.tokens:
        episodes += score(models, tokenizer, draw(settings.n_envs), None, reward, settings)
    return episodes, fill(episodes, models.policy.config.vocab_size, settings)


def fill(episodes: Sequence[Episode], vocabulary: int, settings: OldSettings) -> Buffer:
    """The first `tokens` transitions; the episode that is cut goes on from the value of its next token."""
    n, width, longest = settings.tokens, settings.max_prompt_length, settings.max_episode_length
    integers = [np.zeros(shape, dtype=np.int64) for shape in ((n, width), (n, width), (n, longest), n, n)]
    prompts, prompt_masks, contexts, lengths, actions = integers
    logprobs, values, rewards, advantages = (np.zeros(n, dtype=np.float32) for _ in range(4))
    action_masks = np.zeros((n, vocabulary))
    row = 0
    for episode in episodes:
        kept = min(len(episode.actions), n - row)
        # 0 after the last token; the token after the buffer's last belongs to the same text.
        next_values = np.append(episode.values, 0.0)[1 : kept + 1]
        deltas = episode.rewards[:kept] + settings.gamma * next_values - episode.values[:kept]
        advantage = 0.0
        for t in reversed(range(kept)):
            advantage = deltas[t] + settings.gamma * settings.gae_lambda * advantage
            advantages[row + t] = advantage
        for t in range(kept):
            prompts[row + t], prompt_masks[row + t] = episode.prompt, episode.prompt_mask
            contexts[row + t, :t], lengths[row + t] = episode.actions[:t], t
            action_masks[row + t] = np.ones(vocabulary)
        rows = slice(row, row + kept)
        actions[rows], logprobs[rows] = episode.actions[:kept], episode.logprobs[:kept]
        values[rows], rewards[rows] = episode.values[:kept], episode.rewards[:kept]
        row += kept
    returns = advantages + values
    arrays = (
        prompts,
        prompt_masks,
        contexts,
        lengths,
        actions,
        logprobs,
        values,
        rewards,
        advantages,
        returns,
    )
    return Buffer(*arrays, action_masks)


def loss_of(models: OldModels, buffer: Buffer, rows: np.ndarray, settings: OldSettings) -> Tensor:
    """The loss of a minibatch of transitions."""
    old_logprobs, advantages, returns = (
        torch.from_numpy(array[rows]) for array in (buffer.logprobs, buffer.advantages, buffer.returns)
    )
    logprobs, values, entropy = evaluate(models, buffer, rows, settings)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
    policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
    value_loss = nn.functional.mse_loss(returns, values)
    return policy_loss + settings.vf_coef * value_loss - settings.ent_coef * entropy.mean()


def evaluate(
    models: OldModels, buffer: Buffer, rows: np.ndarray, settings: OldSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, value and entropy of transitions, from one row of the models for each."""
    actions, prompts, masks, contexts, lengths = (
        torch.from_numpy(array[rows])
        for array in (buffer.actions, buffer.prompts, buffer.prompt_masks, buffer.contexts, buffer.lengths)
    )
    outputs = []
    for model in (models.policy, models.value):
        if models.is_seq2seq:
            start = torch.full((len(rows), 1), model.config.decoder_start_token_id)
            before = torch.cat([start, contexts[:, :-1]], 1)
            outputs.append(
                _asked_at(model, lengths, input_ids=prompts, attention_mask=masks, decoder_input_ids=before)
            )
        else:
            real = torch.arange(contexts.shape[1]) < lengths[:, None]
            mask = torch.cat([masks, real.long()], 1)
            outputs.append(
                _asked_at(
                    model,
                    prompts.shape[1] - 1 + lengths,
                    input_ids=torch.cat([prompts, contexts], 1),
                    attention_mask=mask,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                )
            )
    (logits, _), (_, states) = outputs
    distribution = Categorical(logits=logits / settings.temperature)
    return distribution.log_prob(actions), models.head(states)[:, 0], distribution.entropy()


def update(models: OldModels, buffer: Buffer, rows: np.ndarray, settings: OldSettings) -> None:
    """One step of the optimiser."""
    loss = loss_of(models, buffer, rows, settings)
    models.optimizer.zero_grad()
    loss.backward()
    parameters = [parameter for _, parameter in models.named_parameters()]
    nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    models.optimizer.step()


def minibatches(settings: OldSettings, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The transitions of each minibatch: all in a new random order every epoch."""
    for _ in range(epochs):
        order = rng.permutation(settings.tokens)
        for first in range(0, settings.tokens, settings.batch_size):
            yield order[first : first + settings.batch_size]


def _asked_at(model: Any, positions: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, V] and last hidden state [B, d] at one position of each row; computed at all."""
    output = model(**inputs, output_hidden_states=True, use_cache=False)
    states = output.decoder_hidden_states if model.config.is_encoder_decoder else output.hidden_states
    rows = torch.arange(len(positions))
    return output.logits[rows, positions], states[-1][rows, positions]


def _stepper(model: Any, ids: Tensor, mask: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from the tokens so far [B, t], one more each time, to logits and last hidden state there."""
    if model.config.is_encoder_decoder:

        def without_cache(before: Tensor) -> tuple[Tensor, Tensor]:
            start = torch.full((len(ids), 1), model.config.decoder_start_token_id)
            tokens = torch.cat([start, before], 1)
            states = model.get_encoder()(input_ids=ids, attention_mask=mask)
            output = model(
                encoder_outputs=states,
                attention_mask=mask,
                decoder_input_ids=tokens,
                use_cache=False,
                output_hidden_states=True,
            )
            return output.logits[:, -1], output.decoder_hidden_states[-1][:, -1]

        return without_cache

    cache: Any = None

    def with_cache(before: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal cache, mask
        tokens = ids if cache is None else before[:, -1:]
        if cache is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        cache = output.past_key_values
        return output.logits[:, -1], output.hidden_states[-1][:, -1]

    return with_cache
