"""Figure 4 and Table 2 on small tables."""

import math

import numpy as np
import pandas as pd
import pytest
from study_tables import BASE, grid, run, runs

from figures.criterion import SWEPT_TASK
from figures.figure4_table2 import figure4, figure4_numbers, reward_difference, table2, table2_shown


def cell(numbers, method, labels, steps, split="train"):
    same = (numbers["method"] == method) & (numbers["split"] == split) & (numbers["labels"] == labels)
    (row,) = numbers[same & (numbers["steps"] == steps)].to_dict("records")
    return row


def test_rewards_as_shares_of_the_full_pipeline():
    numbers = figure4_numbers(grid(), SWEPT_TASK, BASE)
    assert cell(numbers, "sft_rft", 1, 1)["share"] == 1
    assert cell(numbers, "sft_rft", 0.01, 0.4)["share"] == pytest.approx(0.5)
    assert cell(numbers, "sft", 0.01, 0.4)["reward"] == 0.3
    assert cell(numbers, "rft", 0, 0)["share"] == pytest.approx(0.2)
    assert cell(numbers, "pretrained", 0, 0)["reward"] == 0.1


def test_sft_alone_is_measured_on_all_inputs_and_not_on_those_that_it_saw():
    table = grid()
    own = (table["method"] == "sft") & (table["sft_labels"] < 1) & (table["split"] == "train")
    assert own.any()
    table.loc[own, "reward"] = 0.99
    assert cell(figure4_numbers(table, SWEPT_TASK, BASE), "sft", 0.01, 0.4)["reward"] == 0.3
    alone = figure4_numbers(table[table["method"] != "sft_rft"], SWEPT_TASK, BASE)
    assert 0.99 not in set(alone["reward"])


def test_gain_ratio_is_over_the_gain_without_sft():
    numbers = figure4_numbers(grid(), SWEPT_TASK, BASE)
    assert cell(numbers, "sft_rft", 0.01, 0.4)["gain_ratio"] == pytest.approx(2)
    assert math.isnan(cell(numbers, "sft", 0.01, 0.4)["gain_ratio"])
    table = grid()
    table.loc[table["method"] == "rft", "reward"] = 0.05
    numbers = figure4_numbers(table, SWEPT_TASK, BASE)
    assert math.isnan(cell(numbers, "sft_rft", 0.01, 0.4)["gain_ratio"])


def test_there_is_a_ratio_where_the_interval_of_what_rft_alone_gains_lies_above_0():
    half = 1.959964 * 0.02
    alone = cell(figure4_numbers(grid(), SWEPT_TASK, BASE), "rft", 0, 0)
    ends = [alone[f"gain{end}"] for end in ("_low", "", "_high")]
    assert ends == pytest.approx([0.1 - half, 0.1, 0.1 + half])
    table = grid()
    table.loc[(table["method"] == "rft") & (table["split"] == "test"), "reward"] = 0.1 + 0.9 * half
    numbers = figure4_numbers(table, SWEPT_TASK, BASE)
    assert cell(numbers, "sft_rft", 0.01, 0.4)["gain_ratio"] == pytest.approx(2)
    assert math.isnan(cell(numbers, "sft_rft", 0.01, 0.4, "test")["gain_ratio"])
    seeds = pd.concat([grid().assign(seed=seed) for seed in range(3)], ignore_index=True)
    seeds.loc[seeds["method"] == "rft", "reward"] += seeds["seed"] * 0.05  # gains .1, .15 and .2
    alone = cell(figure4_numbers(seeds, SWEPT_TASK, BASE), "rft", 0, 0)
    half = 4.302653 * 0.05 / math.sqrt(3)
    assert (alone["gain_low"], alone["gain_high"]) == pytest.approx((0.15 - half, 0.15 + half))


def test_rft_after_sft_is_shown_at_its_own_learning_rate():
    assert set(grid()["learning_rate"]) == {3e-5, 1e-3, 1e-5, 1e-4}
    numbers = figure4_numbers(grid(), SWEPT_TASK, BASE)
    assert numbers["method"].tolist().count("sft_rft") == 4
    shown = table2(grid(), SWEPT_TASK, BASE)
    assert list(zip(shown["method"], shown["changed"], strict=True)) == [("rft", "")] + [("sft_rft", "")] * 2


def test_runs_with_other_settings_and_tasks_are_not_of_the_figure():
    other = runs(run("rft", 0.1, 0.9, learning_rate=1e-4), run("rft", 0.1, 0.9, task="other"))
    table = pd.concat([grid(), other], ignore_index=True)
    pd.testing.assert_frame_equal(
        figure4_numbers(table, SWEPT_TASK, BASE), figure4_numbers(grid(), SWEPT_TASK, BASE)
    )
    assert figure4_numbers(grid(), "nothing", BASE).empty


def test_cells_are_compared_on_the_seeds_that_all_have():
    more = grid()
    more = more[(more["method"] == "rft") | (more["sft_labels"] == 1)].assign(seed=1)
    more["reward"] += 0.05
    table = pd.concat([grid(), more], ignore_index=True)
    pd.testing.assert_frame_equal(
        figure4_numbers(table, SWEPT_TASK, BASE), figure4_numbers(grid(), SWEPT_TASK, BASE)
    )
    apart = table[(table["seed"] == 0) == (table["sft_labels"] < 1)]  # no seed is in all of them
    assert cell(figure4_numbers(apart, SWEPT_TASK, BASE), "sft_rft", 1, 1)["reward"] == pytest.approx(1.05)


def test_without_the_full_pipeline_there_are_no_shares():
    table = grid()
    numbers = figure4_numbers(table[table["sft_labels"] < 1], SWEPT_TASK, BASE)
    assert numbers["share"].isna().all() and len(numbers)


def test_a_full_pipeline_without_reward_gives_no_shares():
    table = grid()
    table.loc[(table["method"] == "sft_rft") & (table["sft_labels"] == 1), "reward"] = 0.0
    numbers = figure4_numbers(table, SWEPT_TASK, BASE)
    assert numbers["share"].isna().all()
    figure4(numbers).draw_without_rendering()


def test_figure_draws_every_number():
    numbers = figure4_numbers(grid(), SWEPT_TASK, BASE)
    figure = figure4(numbers)
    rewards, ratios = figure.axes[:2]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["40%", "100%"]
    drawn = {
        container.get_label(): container.lines[0].get_xydata().round(3).tolist()
        for container in rewards.containers
    }
    assert drawn == {
        "SFT alone, 1% of the labels": [[-0.105, 0.3]],
        "SFT, then RFT, 1% of the labels": [[-0.035, 0.5]],
        "SFT alone, 100% of the labels": [[1.035, 0.8]],
        "SFT, then RFT, 100% of the labels": [[1.105, 1.0]],
    }
    levels = {line.get_label(): line.get_ydata()[0] for line in rewards.lines if line.get_label()[0] != "_"}
    assert levels == {"RFT without SFT": 0.2, "pretrained": 0.1}
    points = np.concatenate([line.get_xydata() for line in ratios.lines[:2]])
    assert points == pytest.approx(np.array([[-0.035, 2], [1.035, 2]]))
    assert "share of full SFT" in str([child.get_ylabel() for child in rewards.child_axes])


def test_for_a_phone_all_panels_stand_below_each_other():
    table = grid()
    numbers = figure4_numbers(table, table["task"].iloc[0], BASE)
    wide, narrow = figure4(numbers), figure4(numbers, is_narrow=True)
    narrow.draw_without_rendering()
    assert narrow.get_figwidth() == 4 and len({axes.get_position().x0 for axes in narrow.axes}) == 1
    places = [axes.get_position().y0 for axes in narrow.axes]
    assert places == sorted(places, reverse=True)
    by_label = [{axes.get_ylabel(): axes for axes in figure.axes} for figure in (wide, narrow)]
    assert by_label[0].keys() == by_label[1].keys()
    for label, axes in by_label[1].items():
        drawn = [line.get_xydata().tolist() for line in axes.lines]
        assert drawn == [line.get_xydata().tolist() for line in by_label[0][label].lines]
        if axes.axison:  # of a split where RFT alone gains nothing it is not
            assert [tick.get_text() for tick in axes.get_xticklabels()] == ["40%", "100%"]


def test_figure_of_unfinished_grids_can_be_drawn(tmp_path):
    table = grid()
    for part in (table[table["method"] == "rft"], table[table["method"] == "sft"]):
        figure4(figure4_numbers(part, SWEPT_TASK, BASE)).savefig(tmp_path / "x.png")


def test_without_a_gain_of_rft_alone_no_panel_is_empty():
    table = grid()
    alone = table["method"] == "rft"
    table.loc[alone, "reward"] = table.loc[alone, "start_reward"]
    figure = figure4(figure4_numbers(table, SWEPT_TASK, BASE))
    assert len(figure.axes) == 2, "train and test reward"
    assert figure.axes[0].get_title() == "reward (RFT alone gains nothing)"
    unknown = figure4(figure4_numbers(table.assign(gain_se=float("nan")), SWEPT_TASK, BASE))
    assert unknown.axes[0].get_title() == "reward (what RFT alone gains has no interval)"
    # Of one split: said where its panel would be.
    table.loc[alone & (table["split"] == "train"), "reward"] += 0.1
    ratios = figure4(figure4_numbers(table, SWEPT_TASK, BASE)).axes[1::2]
    assert [axes.axison for axes in ratios] == [True, False]
    assert [text.get_text() for text in ratios[1].texts] == ["RFT alone gains nothing"]


def test_lines_and_markers_at_zero_are_whole():
    numbers = figure4_numbers(grid(), SWEPT_TASK, BASE)
    assert all(axes.get_ylim()[0] < 0 for axes in figure4(numbers).axes[::2])


def test_markers_of_equal_rewards_stand_side_by_side():
    table = grid().assign(reward=0.0, start_reward=0.0)
    table = pd.concat([table, table.assign(sft_labels=0.4)[table["method"] != "rft"]], ignore_index=True)
    rewards = figure4(figure4_numbers(table, SWEPT_TASK, BASE)).axes[0]
    points = [tuple(point) for line in rewards.containers for point in line.lines[0].get_xydata().round(6)]
    assert len(points) == len(set(points)) > 4 and {y for _, y in points} == {0}


def swept():
    return pd.concat(
        [
            grid(),
            runs(
                run("rft", 0.1, 0.15, ent_coef=0.05),
                run("rft", 0.1, 0.3, learning_rate=3e-4, seed=0),
                run("rft", 0.1, 0.5, learning_rate=3e-4, seed=1),
                run("rft", 0.1, 0.9, learning_rate=3e-4, temperature=2.0),
            ),
        ],
        ignore_index=True,
    )


def test_table2_changes_one_setting_at_a_time():
    numbers = table2(swept(), SWEPT_TASK, BASE)
    found = list(zip(numbers["method"], numbers["changed"], numbers["value"].fillna(0), strict=True))
    assert found == [
        ("rft", "", 0),
        ("rft", "learning_rate", 3e-4),
        ("rft", "ent_coef", 0.05),
        ("sft_rft", "", 0),
        ("sft_rft", "", 0),
    ]
    row = numbers.iloc[1]
    assert (row["train"], row["seeds"]) == (pytest.approx(0.4), 2)
    assert row["test_std"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert numbers["steps"].tolist()[-2:] == [0.4, 1]
    assert table2(swept(), "nothing", BASE).empty


def test_table2_as_text():
    shown = table2_shown(table2(swept(), SWEPT_TASK, BASE))
    assert shown.iloc[:, 0].tolist() == [
        "RFT",
        "RFT, learning rate 0.0003",
        "RFT, entropy coefficient 0.05",
        "SFT (1% of the labels, 40% of the steps), then RFT",
        "SFT (100% of the labels, 100% of the steps), then RFT",
    ]
    assert shown["train reward"].tolist()[:2] == ["0.200 [0.180, 0.220]", "0.400 ± 0.141"]


def test_differences_are_over_common_seeds_or_the_inputs_of_one():
    first = runs(run("rft", 0, 0.5), run("rft", 0, 0.7, seed=1), run("rft", 0, 9, seed=2))
    second = runs(run("rft", 0, 0.4), run("rft", 0, 0.5, seed=1))
    train = [table[table["split"] == "train"] for table in (first, second)]
    over_seeds = reward_difference(*train)
    assert over_seeds.pairs == 2 and over_seeds.mean == pytest.approx(0.15)
    one = reward_difference(train[0].head(1), train[1])
    half = 1.959964 * 0.01 * math.sqrt(2)
    assert (one.mean, one.low, one.high) == pytest.approx((0.1, 0.1 - half, 0.1 + half))
    twice = pd.concat([train[0].head(1)] * 2)  # the same run under two names is no second seed
    assert reward_difference(twice, train[1]).low == one.low
    assert reward_difference(train[0].tail(1), train[1]) is None
    assert math.isnan(reward_difference(train[0].head(1), train[1].assign(se=float("nan"))).low)
