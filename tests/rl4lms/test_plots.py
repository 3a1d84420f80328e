"""Pictures of training runs: what is drawn of which rows, and how it looks in numbers."""

import json
import math

import matplotlib.image
import pytest

from common.plots import MAX_POINTS
from rl4lms.plots import Line, Panel, draw_training, figure_of, training_pictures


def write(path, name, rows):
    (path / f"mine_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def ppo(tmp_path):
    """A run of three iterations, evaluated on all splits before and after."""
    rollouts = [
        {
            "epoch": e,
            "rollout_info/ep_rew": 0.1 * e,
            "rollout_info/ep_rew_std": 0.05,
            "rollout_info/kl_div_mean": 0.01 * e,
            "rollout_info/kl_coeff": 0.001,
        }
        for e in (1, 2, 3)
    ]
    rollouts[1]["rollout_info/input_reward_std"] = 0.02  # an input was drawn twice in one iteration only
    write(tmp_path, "rollout_info", rollouts)
    updates = [
        {"epoch": e, "ppo/value_loss": 1 / e, "ppo/entropy_loss": -2.0, "ppo/grad_norm": 10.0**e}
        for e in (1, 2, 3)
    ]
    write(tmp_path, "training_info", updates)
    for split, epochs in {"train": (0, 3), "val": (0, 1, 2, 3), "test": (0, 3)}.items():
        values = {"lexical/rouge_l_max": 0.2, "diversity_metrics/distinct-1": 0.5, "own": math.nan}
        values |= {"diversity_metrics/distinct-1-nopunct": 0.5}
        write(tmp_path, f"{split}_split_metrics", [{"epoch": e, "metrics": values} for e in epochs])
    return tmp_path


def test_every_picture_has_the_recorded_points(ppo):
    pictures = training_pictures(ppo, "mine_")
    assert set(pictures) == {
        *("reward", "reward_std", "kl", "losses", "gradient_norm"),
        *("evaluation_lexical", "evaluation_diversity_metrics", "evaluation_metrics"),
    }
    (reward,) = pictures["reward"]
    assert reward.lines == [Line("", [(1.0, 0.1), (2.0, 0.2), (3.0, pytest.approx(0.3))], [0.05] * 3)]
    assert pictures["reward_std"][0].lines[0].points == [(2.0, 0.02)]
    assert [panel.title for panel in pictures["losses"]] == ["value loss", "entropy loss"]
    (rouge,) = pictures["evaluation_lexical"]
    assert [(line.label, [epoch for epoch, _ in line.points]) for line in rouge.lines] == [
        ("train", [0, 3]),
        ("val", [0, 1, 2, 3]),
        ("test", [0, 3]),
    ]
    assert [panel.title for panel in pictures["evaluation_diversity_metrics"]] == ["distinct-1"]


def test_pictures_are_written_while_a_run_goes_on(ppo):
    with (ppo / "mine_rollout_info.jsonl").open("a") as file:
        file.write('{"epoch": 4, "rollout_')  # the row that is being written
    paths = draw_training(ppo, "mine_")
    assert sorted(paths) == sorted((ppo / "plots").iterdir())
    assert len(paths) == 8
    for path in paths:
        assert matplotlib.image.imread(path).std() > 0.01  # not blank


def test_a_run_without_rows_has_no_pictures(tmp_path):
    assert draw_training(tmp_path, "mine_") == []
    assert list(tmp_path.iterdir()) == []


def test_the_x_axis_counts_what_the_rows_count(ppo, tmp_path_factory, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "rl4lms.plots.figure_of",
        lambda panels, x_label: labels.append(x_label) or figure_of(panels[:1], x_label),
    )
    draw_training(ppo, "mine_")
    assert set(labels) == {"iteration"}
    labels.clear()
    supervised = tmp_path_factory.mktemp("sft")
    rows = [{"epoch": step / 4, "step": step, "loss": 2.0, "grad_norm": 1.0} for step in (1, 2, 3)]
    write(supervised, "training_info", rows)
    assert {path.name for path in draw_training(supervised, "mine_")} == {"losses.png", "gradient_norm.png"}
    assert set(labels) == {"epoch"}


def test_band_line_and_scale():
    line = Line("", [(1.0, 0.2), (2.0, 0.4)], [0.1, 0.05])
    (axes,) = figure_of([Panel("reward", [line])], "iteration").axes
    assert axes.get_xlabel() == "iteration" and axes.get_title() == "reward"
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 0.2], [2.0, 0.4]]
    (band,) = axes.collections
    corners = {tuple(round(v, 6) for v in corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(1.0, 0.1), (1.0, 0.3), (2.0, 0.35), (2.0, 0.45)} <= corners
    assert axes.get_yscale() == "linear"
    (axes,) = figure_of([Panel("gradient norm", [line], log=True)], "epoch").axes
    assert axes.get_yscale() == "log"


def test_what_is_not_finite_is_left_out_and_counted():
    points = [(1.0, 0.5), (2.0, math.nan), (3.0, math.inf), (4.0, 0.7)]
    (axes,) = figure_of([Panel("loss", [Line("val", points)])], "epoch").axes
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 0.5], [4.0, 0.7]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["val, 2 values not finite"]
    (axes,) = figure_of([Panel("norm", [Line("", [(1.0, math.inf)])], log=True)], "epoch").axes
    assert axes.get_yscale() == "linear"


def test_long_runs_are_drawn_as_medians_and_ranges():
    points = [(float(e), float(e % 2)) for e in range(20 * MAX_POINTS)]
    (axes,) = figure_of([Panel("loss", [Line("", points)])], "epoch").axes
    assert len(axes.lines[0].get_xydata()) == MAX_POINTS
    assert set(axes.lines[0].get_ydata()) == {0.5}
    (band,) = axes.collections
    assert set(band.get_paths()[0].vertices[:, 1].tolist()) == {0.0, 1.0}


def test_many_panels_form_a_grid():
    panels = [Panel(f"metric {i}", [Line("val", [(0.0, 1.0), (1.0, 2.0)])]) for i in range(7)]
    figure = figure_of(panels, "epoch")
    places = [axes.get_subplotspec().get_geometry()[:2] for axes in figure.axes]
    assert places == [(3, 3)] * 7
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
