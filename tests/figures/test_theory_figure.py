"""The figure of the theory: what it draws from tables of ten rows, and that it can be read."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from figures.theory import BOUNDS, fitted_slopes, plotted_numbers, theory_figure

STDS = np.array([0.9, 0.5, 0.2, 0.05, 0.02, 0.5, 0.01, 1e-3, 1e-4, 1e-5])


@pytest.fixture
def bounds_table() -> pd.DataFrame:
    length, gamma = np.array([1, 2] * 5), np.linspace(1, 3, 10)
    linear, power = np.sqrt(length / 2) * gamma * STDS, 6 * length * gamma * STDS ** (2 / 3)
    return pd.DataFrame(
        {
            "reward": ["uniform"] * 6 + ["nearly constant"] * 4,
            "length": length,
            "gamma": gamma,
            "std": STDS,
            "grad_norm": 0.4 * linear,
            "power_bound": power,
            "linear_bound": linear,
            "fisher_bound": 0.8 * linear,
            "kl_std": 2 * STDS,
            "kl_grad_norm": 0.3 * linear,
            "kl_bound": 2 * power,
        }
    )


@pytest.fixture
def rates_table() -> pd.DataFrame:
    std = np.array([0.1, 0.01, 0.03])  # out of order on purpose
    rft = pd.DataFrame({"method": "RFT", "std": std, "time": 3 * std**-1.5})
    sft = pd.DataFrame({"method": "SFT", "std": std, "time": 2 + 0.7 * np.log(1 / std)})
    return pd.concat([rft, sft], ignore_index=True)


def rows_of(numbers: pd.DataFrame, panel: str, series: str) -> pd.DataFrame:
    return numbers[(numbers["panel"] == panel) & (numbers["series"] == series)]


def test_slopes_of_known_laws(rates_table: pd.DataFrame):
    assert fitted_slopes(rates_table) == pytest.approx({"RFT": -1.5, "SFT": 0.7})


def test_fitted_lines_pass_through_points_that_obey_the_law(
    bounds_table: pd.DataFrame, rates_table: pd.DataFrame
):
    numbers = plotted_numbers(bounds_table, rates_table)
    for method in ("RFT", "SFT"):
        times, fit = rows_of(numbers, "time", method), rows_of(numbers, "time", f"{method} fit")
        assert times["std"].tolist() == fit["std"].tolist() == [0.01, 0.03, 0.1]
        assert fit["value"].tolist() == pytest.approx(times["value"].tolist())


def test_gradients_are_over_length_and_gamma_so_that_lines_bound_all(
    bounds_table: pd.DataFrame, rates_table: pd.DataFrame
):
    numbers = plotted_numbers(bounds_table, rates_table)
    others, constant = rows_of(numbers, "gradient", "other"), rows_of(numbers, "gradient", "nearly constant")
    assert (len(others), len(constant)) == (6, 4)
    expected = bounds_table["grad_norm"] / (bounds_table["length"] * bounds_table["gamma"])
    assert [*others["value"], *constant["value"]] == expected.tolist()
    power, linear = rows_of(numbers, "gradient", "power_bound"), rows_of(numbers, "gradient", "linear_bound")
    assert power["std"].tolist() == linear["std"].tolist() == [1e-5, 1]
    assert power["value"].tolist() == pytest.approx([6 * 1e-5 ** (2 / 3), 6])
    assert linear["value"].tolist() == pytest.approx([1e-5 / math.sqrt(2), 1 / math.sqrt(2)])


def test_ratios_are_the_largest_of_each_decade(bounds_table: pd.DataFrame, rates_table: pd.DataFrame):
    bounds_table["grad_norm"] *= np.where(np.arange(10) == 1, 2, 1)  # the largest of the decade 0.1 to 1
    numbers = plotted_numbers(bounds_table, rates_table)
    linear = rows_of(numbers, "ratio", "linear_bound")
    decades = np.floor(np.log10(linear["std"]))
    assert decades.is_unique and decades.is_monotonic_increasing
    assert linear["std"].iloc[-1] == 0.5 and linear["value"].iloc[-1] == pytest.approx(0.8)
    assert linear["value"].iloc[:-1].tolist() == pytest.approx([0.4] * (len(linear) - 1))
    assert rows_of(numbers, "ratio", "fisher_bound")["value"].iloc[-1] == pytest.approx(1)
    kl = rows_of(numbers, "ratio", "kl_bound")
    assert set(kl["std"]) <= set(2 * STDS)


def legend_of(axes: Axes) -> Legend:
    legend = axes.get_legend()
    assert legend is not None
    return legend


def drawn(figure: Figure) -> set[tuple[float, float]]:
    return {
        point
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_transform() == axes.transData
        for point in zip(*np.asarray(line.get_data(), dtype=float).tolist(), strict=True)
    }


def test_every_drawn_number_is_in_the_table_and_the_reverse(
    bounds_table: pd.DataFrame, rates_table: pd.DataFrame
):
    numbers = plotted_numbers(bounds_table, rates_table)
    figure = theory_figure(bounds_table, rates_table)
    assert drawn(figure) == set(zip(numbers["std"], numbers["value"], strict=True))


def test_labels_say_what_is_seen(bounds_table: pd.DataFrame, rates_table: pd.DataFrame):
    figure = theory_figure(bounds_table, rates_table)
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    assert all("reward std" in axes.get_xlabel() for axes in figure.axes)
    legends = [[text.get_text() for text in legend_of(axes).get_texts()] for axes in figure.axes]
    assert "4 models, nearly constant rewards" in legends[0] and "6 models, other rewards" in legends[0]
    assert legends[1] == [bound.label for bound in BOUNDS]
    assert "-1.50" in legends[2][0] and "0.70" in legends[2][1]


def test_series_of_a_panel_differ_without_colour(bounds_table: pd.DataFrame, rates_table: pd.DataFrame):
    for axes in theory_figure(bounds_table, rates_table).axes:
        looks = [
            # get_linestyle calls all custom dashes "--"
            (line.get_marker(), line.get_linestyle(), str(vars(line)["_dash_pattern"]))
            for line in axes.get_lines()
            if not str(line.get_label()).startswith("_")
        ]
        assert len(looks) >= 2 and len(set(looks)) == len(looks)


def test_no_text_overlaps_or_leaves_the_page(bounds_table: pd.DataFrame, rates_table: pd.DataFrame):
    figure = theory_figure(bounds_table, rates_table)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]  # the explanation of the symbols
    for axes in figure.axes:
        boxes += [
            text.get_window_extent(renderer) for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
        ]
        boxes.append(legend_of(axes).get_window_extent(renderer))
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_a_table_without_nearly_constant_rewards(bounds_table: pd.DataFrame, rates_table: pd.DataFrame):
    bounds_table["reward"] = "uniform"
    legend = legend_of(theory_figure(bounds_table, rates_table).axes[0])
    assert legend.get_texts()[0].get_text() == "10 models, other rewards"
