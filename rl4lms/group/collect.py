"""An iteration's groups: the next prompts of the epoch's order, G responses to each, rewarded and scored.

What they are is a function of models, seed and place in the order alone, whatever is generated together and
however many processes share the work.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.seeding import derive_seed
from rl4lms.config import GroupConfig
from rl4lms.config.training_blocks import EnvConfig
from rl4lms.episodes import (
    EPISODES_AT_A_TIME,
    Episode,
    generate_episodes,
    have_ended,
    pad_episodes,
    reward_episodes,
    rollout_settings,
)
from rl4lms.errors import DivergenceError
from rl4lms.group.update import has_spread, overlong_penalty
from rl4lms.model.forward import Sequences, can_share_rows
from rl4lms.model.generation import decode
from rl4lms.model.load import is_seq2seq
from rl4lms.model.parallel import World
from rl4lms.model.policy import PolicyModel
from rl4lms.requirements import RequirementError
from rl4lms.rewards import RewardError
from rl4lms.samples import Sample
from rl4lms.task_reward import TaskReward, arrange_parts

logger = logging.getLogger(__name__)
_LOGITS_AT_A_TIME = 2**26  # of a pass: 256 MiB


@dataclass(frozen=True, kw_only=True)
class Actors:
    """The models of a run, and what they act on. reference: the frozen start, None without a KL penalty."""

    policy: PolicyModel
    reference: PolicyModel | None
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Sample]
    reward: TaskReward
    env: EnvConfig
    alg: GroupConfig
    seed: int

    @property
    def device(self) -> torch.device:
        """The device that the policy is on."""
        return next(self.policy.parameters()).device


@dataclass(frozen=True)
class Group:
    """G responses to a prompt. spread: their rewards differ.

    texts, rewards (of the task), ended (not cut), parts (of the rewards, see TextReward): [G].
    """

    episodes: list[Episode]
    texts: list[str]
    rewards: list[float]
    ended: list[bool]
    spread: bool
    parts: list[dict[str, float | None]]


@dataclass(frozen=True)
class Collected:
    """All groups that an iteration generated, and which it trains on. position: the next prompt's."""

    groups: list[Group]
    kept: list[bool]
    rounds: int
    position: int


def prompt_at(position: int, size: int, seed: int) -> int:
    """The sample that comes at a position of the endless order: a fresh permutation of all for each epoch."""
    epoch, place = divmod(position, size)
    return int(np.random.default_rng(derive_seed(seed, "prompts", epoch)).permutation(size)[place])


def collect(actors: Actors, iteration: int, position: int, world: World) -> Collected:
    """Generate groups for the next prompts until there are `prompts_per_iteration`, with spread if asked for.

    position: in the order of prompts. Raises GenerationError, RewardError, RequirementError; DivergenceError:
    too few groups have spread, and the config says stop.
    """
    args = actors.alg.args
    sampling, needed = args.dynamic_sampling, args.prompts_per_iteration
    groups: list[Group] = []
    kept: list[bool] = []
    rounds = 0
    while sum(kept) < needed and rounds < (sampling.max_rounds if sampling.enabled else 1):
        rounds += 1
        asked = list(range(position, position + needed - sum(kept)))
        position += len(asked)
        fresh = world.gather(_collect_share(actors, world.share(asked), world))
        groups += fresh
        kept += [group.spread or not sampling.enabled for group in fresh]
    if sum(kept) < needed and sampling.when_short == "stop":
        raise DivergenceError(
            f"iteration {iteration}: of {len(groups):,} groups in {rounds} rounds {sum(kept):,} have spread, "
            f"{needed:,} are asked for (alg.args.dynamic_sampling: max_rounds, when_short: stop); the "
            "rewards of the others are all equal: see diagnose_vanishing_gradients.py"
        )
    if sum(kept) < needed:
        _warn_of_few(needed, rounds)
    return Collected(groups, kept, rounds, position)


@cache  # once in a process: a row of the log has the numbers of each iteration
def _warn_of_few(needed: int, rounds: int) -> None:
    logger.warning(
        "fewer than %s groups have spread after %s rounds: trained on those alone, here and in later "
        "iterations (alg.args.dynamic_sampling.when_short: train); group/kept in the log is their number",
        f"{needed:,}",
        f"{rounds:,}",
    )


def _collect_share(actors: Actors, positions: list[int], world: World) -> list[Group]:
    """This process's groups. A reward that fails in one process fails in all."""
    groups: list[Group] = []
    failed = None
    try:
        groups = _make_groups(actors, positions)
    except (RewardError, RequirementError) as error:
        failed = error  # the other processes would wait for ever
    for failure in world.gather([failed]):
        if failure is not None:
            raise failure
    return groups


def _make_groups(actors: Actors, positions: list[int]) -> list[Group]:
    model, size = actors.policy.model, actors.alg.args.group_size
    episodes = generate_episodes(
        model,
        actors.tokenizer,
        actors.train,
        [prompt_at(position, len(actors.train), actors.seed) for position in positions],
        [
            [derive_seed(actors.seed, "rollout", position, text) for text in range(size)]
            for position in positions
        ],
        rollout_settings(actors.alg, actors.env),
        actors.env,
    )
    texts = [decode(actors.tokenizer, episode.response.tolist()) for episode in episodes]
    scored = reward_episodes(model, actors.train, actors.reward, episodes, texts, actors.env)
    rewards, parts = [reward.total for reward in scored], [reward.parts for reward in scored]
    ended = have_ended(model, episodes)
    groups = []
    for first in range(0, len(episodes), size):
        part = slice(first, first + size)
        spread = bool(has_spread(torch.tensor([rewards[part]], dtype=torch.float64))[0])
        groups.append(Group(episodes[part], texts[part], rewards[part], ended[part], spread, parts[part]))
    return groups


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """P groups of G texts to train on, B = P G; and all that were generated, to be logged.

    sequences: of the B texts; mask: [B, T], their tokens in the loss; rewards: [P, G], less the penalty of
    overlong texts; penalties: [B], what a KL penalty in the reward takes off each, 0 without one.
    old_logprobs: [B, T], of the policy that sampled; None where the only update of the iteration computes
    them. ref_logprobs: [B, T]; None without a KL penalty.
    """

    sequences: Sequences
    mask: Tensor
    rewards: Tensor
    penalties: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    collected: Collected

    @property
    def samples(self) -> Tensor:
        return torch.tensor([e.sample for group in self.collected.groups for e in group.episodes])

    @property
    def texts(self) -> list[str]:
        return [text for group in self.collected.groups for text in group.texts]

    @property
    def task_rewards(self) -> Tensor:
        return torch.tensor([reward for group in self.collected.groups for reward in group.rewards])

    @property
    def reward_parts(self) -> dict[str, list[float | None]]:
        return arrange_parts([parts for group in self.collected.groups for parts in group.parts])

    @property
    def kl_penalties(self) -> Tensor:
        """What a KL penalty in the reward takes off each text, [E]; 0 for those that are left out."""
        kept = torch.tensor(self.kept)
        return torch.zeros(len(kept)).masked_scatter(kept, self.penalties.cpu())

    @property
    def kept(self) -> list[bool]:
        pairs = zip(self.collected.groups, self.collected.kept, strict=True)
        return [kept for group, kept in pairs for _ in group.texts]

    @property
    def response_tokens(self) -> int:
        return sum(len(e.response) for group in self.collected.groups for e in group.episodes)

    @property
    def trained_tokens(self) -> int:
        return int(self.mask.sum())

    def statistics(self) -> dict[str, float]:
        """Compute what is logged of the rollouts: of all texts that were generated, and of their groups."""
        groups = self.collected.groups
        rewards = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
        lengths = torch.tensor([len(e.response) for group in groups for e in group.episodes]).double()
        stds, flat = rewards.std(1, correction=0), rewards.flatten()
        without = torch.tensor([not group.spread for group in groups])
        # Without spread, low or high: on which side of the middle of the rewards seen.
        high = without & (rewards[:, 0] > (flat.max() + flat.min()) / 2)
        statistics = {
            "rollout_info/ep_rew": float(flat.mean()),
            "rollout_info/ep_rew_std": float(flat.std(correction=0)),
            "rollout_info/ep_lens": float(lengths.mean()),
            "rollout_info/ep_lens_std": float(lengths.std(correction=0)),
            "rollout_info/input_reward_std": float(stds.mean()),
            "rollout_info/ended": float(torch.tensor([e for g in groups for e in g.ended]).double().mean()),
            "group/no_spread": float(without.double().mean()),
            "group/no_spread_low": float((without & ~high).double().mean()),
            "group/no_spread_high": float(high.double().mean()),
            "group/generated": float(len(groups)),
            "group/kept": float(sum(self.collected.kept)),
            "group/rounds": float(self.collected.rounds),
        }
        if self.ref_logprobs is not None and self.old_logprobs is not None and self.mask.any():
            kl = (self.old_logprobs - self.ref_logprobs)[self.mask]
            statistics["rollout_info/kl_div_mean"] = float(kl.mean())
            statistics["rollout_info/kl_div_mean_std"] = float(kl.std(correction=0))
        return statistics


def score(actors: Actors, collected: Collected, world: World) -> Rollouts:
    """Put the groups to train on together, with the log-probabilities of their tokens that the loss needs."""
    alg, device = actors.alg, actors.device
    groups = [group for group, kept in zip(collected.groups, collected.kept, strict=True) if kept]
    episodes = [episode for group in groups for episode in group.episodes]
    size = alg.args.group_size
    if not episodes:
        nothing = torch.zeros((0, 0), dtype=torch.bool, device=device)
        empty = Sequences(nothing.long(), nothing, nothing.long(), nothing)
        return Rollouts(
            sequences=empty, mask=nothing, rewards=torch.zeros((0, size), device=device),
            penalties=torch.zeros(0), old_logprobs=None, ref_logprobs=None, collected=collected,
        )  # fmt: skip
    sequences = pad_episodes(episodes, device, left=not is_seq2seq(actors.policy.model))
    mask = sequences.response_mask
    if alg.args.mask_truncated:
        ended = torch.tensor([ended for group in groups for ended in group.ended], device=device)
        mask = mask & ended[:, None]
    rewards = torch.tensor([group.rewards for group in groups], device=device)
    if (overlong := alg.args.overlong) is not None:
        longest = rollout_settings(alg, actors.env).max_new_tokens
        lengths = sequences.response_mask.sum(1).view(-1, size)
        rewards = rewards + overlong_penalty(lengths, longest, overlong.buffer, overlong.penalty)
    several_updates = alg.args.n_epochs > 1 or (alg.args.batch_size or len(episodes)) < len(episodes)
    temperature = alg.generation_kwargs.temperature
    old = ref = None
    if several_updates or alg.needs_reference:
        old = _logprobs(actors.policy, sequences, temperature, world)
    if actors.reference is not None:
        ref = _logprobs(actors.reference, sequences, temperature, world)
    penalties = torch.zeros(len(episodes), device=device)
    if old is not None and ref is not None and alg.kl_div.where == "reward":
        penalties = alg.kl_div.coeff * (old - ref).sum(1)  # both 0 where there is no token
    return Rollouts(
        sequences=sequences,
        mask=mask,
        rewards=rewards,
        penalties=penalties,
        old_logprobs=old,
        ref_logprobs=ref,
        collected=collected,
    )


def _logprobs(model: PolicyModel, sequences: Sequences, temperature: float, world: World) -> Tensor:
    """The log-probabilities [B, T] of all responses, computed in shares and in parts."""
    mask = sequences.response_mask
    result = torch.zeros(mask.shape, device=mask.device)
    for part in parts(model, world.share(list(range(len(mask)))), mask, EPISODES_AT_A_TIME):
        longest = int(mask[part].sum(1).max())
        logprobs, _ = model.taken_logprobs(sequences.select(part, longest), temperature, share=True)
        result[part, :longest] = logprobs
    world.sum_([result])
    return result


def parts(policy: PolicyModel, texts: list[int], mask: Tensor, most: int | None = None) -> Iterator[Tensor]:
    """Yield numbers of texts, as many at a time as their logits may be, and at most `most`.

    mask: [B, T], the tokens; texts without any are left out. Those of a prompt stay together, which need it
    once in a pass, or those of similar lengths where a pass has a row for each.
    """
    lengths = mask.sum(1).tolist()
    together = can_share_rows(policy.model)
    order = sorted((text for text in texts if lengths[text]), key=lambda i: i if together else -lengths[i])
    tokens = _LOGITS_AT_A_TIME // policy.model.get_output_embeddings().weight.shape[0]
    first = used = 0
    for last, text in enumerate(order):
        used += lengths[text]
        if last > first and (used > tokens or last - first == most):
            yield torch.tensor(order[first:last], device=mask.device)
            first, used = last, lengths[text]
    if first < len(order):
        yield torch.tensor(order[first:], device=mask.device)
