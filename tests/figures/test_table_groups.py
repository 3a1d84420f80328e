"""Group algorithms beside PPO: claims and table from rewards that are known, and what logs of runs say."""

import math

import numpy as np
import pandas as pd
import pytest
from study_tables import inputs

from common.run_dir import RunDir
from figures.claims import Results, judge
from figures.criteria import CRITERIA
from figures.criterion import CONTRAST_TASK, HARD_TASK, SWEPT_TASK
from figures.group_runs import choose_runs, dead_ids, read_group_run, spread_share
from figures.study import Source
from figures.table_groups import groups_figure, groups_numbers, groups_shown

FLAT, LIVE = [0.0] * 10, [0.3] * 10
KEY = "lexical/rouge_l_max"


def both_splits(tasks, **options):
    """Rewards that are the same on train and test."""
    train = inputs(tasks, **options)
    return pd.concat([train, train.assign(split="test")], ignore_index=True)


def models(**means):
    """Ten dead inputs, and under each other model the first of them with reward 0.5, the others with 0."""
    start = {"pretrained": ([0.0] * 10, FLAT), "second": ([0.0] * 10, FLAT)}
    return start | {name: ([0.5] * count + [0.0] * (10 - count), LIVE) for name, count in means.items()}


def verdict(table, name):
    (criterion,) = [criterion for criterion in CRITERIA if criterion.name == name]
    return judge(criterion, Results(groups=table))


@pytest.mark.parametrize(("grpo", "dapo", "outcome"), [(1, 2, "holds"), (3, 0, "fails"), (0, 3, "fails")])
def test_dead_inputs_are_counted_under_grpo_and_dapo(grpo, dapo, outcome):
    measured = verdict(both_splits({HARD_TASK: models(grpo=grpo, dapo=dapo, ppo=9)}), "group_dead")
    assert (measured.outcome, measured.value) == (outcome, max(grpo, dapo) / 10)
    assert "GRPO, seed 0: " in measured.detail


def test_the_best_group_algorithm_is_compared_with_ppo_where_it_is_further_ahead():
    tasks = {HARD_TASK: models(ppo=2, grpo=2, gspo=1), SWEPT_TASK: models(ppo=2, grpo=0, dapo=4)}
    table = both_splits(tasks)
    measured = verdict(table, "group_not_better")
    # Two of ten inputs better by 0.5: a mean of 0.1, and the normal interval over inputs.
    end = 0.1 + 1.959964 * np.std([0.5, 0.5] + [0.0] * 8, ddof=1) / np.sqrt(10)
    assert measured.value == pytest.approx(end, rel=1e-5) and measured.outcome == "fails"
    assert f"{SWEPT_TASK}, DAPO +0.100" in measured.detail
    assert f"{HARD_TASK}, GRPO +0.000" in measured.detail
    small = both_splits({task: models(ppo=2, grpo=2) for task in tasks})
    assert verdict(small, "group_not_better").outcome == "holds"
    assert verdict(small, "group_not_better").value == 0
    without = verdict(table[table["task"] == SWEPT_TASK], "group_not_better")
    assert without.outcome == "not tested" and f"PPO on test inputs of {HARD_TASK}" in without.detail


def test_an_algorithm_without_all_seeds_of_ppo_is_not_the_best():
    table = both_splits({CONTRAST_TASK: models(ppo=4, grpo=3, rloo=9)}, seeds=(0, 1))
    table = table[(table["method"] != "rloo") | (table["seed"] == 0)]
    measured = verdict(table, "group_live")
    assert measured.detail.startswith("GRPO") and measured.value == pytest.approx(-0.05)
    assert measured.outcome == "holds"


def test_the_cure_is_sft_before_grpo():
    good = verdict(both_splits({SWEPT_TASK: models(grpo=2, short=5, short_grpo=8)}), "group_cure")
    assert good.outcome == "holds" and "minus GRPO +0.300" in good.detail
    assert "minus short SFT +0.150" in good.detail
    bad = verdict(both_splits({SWEPT_TASK: models(grpo=2, short=2, short_grpo=2)}), "group_cure")
    assert bad.outcome == "fails" and bad.value == 0


def test_shares_of_the_gain_with_a_scaled_reward():
    table = both_splits({CONTRAST_TASK: models(grpo=10, grpo_scaled=9, rloo=10, rloo_scaled=3)})
    assert verdict(table, "group_scale_grpo").value == pytest.approx(0.9)
    assert verdict(table, "group_scale_grpo").outcome == "holds"
    assert verdict(table, "group_scale_rloo").value == pytest.approx(0.3)
    assert verdict(table, "group_scale_rloo").outcome == "fails"
    nothing = both_splits({CONTRAST_TASK: models(grpo=0, grpo_scaled=0)})
    assert "gains nothing" in verdict(nothing, "group_scale_grpo").detail


def group_run(base, rate, rewards, size=2, after=0.4, method="grpo", kept=None):
    """A finished run of iterations of groups: rewards [iterations][groups][size], each text of 3 tokens."""
    args = {"learning_rate": rate} | ({"group_size": size} if method != "ppo" else {})
    with RunDir.create(base, "mine", {"alg": {"args": args}}, {}, prefix="mine_") as run:
        for step, groups in enumerate(rewards, start=1):
            run.rows("mine_rollout_info.jsonl", "epoch").append({"epoch": step, "rollout_info/ep_lens": 3.0})
            for place, group in enumerate(groups):
                for reward in group:
                    row = {"step": step, "prompt_id": f"{place}", "reward": reward}
                    row |= {"kept": kept[step - 1][place]} if kept else {}
                    run.rows("mine_rollout_rewards.jsonl", "step").append(row)
        for epoch, value in ((0, 0.1), (len(rewards), after)):
            row = {"epoch": epoch, "metrics": {KEY: value}}
            run.rows("mine_train_split_metrics.jsonl", "epoch").append(row)
        run.update_manifest(status="finished")
    return Source(task=HARD_TASK, seed=0, method=method, reward=KEY, path=run.path, command="")


@pytest.fixture
def rewards():
    """Input 0 is dead, input 1 is not."""
    return both_splits(
        {HARD_TASK: {"pretrained": ([0.0, 0.5], [0.0, 0.3]), "grpo": ([0.0, 0.9], [0.0, 0.1])}}
    )


def test_logs_tell_tokens_groups_and_rewards(tmp_path, rewards):
    drawn = [[[0, 0], [0, 1]], [[0, 1], [1, 1]], [[0, 0], [1, 1]]]
    kept = [[False, True], [True, False], [False, False]]
    source = group_run(tmp_path, 3e-4, drawn, kept=kept)
    assert dead_ids(rewards, source) == {"0"}
    run = read_group_run(source, rewards)
    assert run.numbers == {
        "learning_rate": 3e-4, "iterations": 3, "tokens": 36, "texts_per_input": 6, "start_reward": 0.1,
        "train_reward": 0.4, "groups_per_kept": 3, "spread_dead": 0.5,
    }  # fmt: skip
    assert run.curve["tokens"].tolist() == [6, 18, 30]
    assert run.curve["reward"].tolist() == [0.25, 0.75, 0.5]
    assert run.curve["dead_reward"].tolist() == [0, 0.5, 0]


def test_texts_without_groups_have_tokens_too(tmp_path, rewards):
    numbers = read_group_run(group_run(tmp_path, 3e-5, [[[1], [0], [1]]], method="ppo"), rewards).numbers
    assert numbers["tokens"] == 9 and math.isnan(numbers["groups_per_kept"])


def test_of_two_learning_rates_the_better_one_is_shown(tmp_path, rewards):
    pairs = ((1e-3, 0.3), (3e-4, 0.5), (1e-4, 0.4))
    runs = [
        read_group_run(group_run(tmp_path / f"{rate}", rate, [[[0, 1]]], after=after, kept=[[True]]), rewards)
        for rate, after in pairs
    ]
    (chosen,) = choose_runs(runs)
    assert chosen.numbers["learning_rate"] == 3e-4
    numbers = groups_numbers(rewards, [chosen])
    (row,) = numbers.to_dict("records")
    assert (row["task"], row["method"], row["seeds"], row["dead"]) == (HARD_TASK, "grpo", 1, 0.5)
    assert row["train"] == row["test"] == pytest.approx(0.45) and row["awake"] == 0
    assert row["learning_rate"] == 3e-4 and row["tokens"] == 6
    (shown,) = groups_shown(numbers, {HARD_TASK: "hard"}).to_dict("records")
    assert shown["task"] == "hard" and shown["algorithm"] == "GRPO" and shown["train"] == "0.450"
    curves = chosen.curve.assign(point=0)
    assert len(groups_figure(curves, {}).axes) == 2


def test_the_expected_share_of_groups_of_dead_inputs_is_exact():
    """From all 4 rewards: a group of 2 has spread with probability 0, 1/2, 2/3."""
    rewards = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
    assert spread_share(rewards, np.array([True, True, False]), 2) == pytest.approx(0.5 / (0.5 + 2 / 3))


def test_nothing_is_tested_without_the_comparison():
    for name in ("group_dead", "group_not_better", "group_live", "group_cure", "group_scale_grpo"):
        assert verdict(Results().groups, name).outcome == "not tested"
