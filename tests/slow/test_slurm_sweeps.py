"""Real trainings on a real SLURM have the numbers of this machine, bit for bit, also after a kill."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from plan_runs import all_numbers, runs_of, wait_until, write_plan
from slurm_cluster import running_slurm
from sweep_plans import write_configs, write_sweep

from common.run_dir import find_runs

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
REPO = Path(__file__).parents[2]
SLURM = ["--set", "executor.slurm.time=20", "--set", "num_parallel=2"]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        running_slurm(tmp_path_factory.mktemp("slurm")) as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def run(runner: str, plan: Path, *options: str) -> str:
    command = [sys.executable, str(REPO / runner), "--plan_config_path", str(plan), *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=plan.parent, timeout=900)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_json_plan(tmp_path: Path) -> None:
    runner = "sft_vs_rft_controlled_experiments_plan_runner.py"
    for where, options in (("here", []), ("slurm", SLURM)):
        (tmp_path / where).mkdir()
        run(runner, write_plan(tmp_path / where, {"opt_method": ["reinforce", "supervised"]}), *options)
    assert all_numbers(tmp_path / "slurm") == all_numbers(tmp_path / "here")
    assert all((found.path / "slurm").is_dir() for found in runs_of(tmp_path / "slurm"))


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs" / "sweep_summary.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "runs"} for row in csv.DictReader(file)]


def models(folder: Path) -> dict[str, bytes]:
    """Experiment -> the file of the weights that it left."""
    runs = find_runs(folder / "runs")
    assert {run.manifest["status"] for run in runs} == {"finished"} and len(runs) == 6
    files = [(run.manifest["experiment"], file) for run in runs for file in run.path.glob("*_model/*tensors")]
    return {name: file.read_bytes() for name, file in files}


def test_six_experiments_that_start_from_each_other_one_of_them_killed(tmp_path: Path, tiny_t5: Path) -> None:
    configs = write_configs(tmp_path, tiny_t5)
    plan: list[dict[str, Any]] = [
        {"name": "sft", "config_path": configs["sft"], "options": {"alg.training_args.max_steps": [1, 2]}},
        {
            "name": "ppo",
            "config_path": configs["ppo"],
            "model_from": "sft",
            "base_config": {"train_evaluation.n_iters": 6, "train_evaluation.save_every": 1},
        },
        {"name": "rewards", "config_path": configs["extract"], "model_from": "ppo"},
    ]
    here, folder = tmp_path / "here", tmp_path / "slurm"
    for where in (here, folder):
        where.mkdir()
    run("rl4lms_plan_runner.py", write_sweep(here, plan))

    def kill() -> Path:
        checkpoint = wait_until(lambda: next((folder / "runs").glob("*ppo*/*_checkpoints/epoch*"), None), 600)
        path = checkpoint.parents[1]
        os.kill(int((path / ".lock").read_text().split()[0]), signal.SIGKILL)
        return path

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        said = run("rl4lms_plan_runner.py", write_sweep(folder, plan), *SLURM)
        killed = killing.result()
    assert "submitted again" in said
    assert len(list((killed / "slurm").glob("*_submitted.pkl"))) == 2
    assert summary(folder) == summary(here)
    assert len(models(here)) == 4 and models(folder) == models(here)
    again = run("rl4lms_plan_runner.py", folder / "sweep.yml", *SLURM)
    assert again.count("finished earlier, skipped") == 6
