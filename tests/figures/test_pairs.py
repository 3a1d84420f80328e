"""One task under two rewards: shares of full SFT's gain, their order, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from study_tables import Model, inputs

from figures.measured import NotTestedError
from figures.pairs import order_over_seeds, order_over_tasks, pair_numbers, sign_test


def model(mean: float, std: float = 0.0) -> Model:
    return [mean] * 4, [std] * 4


def task(std: float, start: float, rft: float, sft: float, short: float | None = None) -> dict[str, Model]:
    models = {"pretrained": model(start, std), "rft": model(rft), "sft": model(sft)}
    return models if short is None else models | {"short": model(short)}


def two_rewards(
    name: str = "repair", shares: tuple[float, float] = (0.1, 0.9)
) -> dict[str, dict[str, Model]]:
    """A task whose RFT gains these shares of SFT's .5 and .1: rewards of different scales."""
    small, large = shares
    return {
        f"{name}:bleu": task(0.01, 0.0, 0.5 * small, 0.5, short=0.25),
        f"{name}:rouge": task(0.2, 0.7, 0.7 + 0.1 * large, 0.8, short=0.75),
    }


def test_shares_are_of_what_full_sft_gains_under_the_same_reward():
    numbers = pair_numbers(inputs(two_rewards()))
    (row,) = numbers.to_dict("records")
    assert (row["data"], row["small"], row["large"]) == ("repair", "repair:bleu", "repair:rouge")
    assert (row["small_percentile"], row["large_percentile"]) == pytest.approx((0.01, 0.2))
    assert (row["small_rft"], row["large_rft"]) == pytest.approx((0.1, 0.9))
    assert (row["small_short"], row["large_short"]) == pytest.approx((0.5, 0.5))


def test_of_three_rewards_the_extremes_are_compared():
    middle = {"repair:meteor": task(0.1, 0.0, 0.3, 0.5)}
    (row,) = pair_numbers(inputs(two_rewards() | middle)).to_dict("records")
    assert (row["small"], row["large"]) == ("repair:bleu", "repair:rouge")


def test_tasks_of_one_reward_and_those_that_sft_does_not_raise_are_left_out():
    alone = {"alone": task(0.1, 0.0, 0.3, 0.5)}
    flat = {"flat:a": task(0.1, 0.5, 0.6, 0.54), "flat:b": task(0.2, 0.0, 0.5, 1.0)}
    assert pair_numbers(inputs(alone | flat)).empty
    assert list(pair_numbers(inputs(alone | flat | two_rewards()))["data"]) == ["repair"]


@pytest.mark.parametrize(
    ("signs", "expected"), [("+++++", 1 / 32), ("++++-", 6 / 32), ("-", 1.0), ("0", 1.0)]
)
def test_sign_test(signs, expected):
    values = np.array([{"+": 1.0, "-": -1.0, "0": 0.0}[sign] for sign in signs])
    assert sign_test(values) == pytest.approx(expected)


def test_the_order_over_tasks_and_over_seeds():
    tasks: dict[str, dict[str, Model]] = {}
    for number in range(5):
        tasks |= two_rewards(f"task {number}", (0.1, 0.5 + 0.1 * number))
    numbers = pair_numbers(inputs(tasks, seeds=(0, 1, 2)))
    measured = order_over_tasks(numbers, "rft")
    assert measured.value == pytest.approx(1 / 32)
    assert measured.detail.startswith("5 of 5 tasks: task 0 +0.40, ")
    assert order_over_tasks(numbers, "short").value == 1.0  # no difference anywhere
    measured = order_over_seeds(numbers, "rft")
    assert measured.value == pytest.approx(0.6)  # the seeds are equal
    assert measured.detail == "+0.60 [+0.60, +0.60] over 3 seeds"


def test_what_cannot_be_told():
    numbers = pair_numbers(inputs(two_rewards()))
    with pytest.raises(NotTestedError, match="over seeds, and there is one"):
        order_over_seeds(numbers, "rft")
    with pytest.raises(NotTestedError, match="no task has finished runs of RFT and SFT under two rewards"):
        order_over_tasks(pd.DataFrame(columns=numbers.columns), "rft")
