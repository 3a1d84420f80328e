"""Plans of controlled experiments in processes, which import torch for themselves."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from plan_runs import all_numbers, numbers, rows_written, runs_of, wait_until, write_data, write_plan
from processes import meanwhile, signal_when

from common.run_dir import RunDir, read_metrics
from common.schedule import run_jobs
from sft_vs_rft.plan import load_plan
from sft_vs_rft.schedule import identify, make_jobs, read_score
from sft_vs_rft_controlled_experiments_plan_runner import main

METHODS = ["reinforce", "supervised"]
LONG = 100_000  # epochs: never reached


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written needs none, and one takes longer than an epoch."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(plan: Path, *flags: str) -> int:
    return main(["--plan_config_path", str(plan), "--disable_console_log", *flags])


def holder(run: Path) -> int:
    """The process that writes to a run."""
    return int((run / ".lock").read_text().split()[0])


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked: they take milliseconds to start."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))


def test_a_failing_experiment_does_not_stop_the_others(tmp_path, forked, caplog):
    diverging = {"optimizer": "sgd", "opt_method": "supervised", "experiment_name": "lr_{lr}"}
    plan = write_plan(tmp_path, {"lr": [1e38, 0.1]}, **diverging, multiprocess=True, num_parallel=2)
    assert run(plan) == 1
    statuses = {run.config["lr"]: run.manifest["status"] for run in runs_of(tmp_path)}
    assert statuses == {1e38: "failed", 0.1: "finished"}
    assert caplog.text.count("lr_1e+38 failed: NonFiniteLossError: train loss is nan in epoch") == 1


def test_an_experiment_uses_the_gpu_it_is_given_and_is_the_same_on_any(tmp_path, forked):
    plan = write_plan(tmp_path, multiprocess=True)
    loaded = load_plan(plan, ["gpu_ids_pool=[5]"])
    (outcome,) = run_jobs(loaded.plan, make_jobs(loaded.experiments), console=False)
    (found,) = runs_of(tmp_path)
    assert outcome.status == "finished" and read_score(outcome) == found.manifest["score"]
    assert found.config["gpu_ids"] == [5] != loaded.experiments[0].config.gpu_ids
    assert found.manifest["identity"] == identify(loaded.experiments[0])
    assert "no CUDA device here: gpu_ids [5] means CPU" in (found.path / "log.txt").read_text()


def whole(folder: Path, epochs: int) -> dict[str, Any]:
    """Numbers of an uninterrupted run of both methods, in this process."""
    assert run(write_plan(folder, {"opt_method": METHODS}, epochs=epochs, save_every_num_val=LONG)) == 0
    return all_numbers(folder)


# Spawned, as for users: one plan for all that it can show.


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    """A plan of two experiments and one whose worker is killed; its folder, exit status and log."""
    folder = tmp_path_factory.mktemp("processes")
    write_data(folder / "data.npz")
    plan = write_plan(folder, {"opt_method": METHODS}, epochs=5)
    content = json.loads(plan.read_text())
    base = content["configurations"][0]["base_config"]
    victim = {"experiment_name": "victim", "epochs": LONG, "save_every_num_val": 5}
    content["configurations"].append({"base_config": base | victim})
    content |= {"multiprocess": True, "num_parallel": 3}
    plan.write_text(json.dumps(content))

    def victims() -> list[Any]:
        found = [run for run in runs_of(folder) if run.config["experiment_name"] == "victim"]
        return [run for run in found if rows_written(run.path) > 10]

    logs = folder / "logs"
    with signal_when(victims, lambda: holder(victims()[0].path), signal.SIGKILL):
        status = run(plan, "--save_logs", "--log_dir", str(logs), "--log_file_name_prefix", "processes")
    (log,) = logs.iterdir()
    return folder, status, log.read_text()


def test_processes_give_the_numbers_of_a_single_one(in_processes, tmp_path):
    folder, _, _ = in_processes
    runs = {run.config["experiment_name"]: run for run in runs_of(folder)}
    expected = whole(tmp_path, 5)
    assert {name: numbers(runs[name]) for name in expected} == expected


def test_a_killed_worker_is_reported_and_the_others_finish(in_processes):
    folder, status, log = in_processes
    assert status == 1
    assert log.count("victim failed: its process died (exit code -9)") == 1
    statuses = {run.config["experiment_name"]: run.manifest["status"] for run in runs_of(folder)}
    assert statuses == {
        "reinforce_0-01": "finished",
        "supervised_0-01": "finished",
        "victim": "running",
    }


def test_a_killed_worker_can_be_resumed(in_processes, tmp_path):
    folder, _, _ = in_processes
    (victim,) = (run for run in runs_of(folder) if run.config["experiment_name"] == "victim")
    with RunDir.open(victim.path) as run_dir:
        last = int(run_dir.checkpoints()[-1].stem.rpartition("_")[2])
    assert last % 5 == 4
    rows = read_metrics(victim.path)
    assert [row["epoch"] for row in rows] == list(range(len(rows))) and len(rows) > last
    assert rows[:5] == whole(tmp_path, 5)["reinforce_0-01"]["rows"]


def test_ctrl_c_while_workers_start_leaves_no_traceback(tmp_path, capfd):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=LONG, multiprocess=True, num_parallel=2)

    def interrupt_all() -> None:
        workers = wait_until(multiprocessing.active_children)
        time.sleep(0.2)  # They are importing what they need to begin.
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(interrupt_all):
        assert run(plan) == 130
