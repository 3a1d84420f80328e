"""Shared statistics against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from rft_diagnose.statistics import (
    bootstrap_interval,
    paired_difference,
    partial_spearman,
    pearson,
    rank_interval,
    spearman,
    std_percentile,
)

RNG = np.random.default_rng(0)
X, Y, Z = RNG.random((3, 40))


def test_percentile_leaves_out_near_optimal_inputs():
    std = np.arange(10) / 10
    mean = np.zeros(10)
    assert std_percentile(mean, std) == (pytest.approx(0.09), 10)
    mean[0] = 0.95  # the one with std 0
    assert std_percentile(mean, std) == (pytest.approx(np.percentile(std[1:], 10)), 9)
    assert std_percentile(mean, std, near_optimal=0.95)[1] == 10
    assert std_percentile(np.full(10, 0.9), std)[1] == 10
    value, kept = std_percentile(np.ones(10), std)
    assert math.isnan(value) and kept == 0


def test_selection_can_be_by_another_models_means():
    std, mean = np.array([0.1, 0.2, 0.3]), np.array([0.95, 0.0, 0.0])
    assert std_percentile(mean, std, selection_mean=np.zeros(3)) == (pytest.approx(np.percentile(std, 10)), 3)


def test_correlations_equal_scipys():
    assert pearson(X, Y) == pytest.approx(stats.pearsonr(X, Y).statistic, abs=1e-12)
    tied = np.round(X, 1)
    assert spearman(tied, Y) == pytest.approx(stats.spearmanr(tied, Y).statistic, abs=1e-12)


def test_correlations_do_not_depend_on_scale():
    assert pearson(1e-100 * X, 1e-100 * Y) == pytest.approx(pearson(X, Y))
    assert pearson(X, -3 * X + 1) == -1
    assert spearman(X, np.exp(5 * X)) == pytest.approx(1)


def test_a_constant_has_no_correlation():
    assert math.isnan(pearson(X, np.full(40, 0.3)))
    assert math.isnan(spearman(np.zeros(40), X))
    assert math.isnan(pearson([1.0], [2.0]))


def test_partial_correlation_is_that_of_the_residuals():
    ranks = [stats.rankdata(values) for values in (X, Y, Z)]
    residuals = [ranks[i] - np.polyval(np.polyfit(ranks[2], ranks[i], 1), ranks[2]) for i in (0, 1)]
    assert partial_spearman(X, Y, Z) == pytest.approx(pearson(*residuals))
    assert math.isnan(partial_spearman(X, Y, X))


def test_rank_interval_is_fishers_with_bonett_and_wrights_error():
    low, high = rank_interval(0.6, 12)
    half = 1.959964 * math.sqrt((1 + 0.6**2 / 2) / 9)
    assert (math.atanh(low), math.atanh(high)) == pytest.approx(
        (math.atanh(0.6) - half, math.atanh(0.6) + half)
    )
    assert rank_interval(-0.6, 12) == pytest.approx((-high, -low))
    assert rank_interval(0.6, 13, given=1) == pytest.approx((low, high))


def test_a_perfect_order_of_few_points_is_not_certain():
    low, high = rank_interval(1, 7)
    assert 0 < low < 0.9 < high < 1
    assert all(map(math.isnan, rank_interval(0.5, 3)))
    assert all(map(math.isnan, rank_interval(float("nan"), 9)))


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = RNG.standard_normal(400)
    low, high = bootstrap_interval(lambda chosen: [values[chosen].mean(), 7], 400)
    half = 1.96 * values.std() / 20
    assert (low[0], high[0]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert low[1] == high[1] == 7


def test_bootstrap_leaves_open_what_most_resamples_leave_open():
    values = np.eye(1, 10)[0]  # in about a third of the resamples all zero

    def statistic(chosen):
        return pearson(values[chosen], np.arange(10.0)[chosen])

    assert np.isnan(bootstrap_interval(statistic, 10, resamples=200)).all()


def test_paired_difference_is_students():
    first, second = X[:5], Y[:5]
    found = paired_difference(first, second)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.std == pytest.approx(np.std(first - second, ddof=1)) and found.pairs == 5
    single = paired_difference([0.5], [0.2])
    assert single.mean == pytest.approx(0.3) and math.isnan(single.low)
