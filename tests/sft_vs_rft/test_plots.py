"""Pictures of metrics: which belong together, their names and files."""

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.axes import Axes

from common.plots import draw_panels
from rft_diagnose.style import CURVE_COLORS
from sft_vs_rft.plots import WORDS, arrange_metrics, save_metric_plots

SMALL, LARGE = " small reward std", " large reward std"


def rows(num: int) -> list[dict[str, Any]]:
    """Rows as of a finetuning run, with a validation every second epoch."""
    made = []
    for epoch in range(num):
        x = 1 / (epoch + 1)
        train = {"train loss": x, "train accuracy": 1 - x, "params_norm": 20 + x, "reg objective value": -x}
        for group, scale in (("", 1), (SMALL, 0.01), (LARGE, 1.1)):
            train |= {f"grad norm{group}": scale * x, f"reward{group}": 1 - 2 * scale * x}
        for group in (SMALL, LARGE):
            train |= {f"train accuracy{group}": x / 2, f"reg objective{group}": -x}
        row: dict[str, Any] = {"epoch": epoch, "train": train}
        made.append(row | ({"val": {"test loss": 2 * x, "test accuracy": 1 - x}} if epoch % 2 else {}))
    return made


def draw(rows: list[dict[str, Any]]) -> dict[str, Axes]:
    """The axes of each family's picture."""
    return {
        family: draw_panels([panel], "epoch", CURVE_COLORS).axes[0]
        for family, panel in arrange_metrics(rows).items()
    }


def test_what_belongs_together_shares_a_picture() -> None:
    labels = {
        family: [curve.label for curve in panel.curves] for family, panel in arrange_metrics(rows(4)).items()
    }
    assert labels == {
        "loss": ["train loss", "test loss"],
        "accuracy": ["train accuracy", "test accuracy", f"train accuracy{SMALL}", f"train accuracy{LARGE}"],
        "params_norm": ["parameter norm"],
        "reg objective": [
            "regularised objective value",
            f"regularised objective{SMALL}",
            f"regularised objective{LARGE}",
        ],
        "grad norm": ["gradient norm", f"gradient norm{SMALL}", f"gradient norm{LARGE}"],
        "reward": ["reward", f"reward{SMALL}", f"reward{LARGE}"],
    }


def test_lines_hold_the_numbers_of_the_rows() -> None:
    axes = draw(rows(6))["loss"]
    train, test = axes.lines
    assert list(train.get_xdata()) == [0, 1, 2, 3, 4, 5]
    assert list(train.get_ydata()) == [1 / (e + 1) for e in range(6)]
    assert list(test.get_xdata()) == [1, 3, 5]
    assert list(test.get_ydata()) == [2 / (e + 1) for e in (1, 3, 5)]


def test_pictures_are_labelled_and_readable_without_colours() -> None:
    for family, axes in draw(rows(5)).items():
        words = WORDS.get(family, family)
        assert axes.get_title() == words[0].upper() + words[1:] and "_" not in axes.get_title()
        assert axes.get_xlabel() == "epoch"
        log = family == "grad norm"
        assert axes.get_yscale() == ("log" if log else "linear")
        assert axes.get_ylabel() == (f"{words} (log scale)" if log else words)
        assert len(axes.get_legend().get_texts()) == len(axes.lines)
        for get in ("get_linestyle", "get_marker"):
            assert len({getattr(line, get)() for line in axes.lines}) == len(axes.lines)


def test_a_name_of_both_splits_is_told_apart() -> None:
    panels = arrange_metrics([{"epoch": 0, "train": {"rouge": 0.1}, "val": {"rouge": 0.2}}])
    assert [curve.label for curve in panels["rouge"].curves] == ["rouge (train)", "rouge (val)"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted_not_drawn(tmp_path: Path, bad: float) -> None:
    values = [1.0, bad, 0.5, bad]
    diverged = [{"epoch": e, "train": {"grad norm": v, "reward": bad}} for e, v in enumerate(values)]
    axes = draw(diverged)
    (line,) = axes["grad norm"].lines
    assert list(line.get_ydata()) == [1.0, 0.5]
    assert line.get_label() == "gradient norm (2 of 4 not finite)"
    (line,) = axes["reward"].lines
    assert line.get_label() == "reward (4 of 4 not finite)"
    assert len(save_metric_plots(diverged, tmp_path)) == 2


@pytest.mark.parametrize("values", [[0.0], [-1.0, 0.0], [0.0, 1.0], [1e-38, 1e38], [2.0, 2.0]])
@pytest.mark.filterwarnings("error")
def test_odd_values_draw_without_a_warning(tmp_path: Path, values: list[float]) -> None:
    odd = [{"epoch": e + 7, "train": {"grad norm": v, "reward": v}} for e, v in enumerate(values)]
    for path in save_metric_plots(odd, tmp_path):
        assert matplotlib.image.imread(path).shape == (504, 840, 4)


def test_files_are_whole_pictures_under_safe_names(tmp_path: Path) -> None:
    names = ["KL/reg: mean", "KL reg mean", "..", "é", "x" * 300]
    paths = save_metric_plots([{"epoch": 3, "train": dict.fromkeys(names, 1.0)}], tmp_path / "plots")
    assert [p.name for p in paths] == [
        "kl_reg_mean.png",
        "kl_reg_mean_2.png",
        "metric.png",
        "metric_2.png",
        "x" * 100 + ".png",
    ]
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert picture[..., :3].min() < 0.1 < 0.9 < picture[..., :3].max()
    before = [path.read_bytes() for path in paths]
    assert save_metric_plots([{"epoch": 3, "train": dict.fromkeys(names, 1.0)}], tmp_path / "plots") == paths
    assert [path.read_bytes() for path in paths] == before


def test_a_regularisation_that_is_0_all_along_has_no_picture() -> None:
    made = [{"epoch": e, "train": {"kl reg": 0.0, "train accuracy": 0.0}} for e in range(3)]
    assert set(arrange_metrics(made)) == {"accuracy"}, "an accuracy of 0 is a result"
    made[2]["train"]["kl reg"] = 0.1
    assert arrange_metrics(made)["kl reg"].title == "KL regularisation"


def test_no_rows_no_pictures(tmp_path: Path) -> None:
    assert save_metric_plots([], tmp_path) == []


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    open_figures = pyplot.get_fignums() if pyplot else []
    save_metric_plots(rows(2), tmp_path)
    assert sys.modules.get("matplotlib.pyplot") is pyplot
    assert pyplot is None or pyplot.get_fignums() == open_figures
