"""Rewards made of others, by hand."""

import pytest

from paper.shaped_rewards import (
    affine,
    affine_metric,
    at_least,
    at_least_metric,
    exact_match,
    exact_match_metric,
)
from rl4lms.metrics import build_metric
from rl4lms.rewards import build_reward
from rl4lms.text import TextBatch

BATCH = TextBatch(["p"] * 3, ["1 2 3", "", "3 1"], [["x"]] * 3, [{}] * 3)
INNER = {"reward": "increasing_numbers", "reward_args": {"min_tokens": 4}}


@pytest.fixture
def inner():
    """The rewards that the others are made of: of three values."""
    values = build_reward("increasing_numbers", {"min_tokens": 4})(BATCH)
    assert len(set(values)) == 3
    return values


def test_affine_keeps_a_share_of_the_differences(inner):
    values = affine(BATCH, **INNER, scale=0.4, offset=0.6)
    assert values == pytest.approx([0.6 + 0.4 * value for value in inner], abs=1e-15)
    # As small as for the group algorithms, around the middle.
    small = affine(BATCH, **INNER, scale=0.001, offset=0.4995)
    assert small == pytest.approx([0.5 + 0.001 * (value - 0.5) for value in inner], abs=1e-15)


def test_at_least_is_all_or_nothing(inner):
    low, middle, high = sorted(inner)
    for threshold, expected in ((middle, {low: 0.0, middle: 1.0, high: 1.0}), (high + 1e-9, {})):
        values = at_least(BATCH, **INNER, threshold=threshold)
        assert values == [expected.get(value, 0.0) for value in inner]


def test_exact_match_is_with_any_reference_and_counts_case_and_marks():
    texts = ["a_b", " a_b\n", "a b", "A_b", "c", ""]
    references = [["a_b"], ["x", "a_b "], ["a_b"], ["a_b"], ["a", "b"], ["a_b"]]
    batch = TextBatch(["p"] * 6, texts, references, [{}] * 6)
    assert exact_match(batch) == [1, 1, 0, 0, 0, 0]


def test_each_is_a_metric_with_the_same_values(inner):
    args = INNER | {"scale": 0.4, "offset": 0.6}
    threshold = INNER | {"threshold": sorted(inner)[1]}
    for key, metric, values in (
        ("shaped/affine", affine_metric(BATCH, **args), affine(BATCH, **args)),
        ("shaped/at_least", at_least_metric(BATCH, **threshold), at_least(BATCH, **threshold)),
        ("shaped/exact_match", exact_match_metric(BATCH), exact_match(BATCH)),
    ):
        ((name, score),) = metric.items()
        assert name == key and score.per_sample == values
        assert score.corpus == pytest.approx(sum(values) / 3)


def test_a_config_names_them_by_their_dotted_path(inner):
    args = INNER | {"scale": 0.5, "offset": 0.1}
    assert build_reward("paper.shaped_rewards:affine", args)(BATCH) == affine(BATCH, **args)
    metric = build_metric("paper.shaped_rewards:affine_metric", args)
    assert metric(BATCH)["shaped/affine"].per_sample == affine(BATCH, **args)
