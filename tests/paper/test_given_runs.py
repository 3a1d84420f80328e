"""Items of the text study from given run folders."""

import dataclasses

import numpy as np
import pytest
from study_runs import REWARD, extraction, training

import reproduce_paper
from common.run_dir import read_run
from figures.runs import NoRunsError, runs_in
from paper.given_runs import build_study
from rft_diagnose import style

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
        trained += [rft, sft, both]
        for start, level in ((rft, 0.2), (sft, 0.8), (both, 0.9)):
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
    assert study.swept == "question"
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
    items = ["figure1", "figure2", "table1", "table_rewards", "table2", "figure4", "figure5"]
    flags = ["--runs", str(base), "--output_dir", str(tmp_path / "out"), "--only", *items]
    assert reproduce_paper.main(flags) == 0
    drawn = {path.stem for path in (tmp_path / "out" / "runs").glob("*.json")}
    assert drawn == {*items[:-1], "figure5_question"}
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
    assert reproduce_paper.main(["--runs", str(tmp_path), "--only", "figure1", "figure3"]) == 2
    assert "not both" in capsys.readouterr().err
    assert reproduce_paper.main(["--runs", str(tmp_path / "no"), "--only", "figure1"]) == 2
    assert "neither a run folder" in capsys.readouterr().err
