"""Figure 2 and Table 1 on small tables."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from study_tables import inputs

from figures.figure2_table1 import (
    COLORS,
    FILLS,
    GIVEN_MEAN,
    MARKER_SIZE,
    case_fills,
    figure2,
    figure2_numbers,
    rank_correlations,
    table1,
    table1_shown,
    task_looks,
)
from rft_diagnose.statistics import pearson, rank_interval

ZEROS = [0.0] * 4
EASY = {
    "pretrained": ([0.2, 0.2, 0.4, 0.95], [0.1, 0.2, 0.3, 0.0]),
    "second": ([0.4, 0.4, 0.6, 0.95], [0.1, 0.2, 0.3, 0.0]),
    "rft": ([0.8, 0.8, 0.8, 0.8], ZEROS),
    "sft": ([0.7, 0.7, 0.7, 0.7], ZEROS),
}
HARD = {
    "pretrained": (ZEROS, [0.0, 0.0, 0.0, 0.1]),
    "rft": ([0.0, 0.0, 0.0, 0.4], ZEROS),
    "sft": ([1.0, 1.0, 1.0, 1.0], ZEROS),
}


def test_numbers_of_a_task():
    table = figure2_numbers(inputs({"easy": EASY, "hard": HARD}))
    assert table["task"].tolist() == ["hard", "easy"]  # by the percentile
    hard, easy = table.to_dict("records")
    assert easy["percentile"] == pytest.approx(np.percentile([0.1, 0.2, 0.3], 10))  # not the solved input
    assert easy["pretrain_mean"] == pytest.approx((0.4375 + 0.5875) / 2)
    assert (easy["rft_gain"], easy["sft_gain"]) == pytest.approx((0.8 - 0.5125, 0.7 - 0.5125))
    assert easy["difference"] == pytest.approx(0.1) and math.isnan(easy["difference_std"])
    assert (hard["dead"], easy["dead"]) == (0.75, 0)
    assert hard["difference"] == pytest.approx(hard["rft_gain"] - hard["sft_gain"])


def test_seeds_become_mean_and_std():
    table = inputs({"hard": HARD}, seeds=(0, 1, 2), shift=0.1)
    table.loc[table["method"] != "rft", "mean"] -= table["seed"] * 0.1
    (row,) = figure2_numbers(table).to_dict("records")
    assert (row["difference"], row["difference_std"], row["seeds"]) == pytest.approx((0.1 + 0.1 - 1, 0.1, 3))
    assert row["percentile_std"] == 0


def test_tasks_without_one_of_the_models_are_left_out():
    table = inputs({"easy": EASY, "hard": {"pretrained": HARD["pretrained"], "rft": HARD["rft"]}})
    assert figure2_numbers(table)["task"].tolist() == ["easy"]
    assert figure2_numbers(table.head(0)).empty and table1(table.head(0)).empty


def over_tasks(n=8):
    x = np.arange(n) / n
    columns = {"percentile": x, "difference": x**2, "rft_gain": x, "sft_gain": -x, "pretrain_mean": x[::-1]}
    frame = pd.DataFrame({"task": (names := [f"task {i}" for i in range(n)]), "data": names, **columns})
    return frame.assign(**{f"{name}_std": 0.01 for name in columns})


def test_rank_correlations_over_tasks():
    found = rank_correlations(over_tasks()).set_index("with")
    values = found["correlation"].to_dict()
    assert math.isnan(values.pop(GIVEN_MEAN))  # the mean explains it all
    assert values == pytest.approx({"difference": 1, "rft_gain": 1, "sft_gain": -1, "pretrain_mean": -1})
    assert tuple(found.loc["difference", ["low", "high"]]) == rank_interval(1, 8)
    assert rank_correlations(over_tasks(0))["correlation"].isna().all()


def test_the_interval_counts_tasks_not_rewards():
    numbers = over_tasks(16).assign(data=[f"task {i // 2}" for i in range(16)])
    results = rank_correlations(numbers).set_index("with")
    assert tuple(results.loc["difference", ["low", "high"]]) == rank_interval(1, 8)
    assert set(results["tasks"]) == {8}


def test_figure_shows_the_difference_its_parts_and_the_confounder():
    numbers = over_tasks(9)
    figure = figure2(numbers, {"task 0": "first task"})
    for axes, name in zip(figure.axes, ("difference", "rft_gain", "sft_gain", "pretrain_mean"), strict=True):
        points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
        assert points == numbers[["percentile", name]].to_numpy().tolist()
        assert "rank correlation" in axes.get_title()
    lines = [container.lines[0] for container in figure.axes[0].containers]
    assert len({(line.get_marker(), line.get_color()) for line in lines}) == 9
    assert len({line.get_marker() for line in lines}) == 9  # in black and white too
    assert {line.get_fillstyle() for line in lines} == {"full"}  # each is its task's only reward
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["first task", "task 1"]
    assert len(figure.legends[0].get_texts()) == 9


def under_rewards(*percentiles):
    """Cases of the tasks a and b in turn."""
    numbers = over_tasks(len(percentiles)).assign(percentile=percentiles)
    return numbers.assign(data=["ab"[i % 2] for i in range(len(numbers))])


@pytest.mark.parametrize("is_narrow", [False, True])
def test_cases_of_a_task_share_colour_and_marker_and_are_joined_in_order(is_narrow):
    numbers = under_rewards(0.0, 0.001, 0.01, 0.02, 0.1, 0.2)
    labels = {f"task {i}": f"name {'ab'[i % 2]}\nreward {i}" for i in range(6)}
    figure = figure2(numbers, labels, is_narrow=is_narrow)
    assert (figure.get_figwidth() == 4) == is_narrow
    for axes, name in zip(figure.axes, ("difference", "rft_gain", "sft_gain", "pretrain_mean"), strict=True):
        markers = [container.lines[0] for container in axes.containers]
        for i, line in enumerate(markers):
            look = task_looks(numbers)["ab"[i % 2]]
            assert (line.get_marker(), line.get_color()) == (look["marker"], look["color"])
        assert [line.get_fillstyle() for line in markers] == ["none", "none", "left", "left", "full", "full"]
        joined = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 3]
        for data, line in zip("ab", joined, strict=True):
            cases = numbers[numbers["data"] == data]
            assert line.tolist() == cases[["percentile", name]].to_numpy().tolist()
            assert list(line[:, 0]) == sorted(line[:, 0])
    texts = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert texts == [
        "name a: reward 0 < reward 2 < reward 4",
        "name b: reward 1 < reward 3 < reward 5",
        *FILLS.values(),
    ]


def test_equal_percentiles_are_neither_smallest_nor_largest():
    fills = case_fills(under_rewards(0.0, 0.0, 0.0, 0.1))
    assert [fills[f"task {i}"] for i in range(4)] == ["left", "none", "left", "full"]


def test_zero_and_small_percentiles_stand_apart():
    axes = figure2(under_rewards(0.0, 0.002, 0.02, 0.4), {}).axes[0]
    places = axes.transAxes.inverted().transform(
        axes.transData.transform([(x, 0) for x in (0.0, 0.002, 0.02, 0.4)])
    )[:, 0]
    assert places[0] > 0.02 and places[-1] < 0.98 and min(np.diff(places)) > 0.15


def test_no_marker_hides_another():
    """All tasks at one point: each has its colour somewhere in the picture."""
    numbers = over_tasks(3).assign(difference=0.5, percentile=0.1, percentile_std=0.0, difference_std=0.0)
    figure = figure2(numbers, {})
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.axes[0].get_window_extent()
    picture = np.asarray(canvas.buffer_rgba())[::-1][int(box.y0) : int(box.y1), int(box.x0) : int(box.x1), :3]
    for color in COLORS[:3]:
        same = np.abs(picture - 255 * np.array(to_rgb(color))).max(axis=2) < 3
        assert same.sum() >= 8, color
    sizes = [
        container.lines[0].get_markersize() for container in figure2(over_tasks(), {}).axes[0].containers
    ]
    assert set(sizes) == {MARKER_SIZE}, "apart from each other they are as large as each other"


def correlated(second=True):
    """Inputs whose RFT gain, against the second sample, grows with their std, and whose SFT gain falls."""
    std = np.linspace(0, 0.3, 60)
    rng = np.random.default_rng(0)
    first, other = rng.random(60), rng.random(60)
    models = {
        "pretrained": (first.tolist(), std.tolist()),
        "second": (other.tolist(), std.tolist()),
        "rft": ((other + 2 * std + 0.1 * rng.standard_normal(60)).tolist(), [0.0] * 60),
        "sft": ((other - std + 0.3 * rng.standard_normal(60)).tolist(), [0.0] * 60),
    }
    return models if second else {name: rows for name, rows in models.items() if name != "second"}


def test_table1_takes_gains_against_the_second_sample():
    models = correlated()
    (row,) = table1(inputs({"a": models}, seeds=(0, 1))).to_dict("records")
    std = models["pretrained"][1]
    for name in ("rft", "sft"):
        gain = np.subtract(models[name][0], models["second"][0])
        assert row[name] == pytest.approx(pearson(std, gain))
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["difference"] == pytest.approx(row["rft"] - row["sft"])
    assert row["rft_low"] > 0.5 and row["difference_low"] > 0
    assert (row["seeds"], row["inputs"], row["rft_std"], row["independent"]) == (2, 60, 0, True)


def test_table1_says_where_there_is_no_second_sample():
    numbers = table1(inputs({"a": correlated(second=False)}))
    assert numbers["independent"].tolist() == [False]
    shown = table1_shown(numbers, {"a": "task a"})
    assert shown["task"].tolist() == ["task a (biased: one sample)"]


@pytest.mark.filterwarnings("error")
def test_without_differences_between_inputs_there_is_no_correlation():
    """All rewards of one task are equal, of another all gains of RFT."""
    flat = {"pretrained": (ZEROS, ZEROS), "rft": (ZEROS, ZEROS), "sft": ([1.0] * 4, ZEROS)}
    flat_gain = {**HARD, "rft": (ZEROS, ZEROS), "sft": ([0.1, 0.2, 0.3, 0.5], ZEROS)}
    numbers = table1(inputs({"flat": flat, "flat gain": flat_gain}))
    first, second = table1_shown(numbers, {}).to_dict("records")
    assert [first[name] for name in ("RFT", "SFT", "RFT minus SFT")] == ["undefined"] * 3
    assert (second["RFT"], second["RFT minus SFT"]) == ("undefined", "undefined")
    assert second["SFT"].startswith("0.8")


def test_table1_as_text():
    values = {"task": "a", "dead": 0.25, "seeds": 3, "independent": True}
    ends = {"": 0.5, "_low": 0.25, "_high": 0.75}
    values |= {f"{name}{end}": value for name in ("rft", "sft", "difference") for end, value in ends.items()}
    (row,) = table1_shown(pd.DataFrame([values]), {}).to_dict("records")
    cell = "0.50 [0.25, 0.75]"
    assert row == {"task": "a", "dead": "25%", "RFT": cell, "SFT": cell, "RFT minus SFT": cell, "seeds": 3}
