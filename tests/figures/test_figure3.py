"""Figure 3 on small tables, and the table on small runs."""

import itertools
import json

import pandas as pd
import pytest
from controlled_runs import CONFIG, make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from figures.figure3 import figure3
from figures.runs import NoRunsError, controlled_table, figure3_item, runs_in, runs_of_item


def table(environments=("A",), runs=1, finished=True):
    keys = itertools.product(environments, ("RFT", "SFT"), ("small", "large"), range(runs), range(4))
    rows = [
        {
            "environment": environment,
            "method": method,
            "group": group,
            "epoch": epoch,
            "reward": epoch + run,
            "reward_std": 0.5,
            "grad_norm": 10.0**-epoch,
            "run": f"{environment}{method}{run}",
            "finished": finished,
        }
        for environment, method, group, run, epoch in keys
    ]
    return pd.DataFrame(rows)


def test_columns_are_environments_and_rows_the_three_quantities():
    figure = figure3(table(("A", "B")))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["A", "B"]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["train reward", "reward std", "gradient norm"]
    assert [axes.get_yscale() for axes in figure.axes[::2]] == ["linear", "linear", "log"]


def test_lines_hold_the_numbers_of_the_table_and_differ_without_colour():
    axes = figure3(table()).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {f"{m}, {g} std" for m in ("RFT", "SFT") for g in ("small", "large")}
    assert list(lines["RFT, small std"].get_ydata()) == [0, 1, 2, 3]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines.values()}
    assert len(looks) == 4


def test_several_runs_are_drawn_as_their_mean_with_a_band():
    axes = figure3(table(runs=3)).axes[0]
    assert list(axes.lines[0].get_ydata()) == [1, 2, 3, 4]
    assert len(axes.collections) == 4
    assert not figure3(table()).axes[0].collections


def test_unfinished_runs_are_marked_partial():
    assert "partial" in figure3(table(finished=False)).axes[0].get_title()
    assert "partial" not in figure3(table()).axes[0].get_title()


def test_table_from_runs(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, "supervised", status="running", epochs=2)
    make_run(tmp_path, frac_samples_to_modify_labels=0)  # pretraining: not drawn
    result = controlled_table(runs_in([tmp_path]))
    assert len(result) == 2 * 3 + 2 * 2
    assert result.groupby("method")["finished"].first().to_dict() == {"RFT": True, "SFT": False}
    small = result[(result["method"] == "RFT") & (result["group"] == "small")]
    assert small["reward"].tolist() == [0, 1, 2]
    assert small["reward_std"].tolist() == [1, 2, 3]
    assert small["grad_norm"].tolist() == [2, 3, 4]
    assert set(result["environment"]) == {"MLP, digits\nAdam 0.0001, batch 512"}


def test_a_torn_last_row_of_a_running_experiment_is_left_out(tmp_path):
    path = make_run(tmp_path, status="running")
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3})[:-4])
    assert len(controlled_table(runs_in([path]))) == 2 * 3


def test_runs_are_found_in_folders_and_missing_ones_are_said(tmp_path):
    path = make_run(tmp_path)
    assert [run.path for run in runs_in([path])] == [run.path for run in runs_in([tmp_path])] == [path]
    with pytest.raises(NoRunsError, match="neither a run folder"):
        runs_in([tmp_path / "nowhere"])
    with pytest.raises(NoRunsError, match="no finetuning run with modified inputs"):
        controlled_table(runs_in([make_run(tmp_path / "b", frac_samples_to_modify_labels=0)]))


def test_versions_of_figure_3():
    assert figure3_item(CONFIG) == "figure3"
    assert figure3_item(CONFIG | {"optimizer": "sgd"}) == "figure3_sgd"
    assert figure3_item(CONFIG | {"reward_type": "labels_with_custom"}) == "figure3_high_init_reward"


def test_groups_have_a_version_of_their_own_beside_rft_and_sft_of_the_same_environment(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, "supervised")
    make_run(tmp_path, "supervised", lr=1e-3)  # another environment
    for size in (8, 64, 0):
        make_run(tmp_path, "expected_group", group_size=size, advantage="grpo")
    make_run(tmp_path, "sampled_group", group_size=4, advantage="rloo")
    make_run(tmp_path, "expected_group", group_size=8, advantage="grpo", optimizer="sgd")
    runs = runs_in([tmp_path])
    methods = {
        item: sorted(set(controlled_table(runs_of_item(runs, item))["method"]))
        for item in ("figure3", "figure3_sgd", "figure3_group")
    }
    groups = ["GRPO, G = 64", "GRPO, G = 8", "GRPO, G infinite"]
    assert methods["figure3"] == ["RFT", "SFT"]
    assert methods["figure3_sgd"] == ["GRPO, G = 8"]
    assert methods["figure3_group"] == [*groups, "RFT", "RLOO, G = 4 (sampled)", "SFT"]
    assert len(runs_of_item(runs, "figure3")) == 3 and len(runs_of_item(runs, "figure3_group")) == 6
    assert runs_of_item(runs, "figure3_high_init_reward") == []


def test_lines_of_groups_differ_without_colour_in_the_order_of_their_table():
    rows = table()
    names = [
        "RLOO, G = 4 (sampled)",
        "GRPO, G infinite",
        "GRPO, G = 64",
        "GRPO, G = 8",
        "Dr. GRPO, G = 4 (sampled)",
    ]
    parts = [rows, *(rows[rows["method"] == "RFT"].assign(method=name) for name in names)]
    axes = figure3(pd.concat(parts, ignore_index=True)).axes[0]
    labels = [line.get_label().partition(", small")[0] for line in axes.lines if "small" in line.get_label()]
    assert labels == ["RFT", "SFT", "GRPO, G = 8", "GRPO, G = 64", "GRPO, G infinite", names[4], names[0]]
    looks = {(line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 14


@pytest.mark.parametrize("environments", [("A",), ("A", "B"), ("A", "B", "C")])
def test_the_legend_has_room(environments):
    rows = table(environments)
    names = ["GRPO, G infinite", "GRPO, G = 64", "GRPO, G = 8"]
    parts = [rows, *(rows[rows["method"] == "RFT"].assign(method=name) for name in names)]
    figure = figure3(pd.concat(parts, ignore_index=True))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= figure.bbox.x0 and box.x1 <= figure.bbox.x1
