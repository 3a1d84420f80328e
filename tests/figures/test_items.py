"""Every item of the study from hand-made runs, to the files on disk and the page."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from study_runs import REWARD, extraction, training

from figures import items as items_module
from figures.figure4_table2 import figure4
from figures.items import DRAWN, Study, collect_results, draw, saved_item, write_page
from figures.pairs import pair_numbers
from figures.study import METHODS, Source
from rft_diagnose import style

BASE = {"learning_rate": 3e-5, "temperature": 1.0, "ent_coef": 0.0}
DATA = {  # case -> task
    "hard_question_rouge": "hard_question",
    "identifier_bleu": "identifier",
    "identifier_rouge": "identifier",
    "other": "other",
}
LEVELS = {"hard_question_rouge": 0.1, "identifier_bleu": 0.1, "identifier_rouge": 0.2, "other": 0.1}
SWEPT = ("identifier_bleu", "other")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    base, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    extractions, trainings = [], []
    for task, data in DATA.items():
        for method, level in (("pretrained", LEVELS[task]), ("rft", 0.2), ("sft", 0.8)):
            for sample in (1, 2) if method == "pretrained" else (1,):
                rewards = level * rng.random((12, 4))
                source = {"task": task, "data": data, "method": method, "sample": sample}
                extractions.append(extraction(base, rewards, **source))
        for split, method in (("train", "sft_rft"), *(("test", name) for name in METHODS)):
            source = {"task": task, "data": data, "method": method, "split": split}
            source |= {"prompts": [split] * 12}
            if split == "train":
                del source["prompts"]
            extractions.append(extraction(base, rng.random((12, 4)), **source))
    for task, seeds in zip(SWEPT, ((0, 1), (0,)), strict=True):
        trainings.append(training(base, 0.1, 0.15, texts=20, learning_rate=1e-4, task=task))
        for seed in seeds:
            of_run = {"texts": 20, "task": task, "seed": seed}
            trainings.append(training(base, 0.1, 0.2, **of_run))
            phases = (("sft", -1, 600, 1e-5, 0.8, 0.9), ("short", 0.01, 240, 1e-4, 0.3, 0.5))
            for method, labels, updates, rate, sft, both in phases:
                phase = training(base, 0.1, sft, method=method, labels=labels, updates=updates, **of_run)
                after = {"method": f"{method}_rft", "sft": phase.path, "learning_rate": rate}
                trainings += [phase, training(base, sft, both, **after, **of_run)]
    labels = {"identifier_bleu": "identifier\nSacreBLEU", "identifier_rouge": "identifier\nROUGE-L"}
    return Study(
        extractions=extractions,
        trainings=trainings,
        labels=labels,
        base=dict.fromkeys(SWEPT, BASE),
        swept=SWEPT,
        command="make",
    )


def test_every_item_is_drawn_with_its_numbers_and_its_runs(study, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        items_module, "figure4", lambda *args, **options: titles.append(args[1]) or figure4(*args, **options)
    )
    results = collect_results(study)
    items = [draw(name, study, results, tmp_path) for name in DRAWN]
    for item in items:
        assert item.stems and item.missing == [] and "partial" not in item.title
        assert all(run["config"] and run["status"] == "finished" for run in item.runs)
        for stem in [*item.stems, *item.linked]:
            suffixes = ("md", "tex") if item.name.startswith("table") else ("png", "pdf")
            assert all(stem.with_name(f"{stem.name}.{suffix}").stat().st_size for suffix in suffixes)
            assert len(pd.read_csv(stem.with_name(f"{stem.name}.csv")))
            saved = json.loads(stem.with_name(f"{stem.name}.json").read_text())
            assert saved["command"] == "make" and saved["runs"]
    names = {item.name: [stem.name for stem in item.stems] for item in items}
    assert names["figure1"] == ["figure1"]
    assert [stem.name for stem in items[0].linked] == ["figure1_hard_question_rouge", "figure1_all"]
    shown = ["hard_question_rouge", "identifier_bleu", "identifier_rouge"]
    assert list(pd.read_csv(tmp_path / "figure1.csv")["task"].unique()) == shown
    opening = pd.read_csv(tmp_path / "figure1_hard_question_rouge.csv")
    assert list(opening["task"].unique()) == shown[:1]
    assert list(opening["panel"].unique()) == ["pretrained", "RFT", "SFT"]
    assert names["figure5"] == [f"figure5_{task}" for task in shown]
    assert names["figure2"] == ["figure2", "figure2_pairs"]
    assert names["figure4"] == ["figure4", "figure4_other"]
    numbers = pd.read_csv(tmp_path / "table2.csv")
    assert numbers["method"].tolist() == ["rft", "rft", "sft_rft", "sft_rft"], "after SFT at its own rates"
    numbers = pd.read_csv(tmp_path / "figure4.csv")
    assert len(numbers[(numbers["method"] == "sft_rft") & (numbers["labels"] == 0.01)]) == 2
    assert list(dict.fromkeys(titles)) == [
        "identifier, SacreBLEU: a short SFT phase, then RFT (2 seeds)",
        "other: a short SFT phase, then RFT (one seed)",
    ]
    narrow = {path.name.removesuffix("_narrow.png") for path in tmp_path.glob("*_narrow.png")}
    assert narrow == {
        "figure1",
        items[0].linked[0].name,
        *names["figure2"],
        *names["figure4"],
        *names["figure5"],
    }
    means = (
        results.inputs[results.inputs["method"] == "pretrained"].groupby(["task", "sample"])["mean"].mean()
    )
    assert means["other", 1] != means["other", 2], "as in a table beside the figure"
    assert "of the pretrained model's first sample" in items[0].caption
    plotted = pd.read_csv(tmp_path / "figure2.csv")
    pd.testing.assert_frame_equal(plotted, results.figure2, check_dtype=False)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "figure2_pairs.csv"), pair_numbers(results.inputs), check_dtype=False
    )
    page = write_page(tmp_path, "I", items, results).read_text()
    assert page.count("src='data:image/png") == 3 + 1 + 2 + 3 + 2  # the opening's, Figures 1, 2, 5 and 4
    assert page.count("Drawn by: <code>make</code>") == len(items)
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
    assert figure2.title == "Figure 2: RFT against SFT over tasks (partial: 1 of 16 runs missing)"
    assert [row["run"] for row in figure2.missing] == ["other, RFT, seed 0"]
    assert set(pd.read_csv(tmp_path / "figure2.csv")["task"]) == set(DATA) - {"other"}
    assert json.loads((tmp_path / "figure2.json").read_text())["missing"] == figure2.missing
    figure1 = draw("figure1", short, results, tmp_path)
    stems = [*figure1.stems, *figure1.linked]
    missing = [len(json.loads(stem.with_suffix(".json").read_text())["missing"]) for stem in stems]
    assert missing == [0, 0, 1]
    assert draw("figure4", short, results, tmp_path).missing == []


def test_without_runs_an_item_names_what_it_needs(tmp_path):
    source = Source(task="identifier_bleu", seed=0, method="rft", reward=REWARD, path=None, command="make it")
    study = Study(extractions=[source], trainings=[source])
    results = collect_results(study)
    for name in DRAWN:
        item = draw(name, study, results, tmp_path)
        assert list(item.stems) == [] and item.table is None and item.runs == []
        assert name == "figure5" or item.missing[0]["command"] == "make it"
    assert list(tmp_path.iterdir()) == []
