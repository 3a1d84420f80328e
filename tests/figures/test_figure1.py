"""Figures 1 and 5 on small tables."""

import numpy as np
import pandas as pd

from figures.figure1_5 import example_inputs, figure1, figure1_narrow, figure1_numbers, figure1_tasks, figure5


def panels(*names):
    rng = np.random.default_rng(0)
    tables = [
        pd.DataFrame({"panel": name, "input": range(12), "mean": rng.random(12), "std": rng.random(12)})
        for name in names
    ]
    return pd.concat(tables, ignore_index=True)


def test_every_panel_is_ordered_by_the_std_of_the_first():
    table = panels("pretrained", "RFT", "SFT")
    figure = figure1(table, "ROUGE-L")
    first = table[table["panel"] == "pretrained"].sort_values("std")
    for axes, name in zip(figure.axes, ("pretrained", "RFT", "SFT"), strict=False):
        offsets = np.asarray(axes.collections[0].get_offsets())
        rows = table[table["panel"] == name].set_index("input").loc[first["input"]]
        assert offsets[:, 0].tolist() == list(range(12))
        assert np.allclose(offsets[:, 1], rows["mean"])
        assert np.allclose(axes.collections[0].get_array(), rows["std"])
        assert axes.get_title().startswith(name)


def test_colours_mean_the_same_in_every_panel():
    figure = figure1(panels("pretrained", "RFT"), "x")
    assert len({axes.collections[0].get_clim() for axes in figure.axes[:2]}) == 1


def test_constant_rewards_can_be_drawn(tmp_path):
    table = pd.DataFrame({"panel": "pretrained", "input": range(3), "mean": 0.0, "std": 0.0})
    figure1(table, "x").savefig(tmp_path / "x.png")


def test_examples_are_of_the_smallest_and_largest_std_and_not_solved():
    table = pd.DataFrame({"mean": [1.0, 0.1, 0.2, 0.5], "std": [0.0, 0.01, 0.2, 0.4]})
    assert example_inputs(table) == (1, 3)
    assert example_inputs(table.assign(mean=1.0)) == (0, 3)


def test_example_of_large_std_has_some_where_any_input_has():
    table = pd.DataFrame({"mean": 0.0, "std": [0.0] * 39 + [0.4]})
    assert example_inputs(table)[1] == 39
    assert example_inputs(table.head(39))[1] < 39


def test_example_shows_prompt_references_and_every_generation():
    text = figure5("what?", ["this"], ["this", "that"], [1.0, 0.0], "small std")
    for part in ("what?", "reference: this", "1.000  'this'", "0.000  'that'", "mean 0.500, std 0.500"):
        assert part in text


def study_inputs():
    """Two tasks; that of the smaller stds second. Models in another order than they are drawn."""
    rng = np.random.default_rng(0)
    parts = []
    for task, largest in (("wide", 0.5), ("narrow", 0.1)):
        for method, sample in (("sft", 1), ("rft", 1), ("pretrained", 1), ("pretrained", 2)):
            if (task, method) == ("wide", "rft"):
                continue
            values = {"mean": rng.random(12), "std": largest * rng.random(12)}
            part = pd.DataFrame({"input": range(12), "id": "x", "task": task, "method": method} | values)
            parts.append(part.assign(sample=sample, seed=0, split="train"))
    return pd.concat([*parts, parts[0].assign(split="test")], ignore_index=True)


def test_tasks_are_ordered_by_percentile_and_models_by_method():
    numbers = figure1_numbers(study_inputs(), seed=0)
    assert numbers["task"].unique().tolist() == ["narrow", "wide"]
    assert numbers["panel"].unique().tolist() == ["pretrained", "RFT", "SFT"]
    assert len(numbers) == 5 * 12  # the first sample alone, and train inputs alone
    assert figure1_numbers(study_inputs(), seed=1).empty


def test_for_a_phone_models_stand_two_by_two():
    numbers = figure1_numbers(study_inputs(), 0)
    figure = figure1_narrow(numbers, {})
    figure.draw_without_rendering()
    tasks = list(dict.fromkeys(numbers["task"]))
    assert figure.get_figwidth() == 4
    assert [part.get_suptitle() for part in figure.subfigs] == tasks
    for part, task in zip(figure.subfigs, tasks, strict=True):
        drawn = [axes for axes in part.axes if axes.collections and axes.get_label() != "<colorbar>"]
        shown = numbers[numbers["task"] == task]
        assert [axes.get_title().split(" (")[0] for axes in drawn] == list(dict.fromkeys(shown["panel"]))
        for axes, panel in zip(drawn, dict.fromkeys(shown["panel"]), strict=True):
            heights = sorted(axes.collections[0].get_offsets()[:, 1])
            assert heights == sorted(shown[shown["panel"] == panel]["mean"])


def test_rows_are_tasks_and_a_missing_model_is_said():
    numbers = figure1_numbers(study_inputs(), seed=0)
    figure = figure1_tasks(numbers, {"wide": "wide task"})
    panels = np.reshape(figure.axes[:6], (2, 3))
    assert panels[1][1].get_title() == "RFT" and panels[1][1].texts[0].get_text() == "not run"
    assert panels[1][0].get_ylabel() == "wide task\nreward mean"
    for task, row in zip(("narrow", "wide"), panels, strict=True):
        rows = numbers[numbers["task"] == task]
        order = rows[rows["panel"] == "pretrained"].sort_values("std")["input"]
        for axes, panel in zip(row, ("pretrained", "RFT", "SFT"), strict=True):
            for drawn in axes.collections:
                shown = rows[rows["panel"] == panel].set_index("input").loc[order]
                assert np.allclose(np.asarray(drawn.get_offsets())[:, 1], shown["mean"])
        assert len({drawn.get_clim() for axes in row for drawn in axes.collections}) == 1
