"""Losses by hand, by finite differences, and as TRL has them."""

import math
from itertools import combinations, permutations

import pytest
import torch
from torch.nn.functional import cross_entropy

from rl4lms.config.algorithms import RewardModelArgs
from rl4lms.rankings import Comparison
from rl4lms.reward_model.data import Element, sum_losses
from rl4lms.reward_model.loss import (
    best_of_loss,
    count_right,
    find_best,
    find_order,
    pairwise_losses,
    plackett_luce_loss,
)

CHOSEN, REJECTED = torch.tensor([1.2, -0.3, 0.4]), torch.tensor([0.1, 0.8, -1.0])
REWARDS = [0.7, -0.2, 1.9, 0.0, -1.3]


def arguments(**fields) -> RewardModelArgs:
    return RewardModelArgs(learning_rate=1e-3, **fields)


def element(rewards: list[float], pairs: list[Comparison], **fields) -> Element:
    return Element("", [str(i) for i in range(len(rewards))], pairs, **fields)


def all_pairs(order: list[int]) -> list[Comparison]:
    return [Comparison(better, worse) for better, worse in combinations(order, 2)]


def loss_of(rewards: torch.Tensor, pairs: list[Comparison], **fields) -> torch.Tensor:
    args = arguments(**fields)
    order: tuple[int, ...] = ()
    if args.loss == "best_of":
        order = (find_best(len(rewards), pairs),)
    elif args.loss == "plackett_luce":
        order = tuple(find_order(len(rewards), pairs))
    return sum_losses(rewards, [element(rewards.tolist(), pairs, order=order)], args)[0]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.6316960200),
        ({"center_coefficient": 0.01}, 0.6393626867),
        ({"margins": torch.tensor([0.5, 0.0, 1.0])}, 0.7792795093),
    ],
)
def test_pairs_have_the_losses_that_trl_computes(options, expected):
    """Numbers of TRL 1.16's own RewardTrainer.compute_loss."""
    assert pairwise_losses(CHOSEN, REJECTED, **options).mean().item() == pytest.approx(expected, abs=1e-7)


def test_the_loss_of_a_prompt_is_the_double_sum():
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    order = [3, 0, 4, 1, 2]
    total, pairs = 0.0, 0
    for i in range(5):
        for j in range(i + 1, 5):
            total -= math.log(sigma(REWARDS[order[i]] - REWARDS[order[j]]))
            pairs += 1
    assert pairs == 10
    assert loss_of(rewards, all_pairs(order)).item() == pytest.approx(total / pairs, abs=1e-12)


def test_the_gradient_is_finite_differences_and_a_sum_over_pairs():
    rewards = torch.tensor(REWARDS, dtype=torch.float64, requires_grad=True)
    pairs = all_pairs([3, 0, 4, 1, 2])
    loss_of(rewards, pairs).backward()
    by_hand = [0.0] * 5
    for pair in pairs:
        slope = sigma(REWARDS[pair.loser] - REWARDS[pair.winner]) / len(pairs)
        by_hand[pair.winner] -= slope
        by_hand[pair.loser] += slope
    step = 1e-6
    for i in range(5):
        shift = torch.zeros(5, dtype=torch.float64)
        shift[i] = step
        up, down = loss_of(rewards.detach() + shift, pairs), loss_of(rewards.detach() - shift, pairs)
        assert rewards.grad[i].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=1e-9)
        assert rewards.grad[i].item() == pytest.approx(by_hand[i], abs=1e-12)


@pytest.mark.parametrize("loss", ["pairwise", "best_of", "plackett_luce"])
def test_a_shift_of_all_rewards_of_a_prompt_changes_nothing(loss):
    pairs = all_pairs([3, 0, 4, 1, 2])
    results = []
    for shift in (0.0, 17.0):
        rewards = (torch.tensor(REWARDS, dtype=torch.float64) + shift).requires_grad_()
        value = loss_of(rewards, pairs, loss=loss)
        value.backward()
        results.append(torch.cat([value.detach()[None], rewards.grad]))
    assert torch.allclose(*results, rtol=0, atol=1e-12)


def test_a_batch_is_the_mean_over_prompts_whatever_their_number_of_completions():
    first, second = torch.tensor([0.3, -0.4]), torch.tensor(REWARDS)
    pairs = [all_pairs([1, 0]), all_pairs([3, 0, 4, 1, 2])]
    together, counts = sum_losses(
        torch.cat([first, second]),
        [element(first.tolist(), pairs[0]), element(second.tolist(), pairs[1])],
        arguments(),
    )
    apart = loss_of(first, pairs[0]) + loss_of(second, pairs[1])
    assert together.item() == pytest.approx(apart.item(), rel=1e-6)
    assert counts[0] == 11 and counts[2] == 7


def test_weights_and_margins_by_hand():
    rewards = torch.tensor([0.5, -0.5, 0.2])
    pairs = [Comparison(0, 1, margin=0.3, weight=2.0), Comparison(2, 0, margin=1.0, weight=0.5)]
    losses = [-math.log(sigma(1.0 - 0.3)), -math.log(sigma(-0.3 - 1.0))]
    expected = (2 * losses[0] + 0.5 * losses[1]) / 2.5
    assert loss_of(rewards, pairs, use_margin=True).item() == pytest.approx(expected, rel=1e-6)
    plain = (2 * -math.log(sigma(1.0)) + 0.5 * -math.log(sigma(-0.3))) / 2.5
    assert loss_of(rewards, pairs).item() == pytest.approx(plain, rel=1e-6)


def test_a_tie_is_two_halves_that_count_as_one_comparison():
    rewards = torch.tensor([0.5, -0.5, 0.2])
    pairs = [Comparison(0, 1, weight=0.5), Comparison(1, 0, weight=0.5), Comparison(2, 1)]
    tie = (-math.log(sigma(1.0)) - math.log(sigma(-1.0))) / 2
    expected = (tie - math.log(sigma(0.7))) / 2
    assert loss_of(rewards, pairs).item() == pytest.approx(expected, rel=1e-6)
    _, counts = sum_losses(rewards, [element(rewards.tolist(), pairs)], arguments())
    assert counts.tolist() == [2.0, 1.5, 3.0]


def test_label_smoothing_is_the_expected_loss_of_labels_that_may_be_wrong():
    right, wrong = -math.log(sigma(0.9)), -math.log(sigma(-0.9))
    smoothed = pairwise_losses(torch.tensor([1.0]), torch.tensor([0.1]), label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(0.8 * right + 0.2 * wrong, rel=1e-6)


def test_the_center_keeps_the_sum_of_each_pair_near_0():
    rewards = torch.tensor(REWARDS, requires_grad=True)
    pairs = all_pairs([3, 0, 4, 1, 2])
    plain, centred = loss_of(rewards, pairs), loss_of(rewards, pairs, center_rewards_coefficient=0.01)
    squares = [(REWARDS[pair.winner] + REWARDS[pair.loser]) ** 2 for pair in pairs]
    assert (centred - plain).item() == pytest.approx(0.01 * sum(squares) / 10, rel=1e-5)


def test_best_of_is_the_cross_entropy_of_the_best():
    rewards = torch.tensor(REWARDS)
    pairs = [Comparison(2, i) for i in (0, 1, 3, 4)]
    expected = cross_entropy(rewards[None], torch.tensor([2]))
    assert loss_of(rewards, pairs, loss="best_of").item() == pytest.approx(expected.item(), rel=1e-6)
    assert best_of_loss(rewards, 2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_plackett_luce_of_two_is_the_loss_of_a_pair():
    rewards = torch.tensor([0.3, 1.1], dtype=torch.float64)
    pair = [Comparison(0, 1)]
    both = loss_of(rewards, pair, loss="plackett_luce"), loss_of(rewards, pair)
    assert both[0].item() == pytest.approx(both[1].item(), abs=1e-12)


def test_plackett_luce_gives_all_orders_probabilities_that_add_up_to_1():
    rewards = torch.tensor([0.3, 1.1, -0.8], dtype=torch.float64)
    orders = list(permutations(range(3)))
    whole = sum(math.exp(-plackett_luce_loss(rewards[list(order)]).item()) for order in orders)
    assert whole == pytest.approx(1, abs=1e-12)
    weights = rewards.exp().tolist()
    first = weights[1] / sum(weights) * weights[0] / (weights[0] + weights[2])
    assert math.exp(-plackett_luce_loss(rewards[[1, 0, 2]]).item()) == pytest.approx(first, abs=1e-12)


def test_the_best_and_the_order_are_read_from_comparisons():
    assert find_best(5, [Comparison(2, i) for i in (0, 1, 3)]) == 2
    assert find_order(5, all_pairs([3, 0, 4, 1])) == [3, 0, 4, 1]


@pytest.mark.parametrize(
    ("find", "pairs", "message"),
    [
        (find_best, [Comparison(0, 1), Comparison(2, 3)], "completions 0, 2 are never the worse one, of 4"),
        (find_best, [Comparison(0, 1), Comparison(1, 0)], "no completion is never the worse one, of 4"),
        (
            find_order,
            [Comparison(0, 1), Comparison(1, 2)],
            "its 2 comparisons give the 4 completions no comp",
        ),
        (
            find_order,
            [Comparison(0, 1), Comparison(1, 2), Comparison(2, 0)],
            "no complete order without ties",
        ),
        (find_order, [*all_pairs([0, 1, 2]), Comparison(0, 1)], "its 4 comparisons give"),
        (find_order, [Comparison(0, 1, weight=0.5), Comparison(1, 0, weight=0.5)], "without ties"),
    ],
)
def test_comparisons_without_a_best_or_an_order_are_refused(find, pairs, message):
    with pytest.raises(ValueError, match=message):
        find(4, pairs)


def test_equal_rewards_are_half_right():
    assert count_right(torch.tensor([1.0, 0.0, -1.0]), torch.zeros(3)).tolist() == [1, 0.5, 0]
