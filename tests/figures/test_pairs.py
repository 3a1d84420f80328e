"""One task under two rewards: shares of full SFT's gain, their order, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from study_tables import Model, inputs

from figures.measured import NotTestedError
from figures.pairs import order_over_seeds, order_over_tasks, pair_numbers, share_of_sft, sign_test


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


def test_full_sft_has_to_raise_the_two_rewards_that_are_compared():
    middle = {"repair:meteor": task(0.1, 0.5, 0.6, 0.51)}
    assert len(pair_numbers(inputs(two_rewards() | middle))) == 1
    smallest = {"repair:exact": task(0.0, 0.0, 0.0, 0.04)}
    assert pair_numbers(inputs(two_rewards() | smallest)).empty


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
    assert measured.detail == "+0.60 [+0.60, +0.60] over 3 seeds, 5 tasks"


def test_the_order_of_short_sft_is_subtracted():
    """Shares of RFT by the two rewards .1 and .9, of short SFT .5 and .6 or, with another seed, .7."""
    tables = []
    for seed, share in ((0, 0.6), (1, 0.7)):
        models = two_rewards()
        models["repair:rouge"]["short"] = model(0.7 + 0.1 * share)
        tables.append(inputs(models, seeds=(seed,)))
    numbers = pair_numbers(pd.concat(tables, ignore_index=True))
    half = 12.706205 * np.std([0.7, 0.6], ddof=1) / np.sqrt(2)
    measured = order_over_seeds(numbers, "rft", minus="short")
    assert measured.value == pytest.approx(0.65 - half)
    assert measured.detail.startswith("+0.65 [+0.01, +1.29] over 2 seeds")
    assert order_over_seeds(numbers, "short").value == pytest.approx(0.15 - half)


def test_seeds_are_compared_over_the_same_tasks():
    both = inputs(two_rewards("a", (0.1, 0.3)), seeds=(0, 1))
    one = inputs(two_rewards("b", (0.1, 0.9)), seeds=(0,))
    measured = order_over_seeds(pair_numbers(pd.concat([both, one], ignore_index=True)), "rft")
    assert measured.detail == "+0.20 [+0.20, +0.20] over 2 seeds, 1 tasks"


def test_what_cannot_be_told():
    numbers = pair_numbers(inputs(two_rewards()))
    with pytest.raises(NotTestedError, match="over seeds, and there is one"):
        order_over_seeds(numbers, "rft")
    with pytest.raises(NotTestedError, match="no task has finished runs of RFT and SFT under two rewards"):
        order_over_tasks(pd.DataFrame(columns=numbers.columns), "rft")
    with pytest.raises(NotTestedError, match="1 tasks can be compared, 5 are needed"):
        order_over_tasks(numbers, "rft")
    apart = numbers.assign(data="other", seed=1)
    with pytest.raises(NotTestedError, match="no task has finished runs of every seed"):
        order_over_seeds(pd.concat([numbers, apart]), "rft")


def test_the_share_by_one_reward_is_that_of_the_worst_seed():
    tables = [inputs({"a": task(0.01, 0.6, rft, 0.8)}, seeds=(seed,)) for seed, rft in ((0, 0.62), (1, 0.65))]
    table = pd.concat([*tables, inputs(two_rewards())], ignore_index=True)
    high, low = (share_of_sft(table, "a", worst) for worst in (max, min))
    assert (high.value, low.value) == pytest.approx((0.25, 0.1))
    assert high.detail == ("seeds 0, 1: 0.100, 0.250; mean before 0.600, 10th percentile of the std 0.010")
    with pytest.raises(NotTestedError, match=r"no seed has finished extractions of .* of b"):
        share_of_sft(table, "b", max)
    flat = inputs({"a": task(0.01, 0.6, 0.7, 0.64)})
    with pytest.raises(NotTestedError, match=r"full SFT gains 0.040 on a, 0.05 are needed"):
        share_of_sft(flat, "a", max)


def test_of_two_rewards_with_the_same_percentile_the_mean_std_decides():
    stds = [0.0, 0.0, 0.1, 0.2]
    tied = {
        "words:a": task(0.0, 0.0, 0.1, 0.5) | {"pretrained": ([0.0] * 4, stds)},
        "words:b": task(0.0, 0.0, 0.4, 0.5) | {"pretrained": ([0.0] * 4, [2 * std for std in stds])},
    }
    for cases in (tied, dict(reversed(tied.items()))):
        (row,) = pair_numbers(inputs(cases)).to_dict("records")
        assert (row["small"], row["large"]) == ("words:a", "words:b")
    same = {name: models | {"pretrained": ([0.0] * 4, stds)} for name, models in tied.items()}
    assert pair_numbers(inputs(same)).empty
