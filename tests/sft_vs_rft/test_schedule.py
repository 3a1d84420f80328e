"""Running plans: what is skipped, resumed and reported; failures, interruptions, processes."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_runs import all_numbers, numbers, rows_written, runs_of, wait_until, write_data, write_plan

from common.files import atomic_torch_save
from common.run_dir import RunDir, find_runs, read_metrics
from sft_vs_rft import schedule
from sft_vs_rft.identity import identity, remove_stillborn
from sft_vs_rft.plan import Experiment, Plan, load_plan
from sft_vs_rft.schedule import Outcome, execute, run_plan
from sft_vs_rft_controlled_experiments_plan_runner import main, summary

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
    return execute(experiment, False, stop, lambda epochs: None, console=False)


def cut_after(experiment: Experiment, epochs: int) -> Outcome:
    """Run an experiment and ask it to stop after some epochs."""
    answers = iter([False] * epochs)  # the first before it begins, then one an epoch
    return run_by_hand(experiment, lambda: next(answers, True))


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; returns its exit code, minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work() or 0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run `action` in a thread during the block; its failure is the test's."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    assert not errors, errors


def signal_when(
    condition: Callable[[], Any], pid: Callable[[], int] = os.getpid, number: int = signal.SIGINT
):
    def send() -> None:
        wait_until(condition)
        os.kill(pid(), number)

    return meanwhile(send)


def training(folder: Path, count: int = 1, rows: int = 2) -> Callable[[], bool]:
    """Whether `count` runs below `folder` have written `rows` rows."""
    return lambda: sum(rows_written(run.path) >= rows for run in runs_of(folder)) >= count


def holder(run: Path) -> int:
    """The process that writes to a run."""
    return int((run / ".lock").read_text())


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


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
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-3].startswith("  failed      lr_1e+38: NonFiniteLossError: train loss is nan in epoch")
    assert lines[-2] == f"  finished    lr_0-1: score {finished.manifest['score']:.6g} ({finished.path})"
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
    assert "failed: [Errno 36] File name too long" in caplog.text


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
        schedule.INTERRUPT_MESSAGE,
        "stopped at once; the same command goes on from the last checkpoints",
    ]
    (cut,) = runs_of(tmp_path)
    assert cut.manifest["status"] == "interrupted"
    assert run(plan) == 0
    assert all_numbers(tmp_path) == whole(5)


def test_interrupted_before_it_begins_makes_no_run(tmp_path):
    (experiment,) = experiments_of(write_plan(tmp_path))
    assert run_by_hand(experiment, lambda: True) == Outcome(experiment, "interrupted")
    assert runs_of(tmp_path) == []


# Two runners


def test_a_second_runner_reports_the_run_as_busy_and_damages_nothing(tmp_path, whole, monkeypatch, caplog):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, epochs=100, save_every_num_val=LONG)
    first = os.fork()
    if first == 0:
        os._exit(run(plan))
    wait_until(training(tmp_path))
    monkeypatch.setattr(schedule, "LOCK_PATIENCE", 0.05)
    (reinforce,) = runs_of(tmp_path)
    os.kill(first, signal.SIGSTOP)  # so that it is still there
    # It runs what the first has not begun.
    assert run(plan) == 1
    os.kill(first, signal.SIGCONT)
    busy = f"run directory {reinforce.path} is in use by a running process (pid {first})"
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


def test_folders_of_runs_killed_at_birth_are_removed_unless_their_maker_lives(tmp_path):
    base = tmp_path / "runs"
    alive = RunDir.create(base, "alive", {}, {})
    (alive.path / "manifest.json").unlink()  # as if it had not been written yet
    RunDir.create(base, "whole", {}, {}).close()
    for name, files in {
        "dead": {".lock": "1\n"},
        "dead_2": {".lock": "1\n", "config.json": "{}", ".tmp-manifest.json-1": "{"},
        "empty": {},
        "unlocked": {".lock": ""},  # its maker may be about to lock it
        "users": {".lock": "1\n", "notes.txt": "mine"},
    }.items():
        (base / name).mkdir()
        for file, text in files.items():
            (base / name / file).write_text(text)
    remove_stillborn(base)
    remove_stillborn(tmp_path / "nowhere")
    left = {path.name.partition("_20")[0] for path in base.iterdir()}
    assert left == {"alive", "whole", "empty", "unlocked", "users"}


# Processes. Forked, they take milliseconds to start and see what is patched here; `execute` is a stand-in.


@pytest.fixture
def forked(monkeypatch):
    """Plans with `multiprocess` fork their workers; returns what sets the work that each does."""
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda _, get=multiprocessing.get_context: get("fork")
    )

    def set_work(work: Callable[[Experiment, Callable[[], bool]], Outcome]) -> None:
        def fake(
            experiment: Experiment, fresh: bool, stop: Callable[[], bool], report: Any, **_: Any
        ) -> Outcome:
            report(1)
            return work(experiment, stop)

        monkeypatch.setattr(schedule, "execute", fake)

    return set_work


def outcomes_of(plan: Path) -> dict[float, tuple[str, str | None]]:
    loaded = load_plan(plan)
    outcomes = run_plan(loaded.plan, loaded.experiments, console=False)
    assert [o.experiment.index for o in outcomes] == [e.index for e in loaded.experiments]
    return {o.experiment.config.lr: (o.status, o.error) for o in outcomes}


def test_gpus_are_handed_out_one_to_each_worker(tmp_path, forked):
    """A worker holds its GPU's file while it runs: nobody else may."""

    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        (gpu,) = experiment.config.gpu_ids
        (tmp_path / f"gpu{gpu}").mkdir()
        time.sleep(0.03)
        (tmp_path / f"gpu{gpu}").rmdir()
        return Outcome(experiment, "finished", score=float(gpu))

    forked(work)
    plan = write_plan(tmp_path, {"lr": [0.1, 0.2, 0.3, 0.4, 0.5]}, multiprocess=True, num_parallel=3)
    loaded = load_plan(plan, ["gpu_ids_pool=[5, 7]"])
    outcomes = run_plan(loaded.plan, loaded.experiments, console=False)
    assert {outcome.status for outcome in outcomes} == {"finished"}
    assert {outcome.score for outcome in outcomes} == {5, 7}
    # Which GPU it had is no part of what an experiment is.
    assert [identity(o.experiment) for o in outcomes] == [identity(e) for e in loaded.experiments]


def test_as_many_at_a_time_as_num_parallel_says(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        start = time.monotonic()
        (tmp_path / f"begun_{experiment.index}").touch()
        wait_until(lambda: len(list(tmp_path.glob("begun_*"))) >= 2)  # the first two meet
        time.sleep(0.02)
        (tmp_path / f"times_{experiment.index}").write_text(f"{start} {time.monotonic()}")
        return Outcome(experiment, "finished")

    forked(work)
    plan = write_plan(tmp_path, {"lr": [0.1, 0.2, 0.3, 0.4, 0.5]}, multiprocess=True, num_parallel=2)
    assert {status for status, _ in outcomes_of(plan).values()} == {"finished"}
    times = [tuple(map(float, file.read_text().split())) for file in tmp_path.glob("times_*")]
    at_once = [sum(begin <= start < end for begin, end in times) for start, _ in times]
    assert len(times) == 5 and max(at_once) == 2


def test_a_failing_experiment_does_not_stop_the_others_in_processes(tmp_path, forked, caplog):
    """Forked, with the real work."""
    plan = write_plan(tmp_path, {"lr": [1e38, 0.1]}, **DIVERGING, multiprocess=True, num_parallel=2)
    assert run(plan) == 1
    statuses = {run.config["lr"]: run.manifest["status"] for run in runs_of(tmp_path)}
    assert statuses == {1e38: "failed", 0.1: "finished"}
    assert caplog.text.count("lr_1e+38 failed: NonFiniteLossError: train loss is nan in epoch") == 1


def test_a_worker_that_dies_is_reported_and_the_others_go_on(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        if experiment.config.lr == 0.2:
            os.kill(os.getpid(), signal.SIGKILL)
        if experiment.config.lr == 0.3:
            os._exit(7)
        return Outcome(experiment, "finished")

    forked(work)
    plan = write_plan(tmp_path, {"lr": [0.1, 0.2, 0.3, 0.4]}, multiprocess=True, num_parallel=2)
    assert outcomes_of(plan) == {
        0.1: ("finished", None),
        0.2: ("failed", "its process died (exit code -9)"),
        0.3: ("failed", "its process died (exit code 7)"),
        0.4: ("finished", None),
    }


def test_a_worker_killed_in_the_middle_of_a_message_blocks_nobody(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        if experiment.config.lr == 0.1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return Outcome(experiment, "finished", error="x" * 10_000_000)  # more than a pipe holds
        time.sleep(0.3)
        return Outcome(experiment, "finished")

    forked(work)
    plan = write_plan(tmp_path, {"lr": [0.1, 0.2, 0.3]}, multiprocess=True, num_parallel=2)
    read, schedule_wait = [], schedule.wait

    def slow_wait(connections: Any, timeout: float) -> Any:
        """Messages are not read until the worker is dead: it dies within the message."""
        if not read:
            time.sleep(0.3)
            read.append(True)
        return schedule_wait(connections, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "wait", slow_wait)
        statuses = {lr: status for lr, (status, _) in outcomes_of(plan).items()}
    assert statuses == {0.1: "failed", 0.2: "finished", 0.3: "finished"}


def test_interrupting_the_runner_alone_stops_its_workers(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        (tmp_path / f"begun_{experiment.index}").touch()
        wait_until(stop)
        return Outcome(experiment, "interrupted", error="asked to")

    forked(work)
    plan = write_plan(tmp_path, {"lr": [0.1, 0.2, 0.3]}, multiprocess=True, num_parallel=2)
    with signal_when(lambda: len(list(tmp_path.glob("begun_*"))) == 2):
        outcomes = outcomes_of(plan)
    asked = ("interrupted", "asked to")
    assert outcomes == {0.1: asked, 0.2: asked, 0.3: ("interrupted", None)}


def test_a_terminals_ctrl_c_reaches_runner_and_workers_and_means_one_request(tmp_path, forked):
    """Also a worker that is just being started, and has not come to handling signals."""

    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        (tmp_path / "begun").touch()
        wait_until(stop)
        time.sleep(0.3)  # The runner's request comes on top of the terminal's.
        return Outcome(experiment, "interrupted", error="asked to")

    forked(work)
    plan = write_plan(tmp_path, multiprocess=True)
    signalled = schedule._held_signals

    @contextlib.contextmanager
    def interrupted_at_start() -> Iterator[None]:
        with signalled():
            yield
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "_held_signals", interrupted_at_start)
        assert outcomes_of(plan) == {0.01: ("interrupted", "asked to")}


def test_interrupting_the_runner_twice_ends_workers_that_do_not_stop(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        (tmp_path / "pid").write_text(str(os.getpid()))
        wait_until(stop)
        (tmp_path / "asked").touch()
        time.sleep(60)
        return Outcome(experiment, "finished")

    forked(work)
    plan = write_plan(tmp_path, multiprocess=True)

    def interrupt_twice() -> None:
        wait_until((tmp_path / "pid").exists)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until((tmp_path / "asked").exists)
        os.kill(os.getpid(), signal.SIGINT)

    start = time.monotonic()
    with meanwhile(interrupt_twice):
        assert run(plan) == 130
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_workers_of_a_killed_runner_die_with_it(tmp_path, forked):
    def work(experiment: Experiment, stop: Callable[[], bool]) -> Outcome:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        return Outcome(experiment, "finished")

    forked(work)
    plan = write_plan(tmp_path, multiprocess=True)
    runner = os.fork()
    if runner == 0:
        os._exit(run(plan))
    worker = int(wait_until((tmp_path / "pid").exists) and wait_until((tmp_path / "pid").read_text))
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)
    wait_until(lambda: not is_running(worker), seconds=10)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Real processes, which import torch for themselves: one plan for all that it can show.


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


def test_processes_give_the_numbers_of_a_single_one(in_processes, whole):
    folder, _, _ = in_processes
    runs = {run.config["experiment_name"]: run for run in runs_of(folder)}
    assert {name: numbers(runs[name]) for name in whole(5)} == whole(5)


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


def test_a_killed_worker_can_be_resumed(in_processes, whole):
    folder, _, _ = in_processes
    (victim,) = (run for run in runs_of(folder) if run.config["experiment_name"] == "victim")
    with RunDir.open(victim.path) as run_dir:
        last = int(run_dir.checkpoints()[-1].stem.rpartition("_")[2])
    assert last % 5 == 4
    rows = read_metrics(victim.path)
    assert [row["epoch"] for row in rows] == list(range(len(rows))) and len(rows) > last
    assert rows[:5] == whole(5)["reinforce_0-01"]["rows"]


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
    assert capfd.readouterr() == ("", "")
    assert runs_of(tmp_path) == []


# The summary


def outcome(
    index: int, name: str, score: float | None, status: str = "finished", repetition: int = 0
) -> Outcome:
    config = load_plan_config(name)
    return Outcome(Experiment(index, repetition, config), status, Path("runs") / name, score)


def load_plan_config(name: str) -> Any:
    from controlled_setting import make_config

    return make_config(experiment_name=name)


@pytest.mark.parametrize(("largest", "best"), [(False, "a, 0.5"), (True, "b, 1.5")])
def test_best_configuration_smallest_or_largest(largest, best):
    plan = Plan(name="p", largest=largest, configurations=[{}])
    outcomes = [outcome(0, "a", 0.5), outcome(1, "b", 1.5), outcome(2, "c", None, "failed")]
    lines = summary(plan, outcomes)
    assert lines[0] == "plan p: 3 experiments"
    assert lines[1] == "  finished    a: score 0.5 (runs/a)"
    assert lines[3] == "  failed      c: not run to its end (runs/c)"
    assert lines[4] == f"  best ({'largest' if largest else 'smallest'} train loss): {best}"


def test_best_configuration_by_the_mean_of_its_repetitions():
    plan = Plan(name="p", repetitions=2, configurations=[{}])
    outcomes = [
        outcome(0, "a", 0.1),
        outcome(1, "a", 0.9, repetition=1),
        outcome(2, "b", 0.3, "skipped"),
        outcome(3, "b", 0.5, repetition=1),
    ]
    assert summary(plan, outcomes)[-1] == "  best (smallest train loss): b, 0.4, std 0.141 over 2"


def test_configurations_of_one_name_are_not_taken_for_repetitions():
    plan = Plan(name="p", configurations=[{}])
    outcomes = [outcome(0, "a", 0.1), outcome(1, "a", 0.9)]
    assert summary(plan, outcomes)[-1] == "  best (smallest train loss): a, 0.1"


def test_no_best_configuration_when_nothing_finished():
    lines = summary(Plan(name="p", configurations=[{}]), [outcome(0, "a", None, "interrupted")])
    assert lines == ["plan p: 1 experiments", "  interrupted a: not run to its end (runs/a)"]


# Identity


def test_cosmetic_fields_do_not_change_the_identity_and_all_others_do(tmp_path):
    plan = write_plan(tmp_path)

    def of(*overrides: str) -> str:
        (experiment,) = experiments_of(plan, *overrides)
        return identity(experiment)

    cosmetic = [
        "outputs_dir=elsewhere",
        "gpu_ids=[]",
        "disable_console_log=true",
        "save_logs=false",
        "train_batch_log_interval=3",
        "epoch_log_interval=3",
        "save_metric_plots=true",
    ]
    assert {of(override) for override in cosmetic} == {of()}
    others = ["lr=0.5", "epochs=9", "random_seed=9", "num_checkpoints=-1", "experiment_name=x", "gpu_ids=[1]"]
    assert len({of(override) for override in others}) == len(others)
    (experiment,) = experiments_of(plan)
    assert identity(replace(experiment, repetition=1)) != identity(experiment)
    assert identity(replace(experiment, index=5)) == identity(experiment)


@pytest.mark.parametrize("as_folder", [False, True], ids=["npz file", "folder"])
def test_the_content_of_the_data_is_part_of_the_identity(tmp_path, as_folder):
    (tmp_path / "data").mkdir()
    file = write_data(tmp_path / "data" / "data.npz", seed=0)
    plan = write_plan(tmp_path, data_dir=str(file.parent if as_folder else file))
    before = identity(*experiments_of(plan))
    write_data(file, seed=1)
    assert identity(*experiments_of(plan)) != before
    write_data(file, seed=0)
    assert identity(*experiments_of(plan)) == before


@pytest.mark.parametrize("field", ["load_model_from_checkpoint", "trainer_checkpoint", "run folder"])
def test_the_content_of_checkpoints_is_part_of_the_identity(tmp_path, field):
    import torch

    checkpoints = tmp_path / "start" / "checkpoints"
    checkpoints.mkdir(parents=True)
    file = checkpoints / "epoch_000001.pt"
    atomic_torch_save(file, {"model": {"w": torch.zeros(1)}})
    start = (
        {"load_model_from_checkpoint": str(tmp_path / "start")}
        if field == "run folder"
        else {field: str(file)}
    )
    plan = write_plan(tmp_path, **start)
    before = identity(*experiments_of(plan))
    atomic_torch_save(file, {"model": {"w": torch.ones(1)}})
    assert identity(*experiments_of(plan)) != before


# What a run leaves behind


def test_log_files_of_plan_and_experiments(tmp_path, capfd):
    plan = write_plan(tmp_path, {"opt_method": METHODS}, save_logs=True, epoch_log_interval=2)
    logs = tmp_path / "logs"
    assert run(plan, "--save_logs", "--log_dir", str(logs)) == 0
    assert run(plan, "--save_logs", "--log_dir", str(logs), "--log_file_name_prefix", "mine") == 0
    first, second = sorted(logs.iterdir(), key=lambda path: path.name.startswith("mine"))
    assert first.name.startswith("plan_20") and second.name.startswith("mine_20")
    assert "best (smallest train loss)" in first.read_text()
    assert second.read_text().count("finished earlier, skipped") == 2
    for a_run in runs_of(tmp_path):
        log = (a_run.path / "log.txt").read_text()
        assert log.count(" epoch 1: train loss") == log.count(" epoch 3: train loss") == 1
        assert log.count("no CUDA device here: gpu_ids [0] means CPU") == 1
        assert "start, small reward std inputs: reward" in log
        other = next(m for m in METHODS if m != a_run.config["opt_method"])
        assert f"{other}_0-01" not in log
    assert capfd.readouterr() == ("", ""), "--disable_console_log"


def test_no_log_file_unless_asked_for(tmp_path):
    assert run(write_plan(tmp_path, save_logs=False)) == 0
    (a_run,) = runs_of(tmp_path)
    assert not (a_run.path / "log.txt").exists()


def test_an_experiment_can_be_silent_on_the_console(tmp_path, capfd):
    plan = write_plan(
        tmp_path, {"disable_console_log": [True, False]}, experiment_name="{disable_console_log}"
    )
    assert main(["--plan_config_path", str(plan)]) == 0
    printed = capfd.readouterr().err
    assert "best (smallest train loss)" in printed, "the plan's own lines stay"
    assert (printed.count("True: started in"), printed.count("False: started in")) == (0, 1)
    assert [(run.path / "log.txt").read_text().count("started in") for run in runs_of(tmp_path)] == [1, 1]


def test_gpus_without_cuda_mean_the_cpu(tmp_path):
    plan = write_plan(tmp_path, gpu_ids=[3])
    assert run(plan) == 0
    (a_run,) = runs_of(tmp_path)
    assert a_run.manifest["device"] == "cpu"
    assert (a_run.path / "log.txt").read_text().count("no CUDA device here: gpu_ids [3] means CPU") == 1


def test_metric_plots_only_if_asked_for(tmp_path):
    options = {"save_metric_plots": [True, False]}
    assert run(write_plan(tmp_path, options, epochs=2, experiment_name="{save_metric_plots}")) == 0
    with_plots, without = runs_of(tmp_path)
    plots = {path.name for path in (with_plots.path / "plots").iterdir()}
    assert {"loss.png", "reward.png", "grad_norm.png", "accuracy.png", "avg_reward_std.png"} <= plots
    assert not (without.path / "plots").exists()


def test_tensorboard_has_every_epoch_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = write_plan(tmp_path, use_tensorboard=True, save_every_num_val=2, epochs=7)

    def die_in_epoch_5(run_dir: RunDir, row: dict[str, Any]) -> None:
        append(run_dir, row)
        if row["epoch"] == 5:
            raise RuntimeError("for the test")

    append = RunDir.append_metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", die_in_epoch_5)
        assert run(plan) == 1  # epochs 0 to 4 are logged, the checkpoint is of 3
    assert run(plan) == 0
    (a_run,) = runs_of(tmp_path)
    events = EventAccumulator(str(a_run.path / "tensorboard")).Reload()
    rows = read_metrics(a_run.path)
    for split in ("train", "val"):
        for name in rows[0][split]:
            scalars = events.Scalars(f"{split}/{name}")
            assert [event.step for event in scalars] == list(range(7))
            expected = [row[split][name] for row in rows]
            assert [event.value for event in scalars] == pytest.approx(expected, rel=1e-6)


def test_files_and_folders_beside_the_runs_do_no_harm(tmp_path):
    plan = write_plan(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "folder").mkdir()
    assert run(plan) == 0
    assert len(find_runs(tmp_path / "runs")) == 1
