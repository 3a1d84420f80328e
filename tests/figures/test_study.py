"""The tidy tables from hand-made runs."""

import math

import numpy as np
import pytest
from study_runs import REWARD, extraction, training

from figures.runs import NoRunsError
from figures.study import INPUTS, RUNS, Source, describe_runs, gaps, inputs_table, partial_note, runs_table

REWARDS = [[0.0, 1.0], [0.5, 0.5], [0.25, 0.75]]


def row(table, split="train"):
    (found,) = table[table["split"] == split].to_dict("records")
    return found


def test_inputs_have_mean_and_std_over_generations(tmp_path):
    sources = [
        extraction(tmp_path, REWARDS, method="pretrained"),
        extraction(tmp_path, np.ones((3, 2)), method="pretrained", sample=2),
        extraction(tmp_path, np.zeros((3, 2)), method="rft"),
    ]
    table = inputs_table(sources)
    assert list(table.columns) == list(INPUTS)
    first = table[(table["method"] == "pretrained") & (table["sample"] == 1)]
    assert first["mean"].tolist() == [0.5, 0.5, 0.5]
    assert first["std"].tolist() == [0.5, 0.0, 0.25]
    assert first["input"].tolist() == [0, 1, 2]
    assert table.groupby(["method", "sample"])["mean"].mean().to_dict() == {
        ("pretrained", 1): 0.5,
        ("pretrained", 2): 1.0,
        ("rft", 1): 0.0,
    }


def test_models_of_a_task_and_seed_must_have_seen_the_same_inputs(tmp_path):
    one = extraction(tmp_path, REWARDS, method="pretrained")
    other = extraction(tmp_path, REWARDS, prompts=["a", "b", "c"])
    with pytest.raises(NoRunsError, match=r"is not of the inputs of .*used_indices_from"):
        inputs_table([one, other])
    another_seed = extraction(tmp_path, REWARDS, prompts=["a", "b", "c"], seed=1)
    assert len(inputs_table([one, another_seed])) == 6
    of_test = extraction(tmp_path, REWARDS, prompts=["a", "b", "c"], split="test")
    assert inputs_table([one, of_test])["split"].tolist() == ["train"] * 3 + ["test"] * 3
    assert of_test.label == "question, RFT, seed 0, test inputs"


def test_another_reward_is_named(tmp_path):
    source = extraction(tmp_path, REWARDS, reward="lexical/meteor")
    with pytest.raises(NoRunsError, match=f"has no rewards 'lexical/meteor', only {REWARD}"):
        inputs_table([source])


def test_unfinished_runs_are_left_out_and_named_with_their_command(tmp_path):
    done = extraction(tmp_path, REWARDS, method="pretrained")
    cut = extraction(tmp_path, REWARDS, status="interrupted", seed=3)
    none = Source(task="q", seed=0, method="sft", reward=REWARD, path=None, command="make it")
    gone = Source(task="q", seed=0, method="sft", reward=REWARD, path=tmp_path / "no", command="again")
    sources = [done, cut, none, gone]
    assert inputs_table(sources)["run"].unique().tolist() == [done.path.name]
    missing = gaps(sources)
    assert missing[0] == {
        "run": "question, RFT, seed 3",
        "status": "interrupted",
        "command": f"python make.py {cut.path.name}",
    }
    assert [row["status"] for row in missing[1:]] == ["not started", "not started"]
    assert partial_note(missing, 4) == "partial: 3 of 4 runs missing"
    assert partial_note([], 4) == ""
    with pytest.raises(NoRunsError, match=r"none of the runs(.|\n)*q, SFT, seed 0: not started; make it"):
        inputs_table([none])


def test_runs_hold_reward_before_and_after_of_every_split(tmp_path):
    table = runs_table([training(tmp_path, 0.1, 0.4, method="rft", seed=2, temperature=1.5)])
    assert list(table.columns) == list(RUNS)
    assert table["split"].tolist() == ["train", "val", "test"]
    found = row(table, "test")
    assert (found["start_reward"], found["reward"], found["measure"]) == (0.1, 0.4, "corpus")
    assert math.isnan(found["se"]) and math.isnan(found["texts"])
    settings = {name: found[name] for name in ("seed", "learning_rate", "temperature", "ent_coef")}
    assert settings == {"seed": 2, "learning_rate": 3e-5, "temperature": 1.5, "ent_coef": 0.0}
    assert (found["sft_updates"], found["sft_labels"]) == (0, 0.0)


def test_kept_texts_give_the_mean_reward_of_a_text_and_its_error(tmp_path):
    found = row(runs_table([training(tmp_path, 0.1, 0.4, texts=4)]))
    assert (found["reward"], found["texts"], found["measure"]) == (pytest.approx(0.4), 4, "texts")
    assert found["se"] == pytest.approx(0.1 * math.sqrt(4 / 3) / 2)
    assert found["gain_se"] == pytest.approx(0)  # every text rises by as much


def test_sft_phase_is_read_from_its_run(tmp_path):
    sft = training(tmp_path, 0.1, 0.2, method="sft", updates=240, labels=0.1)
    both = training(tmp_path, 0.2, 0.5, method="sft_rft", sft=sft.path)
    table = runs_table([sft, both])
    assert row(table[table["method"] == "sft"])["learning_rate"] == 1e-3
    for method in ("sft", "sft_rft"):
        found = row(table[table["method"] == method])
        assert (found["sft_updates"], found["sft_labels"]) == (240, 0.1)
    assert row(runs_table([training(tmp_path, 0.1, 0.2, method="sft")]))["sft_labels"] == 1


def test_short_sft_and_rft_after_it_are_told_by_labels_and_updates(tmp_path):
    phase = {"updates": 120, "labels": 0.01}
    sft = training(tmp_path, 0.1, 0.2, method="short", **phase)
    both = training(tmp_path, 0.2, 0.5, method="short_rft", sft=sft.path, learning_rate=1e-4)
    table = runs_table([sft, both])
    assert list(dict.fromkeys(table["method"])) == ["sft", "sft_rft"]
    assert set(zip(table["sft_updates"], table["sft_labels"], strict=True)) == {(120, 0.01)}
    assert row(table[table["method"] == "sft"])["learning_rate"] == 1e-3
    assert row(table[table["method"] == "sft_rft"])["learning_rate"] == 1e-4
    assert both.label == "question, short SFT + RFT, seed 0"


def test_a_split_that_was_not_evaluated_has_no_row(tmp_path):
    table = runs_table([training(tmp_path, 0.1, 0.4, splits=("test",))])
    assert table["split"].tolist() == ["test"]
    with pytest.raises(
        NoRunsError, match="not evaluated before and after training with 'x'; its metrics: other"
    ):
        runs_table([training(tmp_path, 0.1, 0.4, reward="x")])


def test_what_an_item_comes_from_has_its_config(tmp_path):
    source = training(tmp_path, 0.1, 0.4)
    (found,) = describe_runs([source])
    assert found["path"] == str(source.path) and found["status"] == "finished"
    assert found["config"]["alg"]["args"]["learning_rate"] == 3e-5
