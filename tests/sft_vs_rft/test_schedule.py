"""Plans of controlled experiments: what is skipped, resumed and reported; failures, interruptions."""

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_runs import all_numbers, numbers, rows_written, runs_of, wait_until, write_data, write_plan
from processes import in_child, meanwhile, signal_when, snapshot

import common.identity
from common.jobs import Outcome, Place, do, prepare, read_outcome
from common.run_dir import RunDir, read_metrics
from sft_vs_rft.plan import Experiment, load_plan
from sft_vs_rft.schedule import INTERRUPT_MESSAGE, make_jobs
from sft_vs_rft_controlled_experiments_plan_runner import main

METHODS = ["reinforce", "supervised"]
DIVERGING = {"optimizer": "sgd", "opt_method": "supervised", "experiment_name": "lr_{lr}"}
LONG = 100_000  # epochs: never reached


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written needs none, and one takes longer than an epoch."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(plan: Path, *flags: str) -> int:
    return main(["--plan_config_path", str(plan), "--disable_console_log", *flags])


def experiments_of(plan: Path, *overrides: str) -> list[Experiment]:
    return load_plan(plan, overrides).experiments


def run_by_hand(experiment: Experiment, stop: Callable[[], bool] = lambda: False) -> Outcome:
    (job,) = make_jobs([experiment])
    run = prepare(job, [], Place())
    if isinstance(run, Outcome):
        return run
    do(job, run, Place(), stop, console=False)
    return read_outcome(run)


def cut_after(experiment: Experiment, epochs: int) -> Outcome:
    """Run an experiment and ask it to stop after some epochs."""
    answers = iter([False] * (epochs - 1))  # one an epoch
    return run_by_hand(experiment, lambda: next(answers, True))


def training(folder: Path, count: int = 1, rows: int = 2) -> Callable[[], bool]:
    """Whether `count` runs below `folder` have written `rows` rows."""
    return lambda: sum(rows_written(run.path) >= rows for run in runs_of(folder)) >= count


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Numbers of an uninterrupted run of both methods with the given epochs."""
    known: dict[int, dict[str, Any]] = {}

    def get(epochs: int) -> dict[str, Any]:
        if epochs not in known:
            folder = tmp_path_factory.mktemp("whole")
            assert (
                run(write_plan(folder, {"opt_method": METHODS}, epochs=epochs, save_every_num_val=LONG)) == 0
            )
            known[epochs] = all_numbers(folder)
        return known[epochs]

    return get


# Running again


def test_again_skips_what_finished(tmp_path, caplog):
    plan = write_plan(tmp_path, {"opt_method": METHODS})
    assert run(plan) == 0
    before = snapshot(tmp_path)
    with caplog.at_level(logging.INFO):
        assert run(plan) == 0
    assert snapshot(tmp_path) == before
    assert caplog.text.count("finished earlier, skipped") == 2
    # Not the file counts, but what it says: another log interval, another order.
    other = write_plan(tmp_path, {"opt_method": METHODS[::-1]}, epoch_log_interval=1)
    assert run(other) == 0 and len(runs_of(tmp_path)) == 2


def test_fresh_runs_anew_to_the_same_numbers(tmp_path):
    plan = write_plan(tmp_path)
    assert run(plan) == run(plan, "--fresh") == 0
    first, second = runs_of(tmp_path)
    assert numbers(first) == numbers(second)


def test_a_changed_experiment_is_another_run(tmp_path):
    plan = write_plan(tmp_path)
    assert run(plan) == run(plan, "--set", "lr=0.02") == run(plan, "--set", "repetitions=2") == 0
    runs = runs_of(tmp_path)
    assert [(r.config["lr"], r.manifest["repetition"]) for r in runs] == [(0.01, 0), (0.02, 0), (0.01, 1)]


def test_an_unseeded_run_is_resumed_with_the_seeds_it_drew(tmp_path):
    plan = write_plan(tmp_path, random_seed=-1, init_rnd_seed=-1)
    cut = cut_after(experiments_of(plan)[0], 2)
    assert (cut.status, rows_written(cut.run)) == ("interrupted", 2)
    assert run(plan) == 0
    (resumed,) = runs_of(tmp_path)
    seeds = {name: resumed.config[name] for name in ("random_seed", "init_rnd_seed")}
    assert resumed.manifest["seeds"] == seeds | {"samples_rnd_seed": 1} and min(seeds.values()) >= 0
    again = write_plan(tmp_path, **seeds)
    assert run(again) == 0
    assert numbers(resumed) == numbers(runs_of(tmp_path)[1])


@pytest.mark.parametrize("last_row", [0, 3])
def test_a_killed_run_goes_on_to_identical_numbers(tmp_path, whole, monkeypatch, last_row):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=5)
    append = RunDir.append_metrics

    def append_and_die(run: RunDir, row: dict[str, Any]) -> None:
        append(run, row)
        if row["epoch"] == last_row:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", append_and_die)
        assert in_child(lambda: run(plan)) == -signal.SIGKILL
    (cut,) = runs_of(tmp_path)
    # The last row is of an epoch without a checkpoint: it is dropped and computed again.
    assert (cut.manifest["status"], rows_written(cut.path)) == ("running", last_row + 1)
    assert run(plan) == 0
    assert all_numbers(tmp_path) == whole(5)


# Failures


def test_a_failing_experiment_does_not_stop_the_others(tmp_path, caplog):
    plan = write_plan(tmp_path, {"lr": [1e38, 0.1]}, **DIVERGING)
    with caplog.at_level(logging.INFO):
        assert run(plan) == 1
    failed, finished = runs_of(tmp_path)
    assert failed.manifest["status"] == "failed" and finished.manifest["status"] == "finished"
    assert failed.manifest["error"].startswith("NonFiniteLossError: train loss is nan in epoch")
    lines = [message for record in caplog.records if (message := record.getMessage()).startswith("  f")]
    assert lines[0].startswith("  failed      lr_1e+38: NonFiniteLossError: train loss is nan in epoch")
    assert lines[1] == f"  finished    lr_0-1: score {finished.manifest['score']:.6g} ({finished.path})"
    assert "Traceback" not in caplog.text
    # It is tried again, the other is not.
    assert run(plan) == 1 and len(runs_of(tmp_path)) == 2


def test_data_that_cannot_be_read_fails_its_experiment_alone(tmp_path):
    (tmp_path / "bad.npz").write_text("not an archive")
    paths = [str(tmp_path / "bad.npz"), str(write_data(tmp_path / "data.npz"))]
    assert run(write_plan(tmp_path, {"data_dir": paths})) == 1
    assert [run.manifest["status"] for run in runs_of(tmp_path)] == ["failed", "finished"]


def test_a_folder_that_cannot_be_made_fails_its_experiment_alone(tmp_path, caplog):
    plan = write_plan(tmp_path, {"experiment_name": ["x" * 300, "x"]})
    assert run(plan) == 1
    assert [run.config["experiment_name"] for run in runs_of(tmp_path)] == ["x"]
    assert "cannot be written: File name too long" in caplog.text


def test_a_mistake_in_the_plan_is_exit_status_2(tmp_path, capsys):
    assert run(write_plan(tmp_path, lrr=1, epochs=0)) == 2
    error = capsys.readouterr().err
    assert "plan.json: 2 problems" in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "the following arguments are required: --plan_config_path" in capsys.readouterr().err


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_once_checkpoints_and_goes_on_to_identical_numbers(tmp_path, whole, number):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=100, save_every_num_val=LONG)
    with signal_when(training(tmp_path), number=number):
        assert run(plan) == 130
    (cut,) = runs_of(tmp_path)  # the second experiment did not begin
    assert cut.manifest["status"] == "interrupted"
    rows = read_metrics(cut.path)
    assert [path.name for path in (cut.path / "checkpoints").iterdir()] == [f"epoch_{len(rows) - 1:06d}.pt"]
    assert 2 <= len(rows) < 100
    assert run(plan) == 0
    assert all_numbers(tmp_path) == whole(100)
    assert read_metrics(cut.path)[: len(rows)] == rows


def test_interrupted_twice_stops_at_once_and_can_be_resumed(tmp_path, whole, monkeypatch, caplog):
    """The second Ctrl-C comes within the epoch."""
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=5)
    append = RunDir.append_metrics

    def append_and_interrupt(run: RunDir, row: dict[str, Any]) -> None:
        append(run, row)
        if row["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", append_and_interrupt)
        assert run(plan) == 130
    assert caplog.messages[-2:] == [
        INTERRUPT_MESSAGE,
        "stopped at once; the same command goes on from the last checkpoints",
    ]
    (cut,) = runs_of(tmp_path)
    assert cut.manifest["status"] == "interrupted"
    assert run(plan) == 0
    assert all_numbers(tmp_path) == whole(5)


def test_interrupted_before_it_begins_makes_no_run(tmp_path, monkeypatch):
    plan = write_plan(tmp_path, {"opt_method": METHODS})
    monkeypatch.setattr(
        "sft_vs_rft.experiment.run_experiment", lambda *_: os.kill(os.getpid(), signal.SIGINT)
    )
    assert run(plan) == 130
    assert [run.config["opt_method"] for run in runs_of(tmp_path)] == METHODS[:1]


# Two runners


def test_a_second_runner_reports_the_run_as_busy_and_damages_nothing(tmp_path, whole, monkeypatch, caplog):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=100, save_every_num_val=LONG)
    first = os.fork()
    if first == 0:
        os._exit(run(plan))
    wait_until(training(tmp_path))
    monkeypatch.setattr(common.identity, "LOCK_PATIENCE", 0.05)
    (reinforce,) = runs_of(tmp_path)
    os.kill(first, signal.SIGSTOP)  # so that it is still there
    # It runs what the first has not begun.
    assert run(plan) == 1
    os.kill(first, signal.SIGCONT)
    holder = f"pid {first} on {socket.gethostname()}"
    busy = f"run directory {reinforce.path} is in use by a running process ({holder})"
    assert f"reinforce_0-01 failed: {busy}: wait for it, or stop it" in caplog.text
    # The first finds the second experiment finished when its turn comes.
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    assert all_numbers(tmp_path) == whole(100)


def test_the_lock_of_a_dying_process_is_waited_for(tmp_path, whole):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=5)
    cut = cut_after(experiments_of(plan)[0], 2)
    held = RunDir.open(cut.run)

    def let_go() -> None:
        time.sleep(0.3)
        held.close()

    with meanwhile(let_go):
        assert run(plan) == 0
    assert all_numbers(tmp_path) == whole(5)


def test_what_another_runner_finished_meanwhile_is_skipped(tmp_path):
    (experiment,) = experiments_of(write_plan(tmp_path))
    done = run_by_hand(experiment)
    before = snapshot(done.run / "checkpoints")
    assert run_by_hand(experiment) == replace(done, status="skipped")
    assert snapshot(done.run / "checkpoints") == before
