"""The figure of group algorithms: that it draws its numbers, and that it can be read."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from figures.group_theory import LOOKS, PANELS, group_theory_figure
from sft_vs_rft.group_theory import group_rows


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    return pd.DataFrame(group_rows((0.003, 0.1, 0.5), (0.02, 0.2)))


def test_every_number_is_drawn_and_no_other(numbers: pd.DataFrame):
    assert set(numbers["series"]) == set(LOOKS) and set(numbers["panel"]) == set(PANELS)
    figure = group_theory_figure(numbers)
    for axes, panel in zip(figure.axes, PANELS, strict=False):
        drawn = {
            point
            for line in axes.get_lines()
            for point in zip(*np.asarray(line.get_data(), dtype=float).tolist(), strict=True)
        }
        rows = numbers[numbers["panel"] == panel]
        assert drawn == set(zip(rows["std"], rows["value"], strict=True))
        assert axes.get_title() and "reward std" in axes.get_xlabel() and axes.get_ylabel()


def test_series_differ_without_colour(numbers: pd.DataFrame):
    markers = [look["marker"] for look in LOOKS.values()]
    assert len(set(markers)) == len(markers)
    legend = group_theory_figure(numbers).axes[-1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == list(LOOKS)


def test_no_text_overlaps_or_leaves_the_page(numbers: pd.DataFrame):
    figure = group_theory_figure(numbers)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [
        text.get_window_extent(renderer)
        for axes in figure.axes[:-1]
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
    ]
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    boxes.append(legend.get_window_extent(renderer))
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
