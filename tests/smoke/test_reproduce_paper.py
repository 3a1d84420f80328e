"""The front door from nothing to pictures, with few epochs."""

import json
import re

import pandas as pd
import pytest
from clones import link_clone

from paper.study import load_study
from paper.text_study import STUDIES
from reproduce_paper import main


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laptop")
    argv = ["--only", "figure3", "figure3_sgd", "figure3_group", "--jobs", "1"]
    argv += ["--output_dir", str(folder / "figures")]
    for override in (f"outputs_dir={folder / 'runs'}", "epochs=4", "save_metric_plots=false"):
        argv += ["--set", override]
    assert main(argv) == 0
    return folder, argv


def test_each_figure_has_its_picture_numbers_and_runs(drawn):
    folder, _ = drawn
    for item in ("figure3", "figure3_sgd"):
        stem = folder / "figures" / "laptop" / item
        for suffix in (".pdf", ".png"):
            assert stem.with_suffix(suffix).stat().st_size > 5_000
        table = pd.read_csv(stem.with_suffix(".csv"))
        assert set(table["method"]) == {"RFT", "SFT"} and set(table["epoch"]) == {0, 1, 2, 3}
        runs = json.loads(stem.with_suffix(".json").read_text())["runs"]
        assert len(runs) == 2
        for run in runs:
            rows = [json.loads(line) for line in open(f"{run['path']}/metrics.jsonl")]
            name = "RFT" if run["config"]["opt_method"] == "expected_reinforce" else "SFT"
            plotted = table[(table["method"] == name) & (table["group"] == "small")]["reward"].tolist()
            assert plotted == pytest.approx([row["train"]["reward small reward std"] for row in rows])


def test_groups_have_a_figure_of_their_own_that_shares_runs(drawn):
    folder, _ = drawn
    stem = folder / "figures" / "laptop" / "figure3_group"
    table = pd.read_csv(stem.with_suffix(".csv"))
    groups = {"GRPO, G = 8", "GRPO, G = 64", "GRPO, G infinite"}
    assert set(table["method"]) == {"RFT", "SFT"} | groups and set(table["epoch"]) == {0, 1, 2, 3}
    # At the start all are the same model, of which they take gradients of different lengths.
    first = table[(table["epoch"] == 0) & (table["group"] == "small")].set_index("method")
    assert first["reward"].nunique() == 5, "each has taken steps in the first epoch"
    assert first["reward"].max() - first["reward"].min() < 0.2
    runs = {item: {run["path"] for run in json.loads((stem.with_name(f"{item}.json")).read_text())["runs"]}
            for item in ("figure3", "figure3_group")}  # fmt: skip
    assert runs["figure3"] < runs["figure3_group"] and len(runs["figure3_group"]) == 5


def test_again_uses_what_is_finished(drawn, capsys):
    folder, argv = drawn
    before = sorted((folder / "runs").iterdir())
    # One pretraining, two methods each for Adam and SGD, and three sizes of groups.
    assert len(before) == 1 + 2 + 2 + 3
    assert main(argv) == 0
    assert sorted((folder / "runs").iterdir()) == before
    assert re.search(r"^in all +0 runs", capsys.readouterr().out, re.MULTILINE)


def test_runs_draws_what_exists_and_names_the_command_for_what_does_not(drawn, tmp_path, capsys):
    folder, _ = drawn
    assert main(["--runs", str(folder / "runs"), "--output_dir", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.rglob("*.png")} == {"figure3", "figure3_sgd", "figure3_group"}
    argv = ["--runs", str(folder / "runs"), "--output_dir", str(tmp_path)]
    assert main([*argv, "--only", "figure3_high_init_reward"]) == 2
    assert "finetune_high_init_reward_experiments_plan.json" in capsys.readouterr().err
    assert main(["--runs", str(tmp_path / "nowhere")]) == 2
    assert "neither a run folder" in capsys.readouterr().err


def test_dry_run_prints_stages_and_checks_every_plan(capsys, tmp_path):
    assert main(["--dry_run", "--only", "figure3", "--scale", "paper", "--environments", "all"]) == 0
    output = capsys.readouterr().out
    assert output.count("finetune_experiments_plan") == 3 and output.count("pretrain_experiments_plan") == 3
    assert "about" in output.splitlines()[-1]
    with pytest.raises(SystemExit):
        main(["--dry_run", "--only", "figure3_group", "--scale", "paper"])
    assert (
        "figure3_group has no plans of the paper's scale; leave --scale paper out" in capsys.readouterr().err
    )
    assert main(["--dry_run", "--only", "figure3", "--set", "lrr=1"]) == 2
    assert "unknown key; did you mean 'lr'?" in capsys.readouterr().err


def test_dry_run_of_the_study_counts_each_run_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(link_clone(tmp_path))
    assert main(["--dry_run", "--only", "figure2", "table2", "--seeds", "3", "--jobs", "2"]) == 0
    rows = {line[:14].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    # Ten tasks of 23 cases. The rates of RFT from three models on two cases, after two phases of SFT of their
    # tasks; of three seeds SFT and RFT, one extraction after each, and two of the pretrained model; sweeps of
    # four settings and six cells on one task, of the cells with one seed on another, and RFT after full SFT.
    rates = sum(len(start.learning_rates) for start in load_study(STUDIES["laptop"]).starts.values())
    counts = {
        "learning rates": 2 * rates + 2 * 2,
        "comparison": 10 * 2 + 3 * (10 + 23) * 2,
        "sweeps": 3 * (4 + 2 * 6 + 1) + 2 * 6 + 1,
    }
    for stage, count in counts.items():
        assert rows[stage][len(stage.split())] == str(count)
    assert "in all" in rows


def test_theory(tmp_path, capsys):
    assert main(["--only", "theory", "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "theory.png") in printed and str(tmp_path / "theory_group.png") in printed
    groups = pd.read_csv(tmp_path / "theory_group.csv")
    assert set(groups["panel"]) == {"gradient", "exponent", "amplification", "time", "generations"}
    numbers = json.loads((tmp_path / "theory.json").read_text())
    assert all(ratio <= 1 + 1e-9 for ratio in numbers["largest_ratios"].values())
