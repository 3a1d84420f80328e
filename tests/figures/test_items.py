"""Every item of the study from hand-made runs, to the files on disk and the page."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from study_runs import REWARD, extraction, training

from figures import figure2_table1
from figures.claims import evaluate
from figures.criterion import HARD_TASK, SWEPT_TASK
from figures.items import DRAWN, Study, collect_results, draw, saved_item
from figures.report import render
from figures.study import METHODS, Source
from rft_diagnose import style

BASE = {"learning_rate": 3e-5, "temperature": 1.0, "ent_coef": 0.0}
TASKS = (HARD_TASK, SWEPT_TASK, "other")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    bootstrap = figure2_table1.bootstrap_interval
    monkeypatch.setattr(figure2_table1, "bootstrap_interval", lambda *args: bootstrap(*args, resamples=50))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    base, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    extractions, trainings = [], []
    for task in TASKS:
        for method, level in (("pretrained", 0.1), ("rft", 0.2), ("sft", 0.8)):
            for sample in (1, 2) if method == "pretrained" else (1,):
                rewards = level * rng.random((12, 4))
                source = {"task": task, "method": method, "sample": sample}
                extractions.append(extraction(base, rewards, **source))
        for split, method in (("train", "sft_rft"), *(("test", name) for name in METHODS)):
            source = {"task": task, "method": method, "split": split, "prompts": [split] * 12}
            if split == "train":
                del source["prompts"]
            extractions.append(extraction(base, rng.random((12, 4)), **source))
    of_swept = {"task": SWEPT_TASK, "texts": 20}
    trainings.append(training(base, 0.1, 0.2, **of_swept))
    trainings.append(training(base, 0.1, 0.15, learning_rate=1e-4, **of_swept))
    phases = (("sft", -1, 600, 1e-5, 0.8, 0.9), ("short", 0.01, 240, 1e-4, 0.3, 0.5))
    for method, labels, updates, rate, sft, both in phases:
        phase = training(base, 0.1, sft, method=method, labels=labels, updates=updates, **of_swept)
        after = {"method": f"{method}_rft", "sft": phase.path, "learning_rate": rate}
        trainings += [phase, training(base, sft, both, **after, **of_swept)]
    return Study(
        extractions=extractions,
        trainings=trainings,
        labels={SWEPT_TASK: "identifier\nSacreBLEU"},
        base={SWEPT_TASK: BASE},
        command="make",
    )


def test_every_item_is_drawn_with_its_numbers_and_its_runs(study, tmp_path):
    results = collect_results(study)
    items = [draw(name, study, results, tmp_path) for name in DRAWN]
    for item in items:
        assert item.stems and item.missing == [] and "partial" not in item.title
        assert all(run["config"] and run["status"] == "finished" for run in item.runs)
        for stem in item.stems:
            suffixes = ("md", "tex") if item.name.startswith("table") else ("png", "pdf")
            assert all(stem.with_name(f"{stem.name}.{suffix}").stat().st_size for suffix in suffixes)
            assert len(pd.read_csv(stem.with_name(f"{stem.name}.csv")))
            saved = json.loads(stem.with_name(f"{stem.name}.json").read_text())
            assert saved["command"] == "make" and saved["runs"]
    names = {item.name: [stem.name for stem in item.stems] for item in items}
    assert names["figure1"] == ["figure1", "figure1_all"]
    assert names["figure5"] == [f"figure5_{HARD_TASK}", f"figure5_{SWEPT_TASK}"]
    shown = pd.read_csv(tmp_path / "table2.csv")
    assert shown["method"].tolist() == ["rft", "rft", "sft_rft", "sft_rft"], "after SFT at rates of their own"
    shown = pd.read_csv(tmp_path / "figure4.csv")
    assert len(shown[(shown["method"] == "sft_rft") & (shown["labels"] == 0.01)]) == 2
    means = (
        results.inputs[results.inputs["method"] == "pretrained"].groupby(["task", "sample"])["mean"].mean()
    )
    assert means[SWEPT_TASK, 1] != means[SWEPT_TASK, 2], "as in a table beside the figure"
    assert "of the pretrained model's first sample" in items[0].caption
    plotted = pd.read_csv(tmp_path / "figure2.csv")
    pd.testing.assert_frame_equal(plotted, results.figure2, check_dtype=False)
    page = render("T", "I", items, evaluate(results), tmp_path)
    assert page.count("src='data:image/png") == 6
    assert saved_item("x", "X", "", tmp_path / "figure2").runs == items[1].runs


@pytest.mark.slow
def test_unfinished_runs_are_left_out_and_the_item_says_so(study, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))  # takes most of the time
    lost = [
        dataclasses.replace(source, path=None) if (source.task, source.method) == ("other", "rft") else source
        for source in study.extractions
    ]
    short = dataclasses.replace(study, extractions=lost, trainings=study.trainings[:1])
    results = collect_results(short)
    figure2 = draw("figure2", short, results, tmp_path)
    assert figure2.title == "Figure 2: RFT against SFT over tasks (partial: 1 of 12 runs missing)"
    assert [row["run"] for row in figure2.missing] == ["other, RFT, seed 0"]
    assert set(pd.read_csv(tmp_path / "figure2.csv")["task"]) == {HARD_TASK, SWEPT_TASK}
    assert json.loads((tmp_path / "figure2.json").read_text())["missing"] == figure2.missing
    figure1 = draw("figure1", short, results, tmp_path)
    assert [len(json.loads(stem.with_suffix(".json").read_text())["missing"]) for stem in figure1.stems] == [
        0,
        1,
    ]
    assert draw("figure4", short, results, tmp_path).missing == []


def test_without_runs_an_item_names_what_it_needs(tmp_path):
    source = Source(task=SWEPT_TASK, seed=0, method="rft", reward=REWARD, path=None, command="make it")
    study = Study(extractions=[source], trainings=[source])
    results = collect_results(study)
    for name in DRAWN:
        item = draw(name, study, results, tmp_path)
        assert list(item.stems) == [] and item.table is None and item.runs == []
        assert name == "figure5" or item.missing[0]["command"] == "make it"
    assert list(tmp_path.iterdir()) == []
