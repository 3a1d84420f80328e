"""The table of rewards on small tables."""

import math

import numpy as np
import pandas as pd
import pytest
from study_tables import inputs

from figures.claims import Results, judge
from figures.criteria import CRITERIA
from figures.table_rewards import rewards_numbers, rewards_shown

STD = [0.0, 0.0, 0.0, 0.1]


def models(pretrained, rft, sft, sft_rft, std=STD):
    rewards = {"pretrained": pretrained, "rft": rft, "sft": sft, "sft_rft": sft_rft}
    return {name: (value if isinstance(value, list) else [value] * 4, std) for name, value in rewards.items()}


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


def test_what_rft_gains_after_short_sft_is_paired_with_what_it_gains_alone():
    """By input: after short SFT RFT gains .1, .2, .3, .4, alone nothing and once .1."""
    tasks = models([0.0] * 4, [0.0, 0.0, 0.0, 0.1], 0.9, 0.9)
    tasks |= {"short": ([0.5] * 4, STD), "short_rft": ([0.6, 0.7, 0.8, 0.9], STD)}
    row = rewards_numbers(inputs({"hard": tasks})).to_dict("records")[0]
    half = 1.959964 * np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2
    ends = [row[f"over_short{end}"] for end in ("_low", "", "_high")]
    assert ends == pytest.approx([0.25 - half, 0.25, 0.25 + half])
    half = 1.959964 * np.std([0.1, 0.2, 0.3, 0.3], ddof=1) / 2
    ends = [row[f"gain{end}"] for end in ("_low", "", "_high")]
    assert ends == pytest.approx([0.225 - half, 0.225, 0.225 + half])
    (shown,) = rewards_shown(rewards_numbers(inputs({"hard": tasks})), {}).to_dict("records")
    assert shown["short SFT + RFT minus short SFT"] == "+0.25 [+0.12, +0.38]"
    assert shown["gain of RFT after short SFT minus alone"] == "+0.23 [+0.13, +0.32]"


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


def after_short(start, short, short_rft, full_rft, rft=0.0, std=0.0, short_std=0.2):
    """Test inputs with these mean rewards; std: under the pretrained model and RFT alone."""
    means = {"pretrained": start, "rft": rft, "sft": 0.8, "sft_rft": full_rft}
    rows = {name: ([value] * 4, [std] * 4) for name, value in means.items()}
    return rows | {"short": ([short] * 4, [short_std] * 4), "short_rft": ([short_rft] * 4, [0.1] * 4)}


def of_test(tasks, seeds=(0,)):
    return inputs(tasks, seeds).assign(split="test")


def test_rft_after_short_sft_against_short_sft_and_against_rft_alone():
    tasks = {"a": after_short(0, 0.5, 0.6, 0.9), "b": after_short(0.1, 0.5, 0.6, 0.9, rft=0.3)}
    table = of_test(tasks | {"c": after_short(0.1, 0.5, 0.5, 0.9, rft=0.1)}, seeds=(0, 1, 2))
    measured = verdict("over_short", table)
    assert (measured.outcome, measured.value) == ("holds", pytest.approx(2 / 3))
    assert "a +0.100 [+0.100, +0.100]" in measured.detail and "c +0.000" in measured.detail
    measured = verdict("gain", table)
    assert (measured.outcome, measured.value) == ("fails", pytest.approx(1 / 3))
    assert "a +0.100" in measured.detail and "b -0.100" in measured.detail
    assert verdict("gain", table[table["method"] != "short"]).outcome == "not tested"


def test_few_labels_suffice_where_full_sft_and_rft_raise_the_reward():
    tasks = {
        "a": after_short(0, 0.5, 0.72, 0.8),
        "b": after_short(0.1, 0.5, 0.76, 0.8),
        "flat": after_short(0.77, 0.1, 0.2, 0.8),
    }
    measured = verdict("share", of_test(tasks))
    assert (measured.outcome, measured.value) == ("holds", pytest.approx((0.9 + 0.95) / 2))
    assert measured.detail == (
        "a 0.720 of 0.800 (90%), b 0.760 of 0.800 (95%); left out, since full SFT, then RFT hardly raises "
        "them: flat"
    )
    nothing = verdict("share", of_test({"flat": tasks["flat"]}))
    assert nothing.outcome == "not tested" and "at least 0.05 above" in nothing.detail


def test_dead_test_inputs_that_short_sft_wakes():
    """Half of one task's, with another seed a quarter; a task without dead ones is not asked."""
    table = of_test({"hard": after_short(0, 0.1, 0.2, 0.9), "live": after_short(0.5, 0.1, 0.2, 0.9)}, (0, 1))
    short = (table["task"] == "hard") & (table["method"] == "short")
    table.loc[short & (table["seed"] == 0) & (table["input"] >= 2), "std"] = 0.009
    table.loc[short & (table["seed"] == 1) & (table["input"] >= 1), "std"] = 0.0
    measured = verdict("wakes", table)
    assert (measured.outcome, measured.value) == ("fails", 0.25)
    assert measured.detail == (
        "seed 0: 0.500 (RFT alone 0.000); seed 1: 0.250 (RFT alone 0.000); tasks: hard"
    )
    twin = table[table["task"] == "hard"].assign(task="twin")
    twin.loc[twin["method"] == "short", "std"] = 0.01
    both = verdict("wakes", pd.concat([table, twin], ignore_index=True))
    assert (both.outcome, both.value) == ("holds", pytest.approx((0.25 + 1) / 2)), "the mean over tasks"
    without = verdict("wakes", table[table["method"] != "rft"])
    assert without.value == 0.25 and "RFT alone" not in without.detail
    train = verdict("wakes", table.assign(split="train"))
    assert train.outcome == "not tested" and "dead test inputs" in train.detail
