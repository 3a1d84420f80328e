"""Std and gain, given the mean reward."""

import numpy as np
import pandas as pd
import pytest
from study_tables import inputs

from figures.claims import Results, judge
from figures.criteria import CRITERIA
from figures.given_mean import given_mean
from rft_diagnose.statistics import RESAMPLES, pearson

RNG = np.random.default_rng(0)
N = 80
MEAN = RNG.random(N)
STD = 0.3 * MEAN + 0.1 * RNG.random(N)
SECOND = RNG.random(N)
ZEROS = [0.0] * N


def models(rft, sft, mean=MEAN, std=STD):
    """Models whose gains over the second sample are these."""
    means = {"pretrained": mean, "second": SECOND, "rft": SECOND + rft, "sft": SECOND + sft}
    return {name: (list(values), list(std)) for name, values in means.items()}


def residuals(values):
    return values - np.polyval(np.polyfit(MEAN, values, 1), MEAN)


NOISE = RNG.standard_normal((4, N))
BY_STD = models(2 * STD + 0.05 * NOISE[0], 0.1 * NOISE[1])
BY_MEAN = models(2 * MEAN + 0.3 * NOISE[2], 0.1 * NOISE[3])
FLAT = {name: (ZEROS, ZEROS) for name in ("pretrained", "second", "rft", "sft")}


def verdict(table, name):
    (criterion,) = [criterion for criterion in CRITERIA if criterion.name == f"table1_{name}_given_mean"]
    return judge(criterion, Results(inputs=table))


def test_a_partial_correlation_is_that_of_the_residuals():
    numbers = given_mean(inputs({"a": BY_STD}))
    gains = [np.subtract(BY_STD[name][0], SECOND) for name in ("rft", "sft")]
    rft, sft = (pearson(residuals(STD), residuals(gain)) for gain in gains)
    assert numbers.values[0] == pytest.approx([rft, rft - sft])
    assert numbers.low[0] < rft < numbers.high[0] and numbers.independent


def test_the_interval_is_that_of_resampled_inputs():
    numbers = given_mean(inputs({"a": BY_STD}))
    counts = np.random.default_rng(0).multinomial(N, np.full(N, 1 / N), RESAMPLES)
    gain = np.subtract(BY_STD["rft"][0], SECOND)
    resampled = []
    for drawn in (np.repeat(np.arange(N), row) for row in counts):
        given = np.stack([np.ones(N), MEAN[drawn]], axis=1)
        left = [values[drawn] - given @ np.linalg.lstsq(given, values[drawn])[0] for values in (STD, gain)]
        resampled.append(pearson(*left))
    assert (numbers.low[0], numbers.high[0]) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


def test_the_mean_is_held_fixed():
    """RFT's gain follows the mean alone: the std correlates with it, and tells nothing more."""
    gain = np.subtract(BY_MEAN["rft"][0], SECOND)
    assert pearson(STD, gain) > 0.5
    assert verdict(inputs({"a": BY_MEAN}), "rft").outcome == "fails"
    for name in ("rft", "order"):
        assert verdict(inputs({"a": BY_STD}), name).outcome == "holds"


def test_tasks_and_seeds_count_equally():
    first, second = (given_mean(inputs({"a": task})).values[0] for task in (BY_STD, BY_MEAN))
    both = inputs({"a": BY_STD, "b": BY_MEAN})
    measured = verdict(both, "rft")
    assert measured.detail.startswith(f"{(first[0] + second[0]) / 2:+.2f} [")
    assert f"over 2 tasks; a {first[0]:+.2f}, b {second[0]:+.2f}" in measured.detail
    of_two = [inputs({"a": task}, seeds=(seed,)) for seed, task in enumerate((BY_STD, BY_MEAN))]
    numbers = given_mean(pd.concat(of_two, ignore_index=True))
    assert numbers.values[0] == pytest.approx((first + second) / 2)


def test_rewards_of_a_task_are_resampled_together():
    """The same numbers under two rewards of one task: no less chance than under one."""
    alone = given_mean(inputs({"a:x": BY_STD}))
    twice = given_mean(inputs({"a:x": BY_STD, "a:y": BY_STD}))
    apart = given_mean(inputs({"a": BY_STD, "b": BY_STD}))
    assert twice.low == pytest.approx(alone.low) and twice.high == pytest.approx(alone.high)
    assert apart.high[0] - apart.low[0] < 0.9 * (alone.high[0] - alone.low[0])


@pytest.mark.filterwarnings("error")
def test_tasks_without_a_correlation_are_left_out_and_named():
    by_mean_alone = models(NOISE[0], NOISE[1], std=0.3 * MEAN)  # the std tells nothing that the mean does not
    with_flat = verdict(inputs({"flat": FLAT, "a": BY_STD, "collinear": by_mean_alone}), "rft")
    alone = verdict(inputs({"a": BY_STD}), "rft")
    assert with_flat.outcome == "holds" and with_flat.value == pytest.approx(alone.value, abs=0.02)
    assert with_flat.detail.endswith("over 1 tasks; a +0.74; not defined, left out: flat, collinear")
    nothing = verdict(inputs({"flat": FLAT}), "order")
    assert (nothing.outcome, nothing.detail) == ("not tested", "not defined, left out: flat")


def test_one_sample_is_said_to_be_biased():
    table = inputs({"a": BY_STD})
    measured = verdict(table[table["sample"] == 1], "rft")
    assert measured.detail.endswith("without a second sample, biased")
