"""Episodes: responses of the policy to the prompts of samples, generated, rewarded and padded to tensors.

What they are is a function of model, prompts, settings and seeds, whatever they are generated with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rl4lms.config import RolloutConfig
from rl4lms.config.training_blocks import EnvConfig
from rl4lms.model.forward import Sequences
from rl4lms.model.generation import Decoding, encode_prompts, prompt_limit
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.sampling import Processor, end_tokens, generate_ids
from rl4lms.samples import Sample
from rl4lms.task_reward import TaskReward, TextReward
from rl4lms.text import make_text_batch

EPISODES_AT_A_TIME = 128


@dataclass(frozen=True)
class Episode:
    """A response to the prompt of a sample. sample: its position; prompt, response: token ids, on the CPU."""

    sample: int
    prompt: Tensor
    response: Tensor


def rollout_settings(alg: RolloutConfig, env: EnvConfig) -> GenerationSettings:
    """Return how episodes are sampled: they end after `max_episode_length` tokens at the latest."""
    settings = alg.generation_kwargs
    return settings.model_copy(update={"max_new_tokens": env.args.longest_text(settings)})


def generate_episodes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Sample],
    drawn: Sequence[int],
    seeds: Sequence[Sequence[int]],
    settings: GenerationSettings,
    env: EnvConfig,
    processor: Callable[[Tensor, Tensor], Processor] | None = None,
) -> list[Episode]:
    """Sample G responses to each of B prompts, those of a prompt one after the other.

    drawn: B positions in `train`; seeds: [B][G], each the source of a response's random numbers. processor:
    makes one for prompts, their ids and mask (NLPO's mask). Raises GenerationError.
    """
    decoding = Decoding(
        settings=settings,
        max_prompt_length=env.args.max_prompt_length,
        truncation_side=env.args.prompt_truncation_side,
        batch_size=EPISODES_AT_A_TIME,
    )
    limit = prompt_limit(model, tokenizer, decoding)
    per_prompt = len(seeds[0]) if seeds else 1
    size = max(1, EPISODES_AT_A_TIME // per_prompt)
    episodes = []
    for first in range(0, len(drawn), size):
        chunk = slice(first, first + size)
        prompts = [train[sample].prompt_or_input_text for sample in drawn[chunk]]
        ids, mask = encode_prompts(model, tokenizer, prompts, limit, decoding.truncation_side)
        uniforms = np.stack(
            [
                [
                    np.random.default_rng(seed).random(settings.max_new_tokens, np.float32)
                    for seed in of_prompt
                ]
                for of_prompt in seeds[chunk]
            ]
        )
        processors = [] if processor is None else [processor(ids, mask)]
        responses, real = generate_ids(model, ids, mask, settings, torch.from_numpy(uniforms), processors)
        ids, mask, responses, real = (tensor.cpu() for tensor in (ids, mask, responses, real))
        episodes += [
            Episode(
                drawn[chunk][row // per_prompt], ids[row // per_prompt, mask[row // per_prompt]], text[kept]
            )
            for row, (text, kept) in enumerate(zip(responses, real, strict=True))
        ]
    return episodes


def reward_episodes(
    model: PreTrainedModel,
    train: Sequence[Sample],
    reward: TaskReward,
    episodes: Sequence[Episode],
    texts: Sequence[str],
    env: EnvConfig,
) -> list[TextReward]:
    """Compute the task reward of every text, in one call. Raises RewardError.

    With `reward_unfinished: false` a text that is cut before `max_episode_length` gets 0; with
    `missing_eos_penalty` that is the reward of each text without an end token.
    """
    if not episodes:
        return []
    samples = [train[episode.sample] for episode in episodes]
    rewards = reward(make_text_batch(samples, texts, model, "train"))
    penalty = env.args.missing_eos_penalty
    if penalty is not None:
        return [
            value if ended else replace(value, total=penalty)
            for value, ended in zip(rewards, have_ended(model, episodes), strict=True)
        ]
    if env.args.reward_unfinished:
        return rewards
    longest = env.args.max_episode_length
    return [
        value if len(episode.response) == longest or ended else value.withheld()
        for value, episode, ended in zip(rewards, episodes, have_ended(model, episodes), strict=True)
    ]


def have_ended(model: PreTrainedModel, episodes: Sequence[Episode]) -> list[bool]:
    """Tell which responses end with an end token, and are not cut."""
    ends = end_tokens(model)
    return [int(episode.response[-1]) in ends for episode in episodes]


def pad_episodes(episodes: Sequence[Episode], device: torch.device, left: bool) -> Sequences:
    """Pad episodes to tensors. left: where prompts are padded; responses always on the right."""
    prompts, prompt_mask = _pad([episode.prompt for episode in episodes], left)
    responses, response_mask = _pad([episode.response for episode in episodes], False)
    return Sequences(*(tensor.to(device) for tensor in (prompts, prompt_mask, responses, response_mask)))


def _pad(rows: Sequence[Tensor], left: bool) -> tuple[Tensor, Tensor]:
    side = "left" if left else "right"
    mask = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    ids = pad_sequence(list(rows), batch_first=True, padding_side=side)
    return ids, pad_sequence(mask, batch_first=True, padding_side=side)
