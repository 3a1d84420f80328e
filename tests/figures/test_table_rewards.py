"""The table of rewards on small tables."""

import math

import pandas as pd
import pytest
from study_tables import inputs

from figures.claims import Results, judge
from figures.criteria import CRITERIA
from figures.table_rewards import rewards_numbers, rewards_shown

STD = [0.0, 0.0, 0.0, 0.1]


def models(pretrained, rft, sft, sft_rft, std=STD):
    rewards = {"pretrained": pretrained, "rft": rft, "sft": sft, "sft_rft": sft_rft}
    return {name: ([value] * 4, std) for name, value in rewards.items()}


def both_splits(seeds=(0,), test_of=lambda seed: 0.5):
    """Train and test inputs of two tasks; on test SFT, then RFT of the hard one ends at `test_of(seed)`."""
    train = inputs({"easy": models(0.5, 0.8, 0.7, 0.9, [0.3] * 4), "hard": models(0, 0, 1, 1)}, seeds)
    test = inputs({"hard": models(0, 0.1, 0.3, 0), "easy": models(0.5, 0.8, 0.6, 0.8)}, seeds)
    last = (test["task"] == "hard") & (test["method"] == "sft_rft")
    test.loc[last, "mean"] = test[last]["seed"].map(test_of).astype(float)
    return pd.concat([train, test.assign(split="test")], ignore_index=True)


def test_a_row_has_the_means_of_its_split():
    table = rewards_numbers(both_splits())
    assert table[["task", "split"]].to_numpy().tolist() == [
        ["hard", "train"], ["hard", "test"], ["easy", "train"], ["easy", "test"],
    ]  # fmt: skip
    train, test, *_ = table.to_dict("records")
    assert [train[name] for name in ("pretrained", "rft", "sft", "sft_rft")] == [0, 0, 1, 1]
    assert [test[name] for name in ("pretrained", "rft", "sft", "sft_rft")] == [0, 0.1, 0.3, 0.5]
    assert (train["dead"], train["inputs"], train["seeds"]) == (0.75, 4, 1)
    assert test["over_rft"] == pytest.approx(0.4) and test["over_sft"] == pytest.approx(0.2)
    assert math.isnan(test["rft_std"])


def test_tasks_of_one_percentile_stay_apart():
    table = both_splits()
    twin = table[table["task"] == "hard"].assign(task="twin")
    found = rewards_numbers(pd.concat([table, twin], ignore_index=True))["task"].tolist()
    assert found == ["hard", "hard", "twin", "twin", "easy", "easy"]


def test_the_second_sample_is_part_of_the_pretrained_mean():
    tasks = {"hard": {**models(0.2, 0, 1, 1), "second": ([0.4] * 4, STD)}}
    assert rewards_numbers(inputs(tasks))["pretrained"].item() == pytest.approx(0.3)


def test_interval_over_the_inputs_of_one_seed():
    table = both_splits()
    last = (table["task"] == "hard") & (table["method"] == "sft_rft") & (table["split"] == "test")
    table.loc[last, "mean"] = [0.3, 0.5, 0.5, 0.7]
    row = rewards_numbers(table).to_dict("records")[1]
    half = 1.959964 * math.sqrt(0.08 / 3) / 2  # over differences of 0.2, 0.4, 0.4, 0.6
    assert (row["over_rft_low"], row["over_rft_high"]) == pytest.approx((0.4 - half, 0.4 + half))


def test_interval_over_seeds():
    row = rewards_numbers(both_splits((0, 1, 2), lambda seed: 0.4 + 0.1 * seed)).to_dict("records")[1]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (row["sft_rft"], row["sft_rft_std"], row["seeds"]) == pytest.approx((0.5, 0.1, 3))
    assert (row["over_rft_low"], row["over_rft_high"]) == pytest.approx((0.4 - half, 0.4 + half))


def test_a_model_without_a_run_is_left_open():
    table = both_splits()
    numbers = rewards_numbers(table[~((table["method"] == "sft_rft") & (table["split"] == "test"))])
    shown = rewards_shown(numbers, {"hard": "hard task"}).to_dict("records")
    assert shown[0]["SFT + RFT minus RFT"] == "+1.00 [+1.00, +1.00]"
    assert (shown[1]["task"], shown[1]["SFT + RFT"], shown[1]["SFT + RFT minus RFT"]) == (
        "hard task",
        "-",
        "-",
    )
    assert rewards_numbers(table[table["method"] != "pretrained"]).empty


def verdict(name, table):
    (criterion,) = [criterion for criterion in CRITERIA if criterion.name == f"table_rewards_{name}"]
    return judge(criterion, Results(inputs=table))


def test_claims_are_of_test_inputs_and_of_tasks_with_dead_train_inputs():
    table = both_splits()
    found = verdict("over_rft", table)
    assert (found.outcome, found.value, found.detail) == ("holds", 1, "hard +0.400 [+0.400, +0.400]")
    found = verdict("over_sft", table)
    assert (found.outcome, found.value) == ("holds", 1) and "easy +0.200" in found.detail
    assert verdict("over_rft", both_splits(test_of=lambda seed: 0.1)).outcome == "fails"
    alive = table[table["task"] == "easy"]
    assert verdict("over_rft", alive).outcome == "not tested"
    assert verdict("over_sft", table[table["split"] == "train"]).outcome == "not tested"
