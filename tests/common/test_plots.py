"""The drawer of curves: what it draws of which points, and how it looks in numbers."""

import math
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import pytest
from matplotlib.axes import Axes

from common.plots import MAX_POINTS, Curve, Panel, draw_panels, save_panels
from rft_diagnose.style import BLACK, CURVE_COLORS, ORANGE, house_style


def draw(panel: Panel, x_label: str = "epoch") -> Axes:
    (axes,) = draw_panels([panel], x_label, CURVE_COLORS).axes
    return axes


def test_band_line_and_scale() -> None:
    curve = Curve("", [(1.0, 0.2), (2.0, 0.4)], band=[0.1, 0.05])
    axes = draw(Panel("reward", [curve], y_label="points"), "iteration")
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("iteration", "points", "reward")
    assert axes.get_legend() is None
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 0.2], [2.0, 0.4]]
    (band,) = axes.collections
    corners = {tuple(round(v, 6) for v in corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(1.0, 0.1), (1.0, 0.3), (2.0, 0.35), (2.0, 0.45)} <= corners
    assert axes.get_yscale() == "linear"
    axes = draw(Panel("gradient norm", [curve], y_label="norm", log=True))
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "norm (log scale)"


def test_curves_are_told_apart_with_and_without_colours() -> None:
    curves = [Curve(str(look), [(0.0, 0.0), (1.0, 1.0)], look) for look in range(28)]
    lines = draw(Panel("many", curves)).lines
    assert [line.get_color() for line in lines[:2]] == [BLACK, ORANGE]
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines]
    assert len(set(looks)) == 28
    assert len({look[1:] for look in looks[:8]}) == 8


@pytest.mark.parametrize("label", ["val", ""])
def test_what_is_not_finite_is_left_out_and_counted(label: str) -> None:
    points = [(1.0, 0.5), (2.0, math.nan), (3.0, math.inf), (4.0, 0.7)]
    axes = draw(Panel("loss", [Curve(label, points, band=[0.1] * 4)]))
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 0.5], [4.0, 0.7]]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["val (2 of 4 not finite)" if label else "2 of 4 not finite"]
    assert not axes.collections  # no band between points that are not neighbours
    assert draw(Panel("norm", [Curve("", [(1.0, math.inf)])], log=True)).get_yscale() == "linear"


def test_long_runs_are_drawn_as_medians_and_ranges() -> None:
    points = [(float(e), float(e % 4)) for e in range(4 * MAX_POINTS)]
    axes = draw(Panel("reward", [Curve("", points)]))
    (line,), (band,) = axes.lines, axes.collections
    assert list(line.get_xdata())[:2] == [1.5, 5.5] and len(line.get_xdata()) == MAX_POINTS
    assert set(line.get_ydata()) == {1.5}
    corners = [[1.5, 0], [4 * MAX_POINTS - 2.5, 3]]
    assert band.get_datalim(axes.transData).get_points().tolist() == corners
    assert axes.get_xlabel() == "epoch (lines: medians of up to 4 values, bands: their range)"


@pytest.mark.parametrize("places", [[7.0], [0.0, 1.0, 2.0], [0.25, 0.5]])
def test_ticks_are_whole_numbers_where_the_places_are(places: list[float]) -> None:
    axes = draw(Panel("loss", [Curve("", [(x, 1.0) for x in places])]))
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks) >= 2
    assert all(tick == int(tick) for tick in ticks) == all(x == int(x) for x in places)


def test_many_panels_form_a_grid() -> None:
    panels = [Panel(f"metric {i}", [Curve("val", [(0.0, 1.0), (1.0, 2.0)])]) for i in range(7)]
    figure = draw_panels(panels, "epoch", CURVE_COLORS)
    places = [axes.get_subplotspec().get_geometry()[:2] for axes in figure.axes]  # type: ignore[union-attr]
    assert places == [(3, 3)] * 7
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_a_picture_is_in_the_house_style_and_nothing_global_is_touched(tmp_path: Path) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = dict(matplotlib.rcParams)
    panel = Panel("loss", [Curve("train", [(0.0, 1.0), (1.0, 2.0)])])
    with house_style():
        assert not draw(panel).spines["top"].get_visible()
        save_panels(tmp_path / "loss.png", [panel], "epoch", CURVE_COLORS)
    assert matplotlib.image.imread(tmp_path / "loss.png").shape == (504, 840, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert dict(matplotlib.rcParams) == before
    assert sys.modules.get("matplotlib.pyplot") is pyplot
