"""The pictures of the pre-flight check: what they plot."""

import numpy as np
import pytest

from rft_diagnose.pictures import (
    before_and_after,
    columns_by_name,
    counts_of_std,
    inputs_by_place,
    mean_and_std,
    over_time,
    pictures,
    signal_by_group_size,
    std_histogram,
)


@pytest.fixture
def inputs():
    return {
        "mean": np.array([0.0, 0.0, 0.5, 1.0, 0.1]),
        "std": np.array([0.0, 0.0, 0.5, 0.0, np.nan]),
        "std_ddof0": np.array([0.0, 0.0, 0.4, 0.0, 0.0]),
        "label": np.array(["dead_low", "dead_low", "live", "dead_high", "uncertain"]),
    }


SIGNAL = [
    {"group_size": 4, "share": 0.4, "low": 0.3, "high": 0.5},
    {"group_size": 8, "share": 0.6, "low": 0.5, "high": 0.7},
    {"group_size": 16, "share": None, "low": 0.5, "high": 0.9},
]


def test_inputs_at_one_place_are_one_larger_marker(inputs):
    places = inputs_by_place(inputs)
    assert places["count"].sum() == 4  # a single generation has no std
    assert dict(zip(places["label"], places["count"], strict=True)) == {
        "dead_low": 2,
        "live": 1,
        "dead_high": 1,
    }
    axes = mean_and_std(places).axes[0]
    areas = {tuple(c.get_offsets()[0]): c.get_sizes()[0] for c in axes.collections}
    assert areas[(0.0, 0.0)] == pytest.approx(2 * areas[(0.5, 0.5)])
    legend = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert legend == ["live (1)", "dead-high (1)", "dead-low (2)"]


def test_histogram_counts_every_input(inputs):
    counts = counts_of_std(inputs)
    assert counts["count"].sum() == 5 and counts["count"][0] == 4 and counts["high"][-1] == 0.4
    axes = std_histogram(counts, 0.25).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert axes.lines[0].get_xdata()[0] == 0.25
    assert counts_of_std(inputs | {"std_ddof0": np.zeros(5)})["count"].sum() == 5
    assert std_histogram(counts, None).legends == []


def test_what_is_only_bounded_is_drawn_as_a_span():
    axes = signal_by_group_size(columns_by_name(SIGNAL), planned=8).axes[0]
    (span,) = axes.patches
    assert (span.get_y(), span.get_height()) == pytest.approx((0.5, 0.4))
    assert axes.containers[0].lines[0].get_ydata().tolist() == [0.4, 0.6]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["4", "8\n(planned)", "16"]
    assert not signal_by_group_size(columns_by_name(SIGNAL[:2]), planned=4).axes[0].patches


def test_over_time_and_before_and_after():
    steps = {
        "first_step": np.array([1, 3]), "last_step": np.array([2, 4]), "mean": np.array([0.1, 0.6]),
        "no_spread_low": np.array([0.5, 0.25]), "no_spread_high": np.array([0, 0.25]),
        "within_std": np.array([0.2, 0.3]),
    }  # fmt: skip
    top, bottom = over_time(steps).axes
    assert bottom.lines[0].get_xdata().tolist() == [1.5, 3.5] and bottom.lines[1].get_ydata().tolist() == [
        0.2,
        0.3,
    ]
    assert len(top.collections) == 2 and top.get_ylim() == (0, 1)
    changed = {
        "std_before": np.array([0.0, 0.5, 0.2]),
        "std_after": np.array([0.4, 0, 0.2]),
        "change": np.array(["woke_up", "died", ""]),
    }
    axes = before_and_after(changed).axes[0]
    places = {c.get_label(): c.get_offsets()[0].tolist() for c in axes.collections}
    assert places["woke up (1)"] == pytest.approx([0, 0.4], abs=0.01)
    assert places["died (1)"] == pytest.approx([0.5, 0], abs=0.01)


def test_only_pictures_with_something_to_show(inputs):
    summary = {"signal": SIGNAL, "group_size": 8, "std_percentile": {"value": None}, "over_time": []}
    stems = [stem for stem, *_ in pictures(inputs, summary)]
    assert stems == ["mean_and_std", "signal_by_group_size", "std_histogram"]
    change = np.array(["", "died", None, "", ""], dtype=object)
    changed = inputs | {"std_before": np.full(5, 0.1), "change": change}
    *_, (stem, _, _, _, numbers) = pictures(changed, summary)
    assert stem == "before_and_after" and len(numbers["change"]) == 4
    bounds = {"bound": 5.0, "linear_bound": 6.0, "power_bound": 0.0}
    rows = [
        {"reward": "a", "std": 0.1, "norm": 2.0} | bounds,
        {"reward": "a", "std": 0.3, "norm": 0.0} | bounds,
        {"reward": "b", "std": 0.3, "norm": 7.0} | bounds,
    ]
    *_, (stem, _, _, figure, numbers) = pictures(inputs, summary, rows)
    assert stem == "gradients" and numbers["norm"].tolist() == [2, 0, 7]
    top, bottom = ([dots.get_offsets().tolist() for dots in axes.collections] for axes in figure.axes)
    assert top == [[[0.1, 2.0], [0.3, 0.0]]]  # of the first reward
    assert bottom == [[], [[0.1, 6.0], [0.3, 6.0]], [[0.1, 5.0], [0.3, 5.0]], [[0.1, 2.0]]]  # what is not 0
