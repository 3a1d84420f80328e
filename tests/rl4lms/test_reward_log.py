"""The diagnosis inside a training run: what it says of which texts, and how it goes on after a cut."""

import json

import numpy as np
import pytest
from on_policy_jobs import PREFIX, job, rows, start

from common.files import RowLog, read_rows
from diagnose_vanishing_gradients import main
from rft_diagnose import cli, diagnose
from rft_diagnose.names import POOLED_HERE
from rl4lms.reward_log import RewardLog, signal_statistics


def texts(inputs, rewards, penalties=None, step=1):
    penalties = [0.0] * len(inputs) if penalties is None else penalties
    return [
        {"step": step, "prompt_id": i, "reward": r, "kl_penalty": p}
        for i, r, p in zip(inputs, rewards, penalties, strict=True)
    ]


def test_nothing_is_said_where_each_input_occurs_once():
    assert signal_statistics(texts(["a", "b", "c"], [0.0, 1.0, 0.5])) == {"signal/inputs": 0.0}


def test_it_is_the_diagnosis_of_the_inputs_with_two_texts():
    """40 texts of 5 inputs: of two the rewards are alike, low and best; a sixth input has one text."""
    rng = np.random.default_rng(0)
    rewards = [np.zeros(40), np.ones(40), *(rng.random((3, 40)) < 0.5)]
    names = [f"i{i}" for i in range(5) for _ in range(40)]
    found = signal_statistics(texts([*names, "once"], [*np.concatenate(rewards).astype(float), 1.0]))
    expected = diagnose(np.array(rewards, dtype=float)).summary
    assert found["signal/inputs"] == 5 and found["signal/texts_per_input"] == 40
    for name, value in expected["classes"].items():
        assert found[f"signal/{name}"] == value["share"]
    assert found["signal/dead_low"] == found["signal/dead_high"] == 0.2 and found["signal/live"] == 0.6
    assert (found["signal/no_spread_low"], found["signal/spread"]) == (0.2, 0.6)
    for name in ("within_std", "between_std", "within_share"):
        assert found[f"signal/{name}"] == expected["variance"][name]


def test_a_dead_class_is_not_0_where_it_cannot_be_found():
    found = signal_statistics(texts(["a", "a", "b", "b"], [0.0, 0.0, 0.0, 1.0]))
    assert "signal/dead_low" not in found and "signal/dead_high" not in found
    assert found["signal/no_spread_low"] == 0.5 and found["signal/uncertain"] > 0


def test_a_penalty_that_differs_is_a_spread_of_what_is_optimised():
    found = signal_statistics(texts(["a"] * 4, [0.5] * 4, [0.0, 0.1, 0.2, 0.3]))
    assert found["signal/spread"] == 0 and found["signal/penalised_spread"] == 1
    assert found["signal/penalised_within_std"] == pytest.approx(np.std([0.0, 0.1, 0.2, 0.3], ddof=1))


def test_one_reward_outside_0_to_1_has_no_spread_and_no_class():
    found = signal_statistics(texts(["a", "a", "b", "b"], [-1.0] * 4))
    assert found["signal/spread"] == 0 and "signal/no_spread_low" not in found


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stops_nothing(bad):
    assert signal_statistics(texts(["a", "a"], [bad, bad])) == {
        "signal/inputs": 1,
        "signal/texts_per_input": 2,
    }


def test_the_last_iterations_are_pooled_and_read_back(tmp_path):
    """Each iteration draws an input that the iteration before drew too."""
    whole, cut = RewardLog(RowLog(tmp_path / "whole", "step")), None
    for i in range(1, 2 * POOLED_HERE + 1):
        drawn = ([f"i{i}", f"i{i - 1}"], [0.1 * (i % 7), 0.5], [0.0, 0.1])
        cut = RewardLog(RowLog(tmp_path / "cut", "step"))  # as if each iteration were a resumed run's
        found = whole.add(i, *drawn)
        assert found == cut.add(i, *drawn)
        assert found["signal/inputs"] == min(i, POOLED_HERE) - 1
    assert len(read_rows(tmp_path / "whole", "step")) == 4 * POOLED_HERE


def test_the_diagnosis_of_a_run_says_what_its_log_says(tmp_path, monkeypatch, capsys):
    """30 iterations of 16 texts of 60 inputs: of the last ten, those that were drawn twice."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)
    rng, log = (
        np.random.default_rng(0),
        RewardLog(RowLog(tmp_path / f"{PREFIX}rollout_rewards.jsonl", "step")),
    )
    for iteration in range(1, 31):
        drawn = rng.integers(60, size=16)
        rewards = (rng.random(16) < np.where(drawn < 20, 0.0, 0.02 * drawn)).astype(float)
        logged = log.add(iteration, [f"i{i}" for i in drawn], rewards.tolist(), [0.0] * 16)
    assert main([str(tmp_path), "--output_path", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["rewards"]["reward"]
    assert "an input is judged by its visits of the last 10 steps" in printed
    assert "with a single generation in these: left out" in printed and summary["inputs"] < 60
    assert summary["inputs"] == logged["signal/inputs"] and len(summary["over_time"]) > 20
    for name in ("live", "uncertain"):
        assert summary["classes"][name]["share"] == logged[f"signal/{name}"]
    for name in ("no_spread_low", "no_spread_high"):
        assert summary[name]["share"] == logged[f"signal/{name}"]
    for name in ("within_std", "between_std", "within_share"):
        assert summary["variance"][name] == pytest.approx(logged[f"signal/{name}"])
    assert main([str(tmp_path), "--last_steps", "30", "--output_path", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["rewards"]["reward"]
    assert summary["generations"] == 480


def test_a_run_logs_it_draws_it_and_leaves_a_table(tmp_path, tiny_t5, capsys):
    """30 inputs, at least 8 texts an iteration: some are drawn twice in four iterations."""
    run = start(tmp_path, job(tmp_path, tiny_t5))
    logged, rewards = (
        rows(run, "rollout_info"),
        read_rows(run.path / f"{PREFIX}rollout_rewards.jsonl", "step"),
    )
    assert [row["epoch"] for row in logged] == [1, 2, 3, 4] and {row["step"] for row in rewards} == {
        1,
        2,
        3,
        4,
    }
    expected = {name: value for name, value in logged[-1].items() if name.startswith("signal/")}
    assert signal_statistics(rewards) == expected and expected["signal/inputs"] > 3
    first = [row["reward"] for row in rewards if row["step"] == 1]
    assert np.mean(first) == pytest.approx(logged[0]["rollout_info/ep_rew"])
    penalty = [row["kl_penalty"] for row in rewards if row["step"] == 4]
    assert -np.mean(penalty) == pytest.approx(logged[3]["rollout_info/ep_kl_rew"], abs=1e-7)
    assert (run.path / "plots" / "signal.png").exists()

    out = tmp_path / "out"
    options = ["--kl", "kl_penalty", "--kl_coef", "1", "--last_steps", "4", "--output_path", str(out)]
    assert main([str(run.path), *options]) == 0
    found = json.loads((out / "summary.json").read_text())
    assert found["diagnosed"] == "reward - 1 KL" and found["rewards"]["reward"]["generations"] == len(rewards)
