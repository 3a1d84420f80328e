"""Items of the text study from given run folders."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from controlled_runs import make_run
from study_runs import REWARD, extraction, training

import reproduce_paper
from common.run_dir import read_run
from figures.runs import NoRunsError, runs_in
from paper.given_runs import build_study
from rft_diagnose import style

ITEMS = ["figure1", "figure2", "table1", "table_rewards", "table2", "figure4", "figure5"]
COMPARED = ("task", "seed", "method", "reward", "path", "sample", "split", "sft")


@pytest.fixture
def given(tmp_path):
    """Runs of two seeds as a plan leaves them, and the sources that they are."""
    base, rng = tmp_path / "runs", np.random.default_rng(0)
    base.mkdir()
    trained, sampled = [], []
    for seed in (0, 1):
        rft = training(base, 0.1, 0.2, texts=20, seed=seed)
        sft = training(base, 0.1, 0.8, method="sft", updates=600, texts=20, seed=seed)
        both = training(base, 0.8, 0.9, method="sft_rft", sft=sft.path, texts=20, seed=seed)
        short = training(base, 0.1, 0.5, method="short", labels=0.01, updates=60, texts=20, seed=seed)
        after = training(base, 0.5, 0.7, method="short_rft", sft=short.path, texts=20, seed=seed)
        trained += [rft, sft, both, short, after]
        for start, level in ((rft, 0.2), (sft, 0.8), (both, 0.9), (short, 0.5), (after, 0.7)):
            rewards = level * rng.random((12, 4))
            sampled.append(
                extraction(base, rewards, model=start.path, method=start.method, seed=seed, extraction_seed=5)
            )
    trained.append(training(base, 0.1, 0.15, texts=20, learning_rate=1e-4))
    for sample, seed in ((2, 1000), (1, 0)):
        one = extraction(
            base, 0.1 * rng.random((12, 4)), method="pretrained", sample=sample, extraction_seed=seed
        )
        sampled += [one, dataclasses.replace(one, seed=1)]
    of_test = extraction(base, rng.random((5, 4)), method="pretrained", split="test")
    sampled += [of_test, dataclasses.replace(of_test, seed=1)]
    return base, trained, sampled


def facts(sources):
    return {tuple(getattr(source, name) for name in COMPARED) for source in sources}


def test_what_runs_are_of_is_read_from_their_folders(given):
    base, trained, sampled = given
    study = build_study(runs_in([base]))
    assert facts(study.trainings) == facts(trained)
    assert facts(study.extractions) == facts(sampled)
    assert study.swept == ("question",)
    assert study.base == {"question": {"learning_rate": 3e-5, "temperature": 1.0, "ent_coef": 0.0}}
    assert {source.reward for source in study.trainings} == {REWARD}


def test_runs_that_were_moved_find_each_other(given, tmp_path):
    base, trained, _ = given
    moved = base.rename(tmp_path / "elsewhere")
    methods = sorted(source.method for source in build_study(runs_in([moved])).trainings)
    assert methods == sorted(source.method for source in trained)


def test_items_are_drawn_from_given_runs(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))  # takes most of the time
    base, *_ = given
    flags = ["--runs", str(base), "--output_dir", str(tmp_path / "out"), "--only", *ITEMS]
    assert reproduce_paper.main(flags) == 0
    assert drawn(tmp_path / "out") == {*ITEMS[:-1], "figure5_question"}
    assert capsys.readouterr().err == ""


def test_an_unfinished_run_is_named_with_the_command_that_goes_on(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))
    base, *_ = given
    cut = training(base, 0.1, 0.2, status="interrupted", seed=2)
    flags = ["--runs", str(base), "--output_dir", str(tmp_path / "out"), "--only", "table2"]
    assert reproduce_paper.main(flags) == 0
    message = (
        f"question, RFT, seed 2 is interrupted: python rl4lms_train_text_generation.py --resume {cut.path}"
    )
    assert message in capsys.readouterr().err


def test_what_cannot_be_drawn(tmp_path, capsys):
    lone = training(tmp_path, 0.1, 0.2)
    with pytest.raises(
        NoRunsError, match=r"several metrics .*: give an extraction, whose metric is the reward"
    ):
        build_study([read_run(lone.path)])
    with pytest.raises(NoRunsError, match="no training and no extraction"):
        build_study([])
    assert draw([tmp_path], tmp_path / "out", "--only", "figure1", "figure3") == 2
    message = capsys.readouterr().err
    assert "figure1: not drawn: " in message and "several metrics" in message
    assert "figure3: not drawn: needs finetuning runs of its reward and optimiser" in message
    assert reproduce_paper.main(["--runs", str(tmp_path / "no"), "--only", "figure1"]) == 2
    assert "neither a run folder" in capsys.readouterr().err


def draw(runs, output, *flags):
    return reproduce_paper.main(["--runs", *map(str, runs), "--output_dir", str(output), *flags])


def drawn(output):
    return {path.stem for path in (output / "runs").glob("*.json")}


def break_run(base, kind):
    """Leave a run that cannot be used beside others that can."""
    if kind == "failed before its first evaluation":
        training(base, 0.1, 0.2, status="failed", seed=2, splits=())
    elif kind == "failed, the only one of its task":
        training(base, 0.1, 0.2, status="failed", task="summary", splits=())
    elif kind == "another metric":
        run = training(base, 0.1, 0.2, seed=2)
        for file in run.path.glob("*_split_metrics.jsonl"):
            file.write_text(file.read_text().replace(REWARD, "lexical/bleu"))
    elif kind == "its manifest lacks a field":
        run = training(base, 0.1, 0.2, method="sft", seed=2)
        manifest = json.loads((run.path / "manifest.json").read_text())
        del manifest["trained"]
        (run.path / "manifest.json").write_text(json.dumps(manifest))
    elif kind == "a damaged row":
        run = training(base, 0.1, 0.2, seed=2)
        for file in run.path.glob("*_split_metrics.jsonl"):
            file.write_text("{\n" + file.read_text())
    elif kind == "no results":
        run = extraction(base, np.ones((12, 4)), method="pretrained", extraction_seed=7, split="test")
        for file in base.glob("*.pt"):
            if len(torch.load(file, weights_only=True)["ids"]) == 5:
                file.unlink()
        run.path.with_name(f"{run.path.name}.pt").unlink()
    elif kind == "no results, beside two samples":
        run = extraction(base, np.ones((12, 4)), method="pretrained", extraction_seed=-1)
        run.path.with_name(f"{run.path.name}.pt").unlink()
    else:
        other = [f"other {i}" for i in range(12)]
        start = training(base, 0.1, 0.2, seed=0)
        extraction(base, np.ones((12, 4)), prompts=other, model=start.path, extraction_seed=5)


BROKEN = {
    "failed before its first evaluation": "question, RFT, seed 2 is failed: python rl4lms_train",
    "failed, the only one of its task": "summary, RFT, seed 0 is failed: python rl4lms_train",
    "another metric": "question, RFT, seed 2 is not usable (",
    "its manifest lacks a field": "its config or manifest has no 'trained'",
    "a damaged row": "line 1 is not a row with its 'epoch'",
    "no results": ".pt cannot be read as an extraction file",
    "other inputs": "is not of the inputs of",
}


# One of each way to be found out; the others are of the same code.
QUICK = ("another metric", "no results, beside two samples")


@pytest.mark.parametrize(
    "kind",
    [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in BROKEN if kind not in QUICK)],
)
def test_a_run_that_cannot_be_used_is_named_and_stops_no_item(given, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))
    base, *_ = given
    break_run(base, kind)
    assert draw([base], tmp_path / "out") == 0
    assert drawn(tmp_path / "out") >= {"figure1", "figure2", "table1", "table_rewards", "table2", "figure4"}
    message = capsys.readouterr().err
    assert BROKEN[kind] in message if kind in BROKEN else message == ""


def test_without_only_what_the_runs_are_of_is_drawn_on_one_page(given, tmp_path, monkeypatch, capsys):
    base, *_ = given
    for method in ("expected_reinforce", "supervised"):
        make_run(base, method)
    empty = make_run(base, status="failed", epochs=0)
    assert draw([base], tmp_path / "out", "--report") == 0
    assert drawn(tmp_path / "out") == {*ITEMS[:-1], "figure5_question", "figure3"}
    assert f"{empty} (failed) has no epoch yet: left out" in capsys.readouterr().err
    page = (tmp_path / "out" / "runs" / "report.html").read_text()
    for title in ("Figure 1: ", "Table 2: ", "Figure 5: ", "Figure 3: "):
        assert f"<h3>{title}" in page


def test_an_item_that_is_not_drawn_says_what_it_needs_and_what_there_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "render_figure", lambda figure: (b"", b""))
    base = tmp_path / "runs"
    base.mkdir()
    extraction(base, np.random.default_rng(0).random((12, 4)), method="pretrained")
    assert draw([base], tmp_path / "out") == 0
    assert drawn(tmp_path / "out") == {"figure1", "table_rewards", "figure5_question"}
    message = capsys.readouterr().err
    assert (
        "figure2: not drawn: needs finished extractions of train inputs of the pretrained model, of that "
        "after RFT and of that after SFT, all of one task and seed; finished among the runs given: question: "
        "extraction of pretrained on train inputs; such runs come from plans like: python "
        "rl4lms_plan_runner.py --plan_config_path rl4lms_scripts/sweeps/narrative_qa_comparison.yml"
    ) in message
    assert "figure4: not drawn: needs finished trainings of one task" in message
    # Asked for by name, it is a mistake; what can be drawn is drawn all the same.
    assert draw([base], tmp_path / "again", "--only", "figure2", "figure1") == 2
    assert drawn(tmp_path / "again") == {"figure1"}


def test_extraction_files_become_pictures_of_figures_1_and_5_and_a_page(tmp_path, capsys):
    start = extraction(tmp_path, np.random.default_rng(0).random((12, 4)), method="pretrained")
    file = start.path.with_name(f"{start.path.name}.pt")
    assert draw([file], tmp_path / "out", "--report") == 0
    assert drawn(tmp_path / "out") == {"figure1", "figure5"}
    assert (tmp_path / "out" / "runs" / "figure5.png").stat().st_size > 5_000
    assert "large std, input" in capsys.readouterr().out
    assert "<h3>Figure 5: " in (tmp_path / "out" / "runs" / "report.html").read_text()
    assert draw([file, tmp_path], tmp_path / "out") == 2
    assert "figure1 and figure5 alone are drawn from extraction files" in capsys.readouterr().err


def test_files_of_the_released_code_hold_no_prompts(tmp_path):
    values = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    content = {
        "all_generated_texts": [["a", "b"]] * 3,
        "all_metric_values": {"rouge": values},
        "used_train_indices": [4, 0, 9],
        "num_train_samples": 3,
        "config": {"datapool": {"id": "narrative_qa"}},
    }
    torch.save(content, tmp_path / "released.pt")
    assert draw([tmp_path / "released.pt"], tmp_path / "out", "--only", "figure1") == 0
    table = pd.read_csv(tmp_path / "out" / "runs" / "figure1.csv")
    assert table["id"].tolist() == [4, 0, 9] and table["std"].tolist() == [0.5, 0.0, 0.5]


def test_what_is_computed_is_not_drawn_from_runs(tmp_path, capsys):
    assert draw([tmp_path], tmp_path, "--only", "theory") == 2
    assert "theory is computed, not drawn from runs" in capsys.readouterr().err
