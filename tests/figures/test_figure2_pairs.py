"""The slope chart of tasks under two rewards, on a hand-made table."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from figures.figure2_pairs import figure2_pairs
from figures.pairs import PAIRS
from rft_diagnose.style import GREY

LOOKS = {"repair": {"marker": "s", "color": "#0072B2"}, "dashes": {"marker": "o", "color": "#D55E00"}}
LABELS = {"repair_bleu": "repair\nSacreBLEU", "repair_rouge": "repair\nROUGE-L"}


def pairs(short=0.5):
    """Two tasks and two seeds; RFT's shares rise from .1 to .9 and from .2 to .3."""
    rows = []
    for data, small, large in (("repair", 0.1, 0.9), ("dashes", 0.2, 0.3)):
        for seed, shift in ((0, -0.01), (1, 0.01)):
            row = {"data": data, "seed": seed, "small": f"{data}_bleu", "large": f"{data}_rouge"}
            row |= {"small_percentile": 0.0, "large_percentile": 0.125}
            row |= {"small_rft": small + shift, "large_rft": large + shift}
            rows.append(row | {"small_short": short, "large_short": short})
    return pd.DataFrame(rows)[list(PAIRS)]


def slopes(axes):
    return [container.lines[0] for container in axes.containers]


@pytest.mark.parametrize("is_narrow", [False, True])
def test_a_line_joins_the_two_shares_of_a_task(is_narrow):
    figure = figure2_pairs(pairs(), LABELS, LOOKS, is_narrow=is_narrow)
    rft, short = figure.axes
    assert [np.round(line.get_ydata(orig=False), 6).tolist() for line in slopes(rft)] == [
        [0.1, 0.9],
        [0.2, 0.3],
    ]
    for line, look in zip(slopes(rft), LOOKS.values(), strict=True):
        assert (line.get_marker(), to_hex(line.get_color()).upper()) == (look["marker"], look["color"])
        assert np.round(line.get_xdata(orig=False)).tolist() == [0, 1]
    assert {to_hex(line.get_color()).upper() for line in slopes(short)} == {GREY}
    assert [tick.get_text() for tick in rft.get_xticklabels()] == [
        "reward of\nsmaller std",
        "reward of\nlarger std",
    ]
    (mean,) = [line for line in rft.lines if line.get_linewidth() == 3]
    assert mean.get_ydata() == pytest.approx([0.15, 0.6])
    assert (figure.get_figwidth() == 4) == is_narrow


def test_the_legend_names_task_rewards_and_percentiles():
    figure = figure2_pairs(pairs(), LABELS, LOOKS)
    texts = [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]
    assert texts == ["repair: SacreBLEU (0.000), ROUGE-L (0.125)", "dashes (0.000, 0.125)", "mean over tasks"]


def test_without_short_sft_there_is_one_panel_and_without_seeds_no_bar():
    table = pairs(short=float("nan"))
    figure = figure2_pairs(table[table["seed"] == 0], LABELS, LOOKS)
    assert len(figure.axes) == 1
    assert not any(container.has_yerr for container in figure.axes[0].containers)
