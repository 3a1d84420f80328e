"""An iteration's rollouts: prompts drawn, responses sampled, rewarded and scored, the buffer filled.

Episodes are drawn, sampled and scored in chunks of similar lengths, and shared out among the processes; what
they are is a function of models, seed and iteration alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.seeding import derive_seed
from rl4lms.config import OnPolicyConfig
from rl4lms.config.training_blocks import EnvConfig
from rl4lms.episodes import (
    EPISODES_AT_A_TIME,
    Episode,
    generate_episodes,
    pad_episodes,
    reward_episodes,
    rollout_settings,
)
from rl4lms.model.generation import decode
from rl4lms.model.load import autocast, is_seq2seq
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel
from rl4lms.ppo.mask import MaskModel, PackedMasks
from rl4lms.ppo.rollouts import Rollouts, Scores, fill_buffer, score_rollouts
from rl4lms.pretraining import PretrainingText
from rl4lms.requirements import RequirementError
from rl4lms.rewards import RewardError
from rl4lms.samples import Sample
from rl4lms.task_reward import TaskReward, TextReward, arrange_parts

_LOGITS_AT_A_TIME = 2**26  # of a scoring pass: 256 MiB
_SPARE = 1.05  # episodes asked for, over what the mean length says: a second round costs more


@dataclass(frozen=True, kw_only=True)
class Actors:
    """The models of a run, and what they act on.

    reference: the frozen start; mask_model: NLPO only; pretraining: the text of PPO-ptx.
    """

    policy: PolicyModel
    reference: PolicyModel
    mask_model: MaskModel | None
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Sample]
    reward: TaskReward
    env: EnvConfig
    alg: OnPolicyConfig
    seed: int
    pretraining: PretrainingText | None = None

    @property
    def device(self) -> torch.device:
        """The device that the policy is on."""
        return next(self.policy.parameters()).device


@dataclass(frozen=True)
class ScoredEpisode:
    """An episode's text, its task reward, and what was computed of its T tokens, on the CPU.

    scores: tensors [T]; allowed: packed action masks of the tokens (NLPO).
    """

    text: str
    reward: TextReward
    scores: Scores
    allowed: PackedMasks | None


def sample(actors: Actors, iteration: int, expected_length: float, world: World) -> list[Episode]:
    """Sample responses to prompts drawn with replacement, until there are `n_steps * n_envs` tokens.

    expected_length: tokens of an episode, to ask for the right number at once. A multiple of `n_envs` are
    returned, the same however many were asked for; or `episodes`, where the config has that. Raises
    GenerationError.
    """
    generator = np.random.default_rng(derive_seed(actors.seed, "prompts", iteration))
    if (texts := actors.alg.args.episodes) is not None:
        drawn = generator.integers(len(actors.train), size=texts)
        asked = world.share(list(range(texts)))
        return world.gather(_sample_share(actors, iteration, asked, drawn[asked].tolist()))
    needed = _buffer_tokens(actors)
    drawn = generator.integers(len(actors.train), size=needed + actors.env.n_envs)
    episodes: list[Episode] = []
    tokens = 0
    while tokens < needed:
        count = math.ceil(_SPARE * (needed - tokens) / expected_length / actors.env.n_envs)
        first = len(episodes)
        last = min(first + max(1, count) * actors.env.n_envs, len(drawn))
        asked = world.share(list(range(first, last)))
        episodes += world.gather(_sample_share(actors, iteration, asked, drawn[asked].tolist()))
        tokens = sum(len(episode.response) for episode in episodes)
        expected_length = tokens / len(episodes)
    lengths = np.cumsum([len(episode.response) for episode in episodes])
    enough = int(np.searchsorted(lengths, needed)) + 1
    return episodes[: math.ceil(enough / actors.env.n_envs) * actors.env.n_envs]


def _buffer_tokens(actors: Actors) -> int:
    """Counts the tokens of an iteration that is filled up."""
    assert actors.alg.args.n_steps is not None  # OnPolicyArgs.check
    return actors.alg.args.n_steps * actors.env.n_envs


def _sample_share(actors: Actors, iteration: int, numbers: list[int], drawn: list[int]) -> list[Episode]:
    """Sample the episodes of these numbers, each with random numbers of its own."""
    return generate_episodes(
        actors.policy.model,
        actors.tokenizer,
        actors.train,
        drawn,
        [[derive_seed(actors.seed, "rollout", iteration, number)] for number in numbers],
        rollout_settings(actors.alg, actors.env),
        actors.env,
        None if actors.mask_model is None else actors.mask_model.processor,
    )


def score(actors: Actors, episodes: list[Episode], kl_coeff: float, world: World) -> list[ScoredEpisode]:
    """Reward every text, and compute what PPO needs of its tokens.

    Raises RewardError, RequirementError; a reward that fails in one process fails in all.
    """
    scored: list[ScoredEpisode] = []
    failed = None
    try:
        scored = _score_share(actors, world.share(episodes), kl_coeff)
    except (RewardError, RequirementError) as error:
        failed = error  # the other processes would wait for ever
    for failure in world.gather([failed]):
        if failure is not None:
            raise failure
    return world.gather(scored)


def _score_share(actors: Actors, episodes: list[Episode], kl_coeff: float) -> list[ScoredEpisode]:
    """Reward and score this process's episodes, in batches of similar lengths."""
    model = actors.policy.model
    texts = [decode(actors.tokenizer, episode.response.tolist()) for episode in episodes]
    rewards = reward_episodes(model, actors.train, actors.reward, episodes, texts, actors.env)
    scored: dict[int, ScoredEpisode] = {}
    for chunk in _chunks(model, episodes):
        batch = pad_episodes([episodes[i] for i in chunk], model.device, left=not is_seq2seq(model))
        allowed = None if actors.mask_model is None else actors.mask_model.allowed(batch)
        scores = score_rollouts(
            actors.policy,
            actors.reference,
            batch.prompt_ids,
            batch.prompt_mask,
            batch.response_ids,
            batch.response_mask,
            kl_coeff=kl_coeff,
            temperature=actors.alg.generation_kwargs.temperature,
            action_mask=allowed,
        )
        scores = scores.cpu()
        for row, i in enumerate(chunk):
            length = len(episodes[i].response)
            masks = None if allowed is None else PackedMasks.of(allowed[row, :length])
            scored[i] = ScoredEpisode(texts[i], rewards[i], scores.select(row, length), masks)
    return [scored[i] for i in range(len(episodes))]


def _chunks(model: PreTrainedModel, episodes: Sequence[Episode]) -> Iterator[list[int]]:
    """Yield the positions of episodes that are scored together: similar lengths, as memory allows."""
    lengths = [len(episode.prompt) + len(episode.response) for episode in episodes]
    order = sorted(range(len(episodes)), key=lambda i: lengths[i])
    longest = max((len(episode.response) for episode in episodes), default=1)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    size = min(EPISODES_AT_A_TIME, max(1, _LOGITS_AT_A_TIME // (vocabulary * longest)))
    for first in range(0, len(order), size):
        yield order[first : first + size]


@torch.no_grad()
def measure_kl(
    actors: Actors, model: PreTrainedModel, samples: Sequence[Sample], world: World, dtype: str = "float32"
) -> dict[str, float]:
    """Measure how far a model is from the reference: a text for each sample, drawn as rollouts are.

    kl/episode: a text's KL, in nats; kl/episode_root: its root, on which rewards grow evenly (Gao et al.
    2022). Of each token e^-d - 1 + d counts, which has the mean of d = log pi - log pi_ref: near the
    reference that of d itself would be noise, often below 0. The texts depend on model and seed alone. Raises
    GenerationError.
    """
    numbers = world.share(list(range(len(samples))))
    seeds = [[derive_seed(actors.seed, "kl", number)] for number in numbers]
    settings, temperature = rollout_settings(actors.alg, actors.env), actors.alg.generation_kwargs.temperature
    of_texts: list[float] = [0.0] * len(numbers)
    with autocast(actors.device, dtype):
        episodes = generate_episodes(model, actors.tokenizer, samples, numbers, seeds, settings, actors.env)
        for chunk in _chunks(model, episodes):
            batch = pad_episodes([episodes[i] for i in chunk], model.device, left=not is_seq2seq(model))
            _, logprobs = PolicyModel(model).taken_logprobs(batch, temperature)
            _, ref_logprobs = actors.reference.taken_logprobs(batch)
            d = logprobs - ref_logprobs
            for i, of_text in zip(chunk, ((-d).expm1() + d).sum(1).tolist(), strict=True):
                of_texts[i] = of_text
    gathered: list[float] = world.gather(of_texts)
    kl = max(0.0, fmean(gathered))  # rounding
    return {"kl/episode": kl, "kl/episode_root": kl**0.5}


def assemble(actors: Actors, episodes: list[Episode], scored: list[ScoredEpisode]) -> Rollouts:
    """Fill the buffer with the first `n_steps * n_envs` tokens: the last episode may be cut.

    Of `episodes` all tokens are in it.
    """
    sequences = pad_episodes(episodes, actors.device, left=not is_seq2seq(actors.policy.model))
    mask = sequences.response_mask
    if actors.alg.args.episodes is None:
        mask = fill_buffer(mask, _buffer_tokens(actors))
    allowed = None
    if actors.mask_model is not None:
        kept = zip(scored, mask.sum(1).tolist(), strict=True)
        parts = [episode.allowed.select(slice(n)) for episode, n in kept if episode.allowed is not None]
        allowed = PackedMasks.join(parts)
    return Rollouts.build(
        sequences,
        mask,
        Scores.join([episode.scores for episode in scored], actors.device),
        torch.tensor([episode.reward.total for episode in scored], device=actors.device),
        torch.tensor([episode.sample for episode in episodes]),
        [episode.text for episode in scored],
        allowed,
        arrange_parts([episode.reward.parts for episode in scored]),
    )
