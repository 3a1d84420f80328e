"""Which columns are rewards, and which are not, whatever a table holds beside them."""

import json

import numpy as np
import pandas as pd
import pytest
from diagnosis_logs import PLANTED, PROMPTS, REWARDS, make_log, verdict

from rft_diagnose import DiagnosisError
from rft_diagnose.names import Columns, choose_columns


@pytest.fixture
def frame():
    """Completions as TRL logs them, the reward a function's."""
    return pd.DataFrame(
        {"step": 1, "prompt": PROMPTS, "completion": "4", "accuracy_reward": REWARDS, "advantage": 0.0}
    )


SIZE = len(PROMPTS)
NO_REWARDS = {
    "index": range(SIZE),
    "Unnamed: 0": range(SIZE),
    "__index_level_0__": range(SIZE),
    "sample_id": range(SIZE),
    "counter": [i % 8 for i in range(SIZE)],
    "parsed_answer": [float(i % 5) for i in range(SIZE)],
    "answer_length": [10 * (i % 7) for i in range(SIZE)],
    "completion_tokens": [3.5 * i for i in range(SIZE)],
    "seconds": [0.1 * i for i in range(SIZE)],
    "reward_time": [0.1 * i for i in range(SIZE)],
    "timestamp": [1.7e9 + i for i in range(SIZE)],
    "advantages": [(-1.0) ** i for i in range(SIZE)],
    "entropy": [0.5 + i for i in range(SIZE)],
    "kl": [0.01 * i for i in range(SIZE)],
    "accuracy": [1.0 - i % 2 for i in range(SIZE)],
}


def test_an_index_that_pandas_wrote_is_no_reward(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv")
    assert verdict(tmp_path / "t.csv")[0] == PLANTED
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "t.parquet")
    assert verdict(tmp_path / "t.parquet")[0] == PLANTED
    frame.reset_index().to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    assert verdict(tmp_path / "t.jsonl")[0] == PLANTED


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("name", NO_REWARDS)
def test_numbers_that_are_no_rewards_are_not_taken_and_said(frame, tmp_path, name, suffix):
    frame[name] = NO_REWARDS[name]
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    found, notes = verdict(path)
    assert found == PLANTED
    said = "the reward is accuracy_reward; numbers that are not taken unless --reward names them: "
    assert said + name in notes


def test_of_a_log_of_trl_all_rewards_add_up_and_nothing_else(frame, tmp_path):
    frame["format_reward"] = np.tile([0.0, 0.2], SIZE // 2)
    frame["answer_length"] = range(SIZE)
    frame["comment"] = "none"
    frame.to_parquet(tmp_path / "t.parquet")
    found, notes = verdict(tmp_path / "t.parquet")
    assert found == (0, 0, 12)
    assert notes == (
        "recognised as completions logged by TRL, with the rewards accuracy_reward, format_reward",
        "the reward is accuracy_reward + format_reward; numbers that are not taken unless --reward names "
        "them: answer_length",
    )
    assert verdict(tmp_path / "t.parquet", rewards=("accuracy_reward",)) == (PLANTED, ())


def chosen(*names, numeric=None, **asked):
    """The rewards taken of a table whose columns of these names hold numbers, but for what is text."""
    text = {"prompt", "completion"}
    return choose_columns(
        ["prompt", *names], lambda name: name not in text if numeric is None else name in numeric,
        Columns(**asked), "t.csv",
    ).rewards  # fmt: skip


TRL = ("step", "completion", "advantage")


@pytest.mark.parametrize(
    ("names", "rewards"),
    [
        (("reward",), ("reward",)),
        (("score",), ("score",)),
        (("Reward",), ("Reward",)),
        (("judge_reward", "length"), ("judge_reward",)),
        (("accuracy_reward", "format_reward", "reward"), ("reward",)),
        (("accuracy_reward", "format_reward", "total_reward"), ("total_reward",)),
        (("score", "reward", "reward_std"), ("reward",)),
        (("a_reward", "b_reward", *TRL), ("a_reward", "b_reward")),
        (("score", *TRL), ("score",)),
    ],
)
def test_what_is_named_as_a_reward_is_taken(names, rewards):
    assert chosen(*names) == rewards


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (("accuracy_reward", "format_reward"), "accuracy_reward, format_reward"),
        (("score", "format_reward"), "score, format_reward"),
        (("accuracy_reward", "bleu_score"), "accuracy_reward, bleu_score"),
        (("accuracy_reward", "reward_len", *TRL), "accuracy_reward, reward_len"),
        (("accuracy_reward", "reward", *TRL), "accuracy_reward, reward"),
        (("a_reward", "b_reward", "total_reward", *TRL), "a_reward, b_reward, total_reward"),
        (("accuracy_reward", "mean_reward"), "accuracy_reward, mean_reward"),
    ],
)
def test_several_candidates_are_listed_and_refused(names, listed):
    with pytest.raises(DiagnosisError) as error:
        chosen(*names)
    assert f"t.csv: several columns may be the reward: {listed}; name what is" in str(error.value)
    assert chosen(*names, rewards=(listed.split(", ")[0],)) == (listed.split(", ")[0],)


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (("accuracy", "format", *TRL), "accuracy, format"),
        (("bleu_score", "rewards"), "bleu_score, rewards"),
        (("mean_reward",), "mean_reward"),
        (("answer_length", "index"), "answer_length, index"),
    ],
)
def test_without_a_reward_by_name_it_has_to_be_asked_for(names, listed):
    with pytest.raises(DiagnosisError) as error:
        chosen(*names)
    assert "which column is the reward? give it with --reward; there are: prompt, " in str(error.value)
    assert str(error.value).endswith(f"with numbers: {listed}")


def test_a_reward_that_is_no_number_is_never_left_out_of_a_sum(tmp_path):
    rows = make_log(advantage=[0.0] * SIZE, format_reward=["high"] * SIZE)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DiagnosisError, match="'format_reward' must hold numbers, row 1 holds 'high'"):
        verdict(tmp_path / "t.jsonl")
