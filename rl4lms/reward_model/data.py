"""What a reward model is trained on: elements of a batch, their order, and how they share forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.seeding import derive_seed
from rl4lms.config.algorithms import RewardModelArgs
from rl4lms.model.reward_model import RewardModel, Tokens
from rl4lms.rankings import Comparison, Ranking
from rl4lms.reward_model.loss import (
    best_of_loss,
    count_right,
    find_best,
    find_order,
    pairwise_losses,
    plackett_luce_loss,
)
from rl4lms.run_setup import TrainingDataError


@dataclass(frozen=True)
class Element:
    """Completions that share a part of the loss: all of a prompt that are compared, or those of one pair.

    pairs: indices into completions. share: its weight in the mean over a batch; of a prompt 1, of a pair
    alone what it weighs among those of its prompt. order: the completions from best to worst, or the best
    alone, for losses that need it.
    """

    prompt: str
    completions: list[str]
    pairs: list[Comparison]
    share: float = 1.0
    order: tuple[int, ...] = ()


def make_elements(rankings: Sequence[Ranking], args: RewardModelArgs, split: str) -> list[Element]:
    """The elements of a split's rankings; completions that no comparison names are left out.

    Raises TrainingDataError: a prompt without what the loss needs.
    """
    if args.batching == "pair":
        return [element for ranking in rankings for element in _split_into_pairs(ranking)]
    elements = []
    for ranking in rankings:
        try:
            elements.append(_make_element(ranking, args))
        except ValueError as error:
            raise TrainingDataError(f"alg.args.loss: prompt {ranking.id!r} of {split}: {error}") from error
    return elements


def _make_element(ranking: Ranking, args: RewardModelArgs) -> Element:
    count, order = len(ranking.completions), []
    if args.loss == "best_of":
        order = [find_best(count, ranking.pairs)]
    elif args.loss == "plackett_luce":
        order = find_order(count, ranking.pairs)
    used = sorted({i for pair in ranking.pairs for i in (pair.winner, pair.loser)})
    place = {index: position for position, index in enumerate(used)}
    pairs = [Comparison(place[p.winner], place[p.loser], p.margin, p.weight) for p in ranking.pairs]
    completions = [ranking.completions[i] for i in used]
    return Element(ranking.prompt, completions, pairs, order=tuple(place[i] for i in order))


def _split_into_pairs(ranking: Ranking) -> Iterator[Element]:
    whole = sum(pair.weight for pair in ranking.pairs)
    for pair in ranking.pairs:
        texts = [ranking.completions[pair.winner], ranking.completions[pair.loser]]
        comparison = Comparison(0, 1, pair.margin, pair.weight)
        yield Element(ranking.prompt, texts, [comparison], share=pair.weight / whole)


def updates_per_epoch(elements: int, args: RewardModelArgs) -> int:
    """How many batches an epoch has; the last may be smaller."""
    return -(-elements // batch_size(args))


def batch_size(args: RewardModelArgs) -> int:
    """The number of elements of a batch."""
    return args.pairs_per_batch if args.pairs_per_batch is not None else args.prompts_per_batch


def draw_batch(elements: Sequence[Element], update: int, args: RewardModelArgs, seed: int) -> list[Element]:
    """The elements of an update, from 1; each epoch takes each once, in a random order of its own."""
    epoch, number = divmod(update - 1, updates_per_epoch(len(elements), args))
    generator = torch.Generator().manual_seed(derive_seed(seed, "rankings", epoch))
    order = torch.randperm(len(elements), generator=generator).tolist()
    size = batch_size(args)
    return [elements[i] for i in order[number * size : (number + 1) * size]]


@dataclass(frozen=True)
class MicroBatch:
    """Elements that share a forward pass, and the tokens of their N completions, in their order."""

    elements: list[Element]
    rows: list[Tokens]


def micro_batches(elements: Sequence[Element], model: RewardModel, texts: int) -> Iterator[MicroBatch]:
    """Whole elements of similar length, at most `texts` completions; one that has more goes alone."""
    prompts = [element.prompt for element in elements for _ in element.completions]
    rows = model.encode(prompts, [text for element in elements for text in element.completions])
    parts, first = [], 0
    for element in elements:
        parts.append((element, rows[first : first + len(element.completions)]))
        first += len(element.completions)
    parts.sort(key=lambda part: -max(map(len, part[1])))
    taken = MicroBatch([], [])
    for element, own_rows in parts:
        if taken.rows and len(taken.rows) + len(own_rows) > texts:
            yield taken
            taken = MicroBatch([], [])
        taken.elements.append(element)
        taken.rows.extend(own_rows)
    if taken.rows:
        yield taken


def sum_losses(rewards: Tensor, elements: Sequence[Element], args: RewardModelArgs) -> tuple[Tensor, Tensor]:
    """The sum of share * loss over elements, and counts: comparisons and right ones, by weight, and texts.

    rewards: [N] of all their completions, in their order. Returns a number and [3].
    """
    winners, losers, margins, weights, shares = [], [], [], [], []
    first = 0
    for element in elements:
        whole = sum(pair.weight for pair in element.pairs)
        for pair in element.pairs:
            winners.append(first + pair.winner)
            losers.append(first + pair.loser)
            margins.append(pair.margin if args.use_margin else 0.0)
            weights.append(pair.weight)
            shares.append(element.share * pair.weight / whole)
        first += len(element.completions)
    better, worse = rewards[winners], rewards[losers]
    with torch.no_grad():
        weight = rewards.new_tensor(weights)
        right = weight @ count_right(better, worse)
        counts = torch.stack([weight.sum(), right, weight.new_tensor(len(rewards))])
    if args.loss == "pairwise":
        margin = rewards.new_tensor(margins)
        losses = pairwise_losses(better, worse, margin, args.label_smoothing, args.center_rewards_coefficient)
        return rewards.new_tensor(shares) @ losses, counts
    parts = rewards.split([len(element.completions) for element in elements])
    if args.loss == "best_of":
        listed = [best_of_loss(part, element.order[0]) for part, element in zip(parts, elements, strict=True)]
    else:
        listed = [
            plackett_luce_loss(part[list(element.order)])
            for part, element in zip(parts, elements, strict=True)
        ]
    return torch.stack(listed).sum(), counts
