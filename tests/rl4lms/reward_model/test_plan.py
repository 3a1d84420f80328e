"""Reward models in plans: from the model that SFT made."""

import json
import multiprocessing
import os

import pytest
from reward_runs import reward_config
from sweep_plans import write_configs, write_sweep

from common.run_dir import find_runs
from rl4lms_plan_runner import main


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked, which takes milliseconds; what they write needs no fsync."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_a_plan_trains_reward_models_on_the_model_of_sft(forked, tiny_t5, tmp_path):
    configs = write_configs(tmp_path, tiny_t5)
    (tmp_path / "reward.yml").write_text(json.dumps(reward_config(tiny_t5, "seq2seq", epochs=1)))
    plan = write_sweep(
        tmp_path,
        [
            {"name": "sft", "config_path": configs["sft"], "options": {"alg.training_args.max_steps": [1]}},
            {
                "name": "reward",
                "config_path": str(tmp_path / "reward.yml"),
                "model_from": "sft",
                "options": {"alg.args.loss": ["pairwise", "best_of"]},
            },
        ],
    )
    assert main(["--plan_config_path", str(plan), "--disable_console_log"]) == 0
    runs = find_runs(tmp_path / "runs")
    (sft,) = (run for run in runs if run.manifest["algorithm"] == "supervised")
    rewards = [run for run in runs if run.manifest["algorithm"] == "reward_model"]
    assert [run.config["alg"]["args"]["loss"] for run in rewards] == ["pairwise", "best_of"]
    model = str(sft.path / f"{sft.manifest['prefix']}model")
    assert {run.config["alg"]["model_name"] for run in rewards} == {model}
    assert all(run.manifest["status"] == "finished" for run in runs)
    assert main(["--plan_config_path", str(plan), "--disable_console_log"]) == 0
    assert len(find_runs(tmp_path / "runs")) == 3  # found again
