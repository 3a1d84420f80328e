"""RFT after a short SFT phase against RFT alone: rewards and gains of Table 2 and Figure 4."""

import math

import numpy as np
import pandas as pd
import pytest
from study_tables import BASE, grid, run, runs

from figures.claims import Results, judge
from figures.criteria import CRITERIA


def verdict(table, name):
    (criterion,) = [criterion for criterion in CRITERIA if criterion.name == name]
    return judge(criterion, Results(runs=table, base=BASE))


def test_short_sft_against_rft_alone_and_against_its_best_setting():
    measured = verdict(grid(), "figure4_test")
    half = 1.959964 * 0.01 * math.sqrt(2)
    assert (measured.outcome, measured.value) == ("holds", pytest.approx(0.3 - half))
    assert "one seed, over inputs" in measured.detail
    assert verdict(grid(), "table2_test").outcome == "not tested"  # nothing was swept
    swept = pd.concat([grid(), runs(run("rft", 0.1, 0.49, temperature=1.5))], ignore_index=True)
    measured = verdict(swept, "table2_train")
    assert (measured.outcome, measured.value) == ("fails", pytest.approx(0.01 - half))
    assert verdict(swept, "figure4_train").value == pytest.approx(0.3 - half), "of RFT's own settings"
    unknown = grid().assign(se=float("nan"))
    assert verdict(unknown, "figure4_train").outcome == "not tested"


SHORT = {"sft_labels": 0.01, "sft_updates": 240, "learning_rate": 1e-4}


def seeds(alone, short=(0.5, 0.52, 0.57)):
    """RFT alone from .1 to these rewards, and RFT after short SFT from .3; full SFT of 600 updates."""
    parts = [run("sft", 0.1, 0.8, sft_labels=1.0, sft_updates=600)]
    for seed, (rft, after) in enumerate(zip(alone, short, strict=True)):
        parts += [run("rft", 0.1, rft, seed=seed), run("sft_rft", 0.3, after, seed=seed, **SHORT)]
    return runs(*parts)


def student(values):
    """Mean of three and half of its interval."""
    return np.mean(values), 4.302653 * np.std(values, ddof=1) / math.sqrt(3)


def test_gains_are_compared_over_seeds_and_their_ratio_is_told_where_rft_alone_gains():
    measured = verdict(seeds((0.14, 0.15, 0.16)), "figure4_gain_train")
    mean, half = student(np.subtract((0.2, 0.22, 0.27), (0.04, 0.05, 0.06)))
    assert (measured.outcome, measured.value) == ("holds", pytest.approx(mean - half))
    assert measured.detail.endswith(f"ratio {0.23 / 0.05:.1f}") and "over 3 seeds" in measured.detail
    assert "alone +0.050 [+0.025, +0.075], ratio 4.6" in measured.detail


def test_without_a_gain_of_rft_alone_there_is_no_ratio():
    measured = verdict(seeds((0.1, 0.15, 0.2)), "figure4_gain_test")
    mean, half = student([0.2, 0.17, 0.17])
    assert measured.value == pytest.approx(mean - half) and measured.outcome == "holds"
    assert measured.detail.endswith("alone +0.050 [-0.074, +0.174]: RFT alone gains nothing")
    assert "ratio" not in measured.detail


def test_gains_of_one_seed_have_an_interval_over_inputs():
    measured = verdict(grid(), "figure4_gain_train")
    half = 1.959964 * 0.02 * math.sqrt(2)
    assert (measured.outcome, measured.value) == ("holds", pytest.approx(0.1 - half))
    assert "one seed, over inputs" in measured.detail and measured.detail.endswith("ratio 2.0")
    unknown = verdict(grid().assign(gain_se=float("nan")), "figure4_gain_train")
    assert unknown.outcome == "not tested"
    assert unknown.detail.endswith("alone +0.100: what RFT alone gains has no interval")


def test_gains_are_of_the_seeds_that_both_have():
    table = seeds((0.14, 0.15, 0.16))
    more = pd.concat([table, runs(run("rft", 0.1, 0.9, seed=7))], ignore_index=True)
    assert verdict(more, "figure4_gain_train") == verdict(table, "figure4_gain_train")
    apart = table[(table["method"] != "rft") | (table["seed"] == 7)]
    apart = pd.concat([apart, runs(run("rft", 0.1, 0.9, seed=7))], ignore_index=True)
    assert verdict(apart, "figure4_gain_train").detail == "no seed has finished both"


def test_share_of_full_sft_then_rft():
    assert verdict(grid(), "figure4_share_train").value == pytest.approx(0.5)
    table = grid()
    without = table[(table["sft_labels"] != 1) | (table["method"] == "sft")]
    measured = verdict(without, "figure4_share_train")
    assert measured.detail == "no finished run of full SFT, then RFT to compare with"
    without = table[table["sft_labels"] != 0.01]
    for name in ("figure4_gain_train", "figure4_share_train", "figure4_train"):
        assert verdict(without, name).outcome == "not tested"
