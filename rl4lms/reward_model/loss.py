"""Losses of the rewards of one prompt's completions, as functions of the rewards alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rl4lms.rankings import Comparison


def pairwise_losses(
    winners: Tensor,
    losers: Tensor,
    margins: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    center_coefficient: float = 0.0,
) -> Tensor:
    """The negative log-likelihood [P] of P comparisons in the model of Bradley and Terry (1952).

    winners, losers: rewards [P]. The winner's is to exceed the loser's by its margin [P]. label_smoothing:
    the probability that a label is wrong. center_coefficient: weight of (r_w + r_l)^2, which keeps rewards
    near 0, as in TRL. The paper's loss of a prompt (Ouyang et al. 2022, eq. 1) is the mean over its
    comparisons: sum_pairs w loss / sum_pairs w, where a tie is two comparisons of weight 1/2, one each way,
    and so counts as one.
    """
    difference = winners - losers - margins
    losses = -logsigmoid(difference)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * logsigmoid(-difference)
    if center_coefficient:
        losses = losses + center_coefficient * (winners + losers).square()
    return losses


def best_of_loss(rewards: Tensor, best: int) -> Tensor:
    """The cross entropy of the best of K under the softmax of rewards [K] (Ziegler et al. 2019)."""
    return rewards.logsumexp(0) - rewards[best]


def plackett_luce_loss(rewards: Tensor) -> Tensor:
    """The negative log-likelihood of an order of K completions (Plackett 1975).

    rewards: [K], the best completion's first. The best is chosen by the softmax of all, the next by that of
    the rest, and so on.
    """
    return (rewards.flip(0).logcumsumexp(0).flip(0) - rewards).sum()


def find_best(completions: int, pairs: Sequence[Comparison]) -> int:
    """The completion that beats all others that it was compared with. Raises ValueError: none, or several."""
    compared = {i for pair in pairs for i in (pair.winner, pair.loser)}
    unbeaten = sorted(compared - {pair.loser for pair in pairs})
    if len(unbeaten) != 1:
        which = f"completions {', '.join(map(str, unbeaten))} are" if unbeaten else "no completion is"
        raise ValueError(f"{which} never the worse one, of {completions}; loss: best_of needs one best")
    return unbeaten[0]


def find_order(completions: int, pairs: Sequence[Comparison]) -> list[int]:
    """The completions from best to worst. Raises ValueError: the comparisons give no complete order."""
    compared = sorted({i for pair in pairs for i in (pair.winner, pair.loser)})
    wins = dict.fromkeys(compared, 0)
    for winner, _ in {(pair.winner, pair.loser) for pair in pairs}:
        wins[winner] += 1
    # In an order of K the completions beat K - 1, ..., 1, 0 others, and in nothing else.
    if sorted(wins.values()) != list(range(len(compared))) or len(pairs) != sum(range(len(compared))):
        raise ValueError(
            f"its {len(pairs)} comparisons give the {completions} completions no complete order without "
            "ties; loss: plackett_luce needs one, loss: pairwise does not"
        )
    return sorted(compared, key=lambda i: -wins[i])


def count_right(winners: Tensor, losers: Tensor) -> Tensor:
    """Which of P comparisons the rewards [P] agree with: 1, equal rewards 1/2, else 0."""
    return (torch.sign(winners - losers) + 1) / 2
