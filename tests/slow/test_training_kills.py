"""Trainings and sweeps cut by signals at any moment and started again come to the numbers of uncut ones.

Prints where the cuts hit: SEED=7 CUTS=20 pytest -m slow tests/slow/test_training_kills.py -s
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_numbers import sweep_numbers, training_numbers
from signal_rounds import Job, Whole, cut_at_random_moments, run_whole
from sweep_plans import write_configs, write_sweep
from tiny_models import save_tiny_gpt2, save_tiny_t5
from training_runs import ppo_config, save_data, supervised_config

from common.run_dir import find_runs

pytestmark = pytest.mark.slow


def supervised(folder: Path) -> dict[str, Any]:
    """A training of 40 updates."""
    raw = supervised_config(save_tiny_t5(folder / "model", seed=1), save_data(folder / "data"))
    raw["alg"]["training_args"] |= {"num_train_epochs": 10, "logging_steps": 7, "save_steps": 3}
    raw["alg"]["training_args"]["save_total_limit"] = 1
    return raw


def on_policy(folder: Path, alg: str) -> dict[str, Any]:
    """A training of eight iterations, a checkpoint after every second and an evaluation after every third."""
    kind = "seq2seq" if alg == "nlpo" else "causal"
    model = (save_tiny_t5 if kind == "seq2seq" else save_tiny_gpt2)(folder / "model")
    raw = ppo_config(model, save_data(folder / "data"), kind)
    raw["train_evaluation"] |= {"n_iters": 8, "eval_every": 3, "save_every": 2}
    raw["alg"] |= {"id": alg, "kl_div": {"coeff": 0.01, "target_kl": 0.01}}
    if alg == "a2c":
        raw["alg"]["args"]["n_epochs"] = 1
    if alg == "nlpo":
        mask = {"top_mask": 0.9, "min_tokens_to_keep": 10, "target_update_iterations": 2}
        raw["alg"]["policy"]["id"] = f"maskable_{raw['alg']['policy']['id']}"
        raw["alg"]["policy"]["args"] |= mask
    return raw


def training_job(raw: dict[str, Any], folder: Path) -> Job:
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(raw))

    def command(output: Path) -> list[str] | None:
        runner = "rl4lms_train_text_generation.py"
        if runs := find_runs(output):
            (run,) = runs
            return None if run.manifest["status"] == "finished" else [runner, "--resume", str(run.path)]
        names = ["--base_path_to_store_results", str(output), "--experiment_name", "mine"]
        return [runner, "--config_path", str(config), *names]

    def numbers(output: Path) -> dict[str, str]:
        (run,) = find_runs(output)
        assert run.manifest["status"] == "finished"
        return training_numbers(run.path)

    return Job(command, numbers, stage)


def stage(output: Path) -> str:
    """Where cut runs were, as their files tell: how many had come how far."""
    stages = [stage_of(run.path, run.manifest["status"]) for run in find_runs(output)]
    return " + ".join(f"{n} {name}" for name, n in sorted(Counter(stages).items())) or "no run yet"


def stage_of(run: Path, status: str) -> str:
    if status == "finished":
        return "finished"
    if any(path.name.startswith(".tmp-") for path in run.rglob("*")):
        return "writing a file"
    if list(run.glob("*_model/config.json")):
        return "model there"
    if list(run.glob("*_checkpoints/*")):
        return "checkpoints there"
    return (
        "rows there" if any(path.stat().st_size for path in run.glob("*.jsonl")) else "before its first row"
    )


@pytest.mark.parametrize("alg", ["supervised", "ppo", "nlpo", "a2c"])
def test_trainings_cut_at_random_moments(alg: str, tmp_path: Path) -> None:
    raw = supervised(tmp_path) if alg == "supervised" else on_policy(tmp_path, alg)
    job = training_job(raw, tmp_path)
    cut_at_random_moments(alg, job, run_whole(job, tmp_path / "whole"), tmp_path)


def sweep_job(configs: dict[str, str], multiprocess: bool) -> Job:
    """SFT of two lengths, PPO on each of their models, extractions of the models of PPO."""
    chain: list[dict[str, Any]] = [
        {"name": "sft", "config_path": configs["sft"], "options": {"alg.training_args.max_steps": [4, 8]}},
        {"name": "ppo", "config_path": configs["ppo"], "model_from": "sft"},
        {"name": "rewards", "config_path": configs["extract"], "model_from": "ppo"},
    ]

    def command(output: Path) -> list[str]:
        parallel = {"multiprocess": multiprocess, "num_parallel": 2}
        plan = write_sweep(output, chain, **parallel)
        return ["rl4lms_plan_runner.py", "--plan_config_path", str(plan)]

    return Job(command, lambda output: sweep_numbers(output / "runs"), lambda output: stage(output / "runs"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Whole]:
    """Config files of the sweep, and the sweep that nothing cut."""
    folder = tmp_path_factory.mktemp("sweep")
    configs = write_configs(folder, save_tiny_t5(folder / "model", seed=1))
    return configs, run_whole(sweep_job(configs, multiprocess=False), folder / "whole")


@pytest.mark.parametrize("multiprocess", [False, True], ids=["in process", "in processes"])
def test_sweeps_cut_at_random_moments(
    multiprocess: bool, sweep: tuple[dict[str, str], Whole], tmp_path: Path
) -> None:
    configs, whole = sweep
    title = "sweep in processes" if multiprocess else "sweep in process"
    cut_at_random_moments(title, sweep_job(configs, multiprocess), whole, tmp_path)
