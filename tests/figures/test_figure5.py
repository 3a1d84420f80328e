"""Figure 5 as a picture."""

from itertools import pairwise

import pandas as pd
import pytest
import torch

from figures.figure1_5 import NARROW_COLUMN, figure5_numbers, figure5_panel


def extraction():
    rewards = torch.zeros(20, 3)
    rewards[10:] = torch.tensor([0.0, 0.5, 1.0])
    return {
        "all_metric_values": {"m": rewards},
        "all_generated_texts": [["a $5 text", "", f"text {i}"] for i in range(20)],
        "prompts": [f"prompt {i} " + 80 * "long " for i in range(20)],
        "references": [["one", "two"] for _ in range(19)] + [[]],
        "ids": [f"train-{i}" for i in range(20)],
    }


def drawn(axes):
    return [text.get_text() for text in axes.texts]


def test_numbers_are_the_generations_of_two_inputs():
    table = figure5_numbers(extraction(), "m")
    assert table["kind"].tolist() == ["small"] * 3 + ["large"] * 3
    small, large = (table[table["kind"] == kind] for kind in ("small", "large"))
    assert small["reward"].tolist() == [0, 0, 0] and large["reward"].tolist() == [0, 0.5, 1]
    assert small["input"].max() < 10 <= large["input"].min()
    assert large["generation"].tolist()[2] == f"text {large['input'].iloc[0]}"
    assert small["reference"].iloc[0] == "one"


def test_panel_shows_prompt_reference_generations_and_rewards(tmp_path):
    figure = figure5_panel(figure5_numbers(extraction(), "m"), "title")
    small, large = figure.axes
    assert small.get_title("left") == "small reward std: 0.000, mean 0.000"
    assert large.get_title("left") == "large reward std: 0.408, mean 0.500"
    texts = drawn(large)
    assert texts[0] == "prompt"
    assert texts[1].startswith("prompt 1") and texts[1].endswith(" ...") and texts[1].count("\n") == 5
    assert texts[2:4] == ["reference", "one"]
    assert texts[4:8] == ["0.000", r"a \$5 text", "0.500", "(empty)"]
    bars = [patch.get_width() for patch in large.patches]
    assert bars == pytest.approx([0.1, 0.0, 0.1, 0.05, 0.1, 0.1])  # of each the whole, and the reward's share
    figure.savefig(tmp_path / "x.png")


def test_for_a_phone_the_inputs_stand_one_below_the_other():
    figure = figure5_panel(figure5_numbers(extraction(), "m"), is_narrow=True)
    figure.draw_without_rendering()
    small, large = figure.axes
    assert figure.get_figwidth() == 4
    assert large.get_position().y1 < small.get_position().y0
    lines = [line for axes in figure.axes for text in drawn(axes) for line in text.split("\n")]
    assert "prompt" in lines and "(empty)" in lines and max(map(len, lines)) <= NARROW_COLUMN


def test_generations_do_not_overlap():
    table = pd.concat([figure5_numbers(extraction(), "m").assign(generation=40 * "words ")])
    heights = [text.get_position()[1] for text in figure5_panel(table).axes[0].texts[4::2]]
    assert all(after - before >= 2 for before, after in pairwise(heights))
