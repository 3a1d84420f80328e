"""Jobs in processes: how many at a time, deaths, signals, a killed runner. See test_schedule for the rest."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plan_runs import wait_until
from processes import is_running, meanwhile, signal_when
from toy_jobs import counting, job_doing, values

from common import workers
from common.console import Progress
from common.errors import Interrupted
from common.jobs import Job, Outcome, Place, Report, prepare
from common.plan import PlanSettings
from common.run_dir import RunDir, find_runs, read_run
from common.schedule import run_jobs
from common.workers import NEWS, REPORT_EVERY

Work = Callable[..., None]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written needs none."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def forked(monkeypatch):
    """Workers are forked: they take milliseconds to start, and see what is patched here."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: get_context("fork"))


def run(folder: Path, work: Work, number: int, at_once: int = 2, gpus: tuple[int, ...] = ()) -> list[Outcome]:
    """Run `work` for 0, 1, ... as jobs."""
    jobs = [job_doing(folder / "runs", f"job {i}", partial(work, i)) for i in range(number)]
    settings = PlanSettings(multiprocess=True, num_parallel=at_once, gpu_ids_pool=list(gpus))
    return run_jobs(settings, jobs, console=False)


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_gpus_are_handed_out_one_to_each_worker(tmp_path, forked):
    """A worker holds its GPU's file while it runs: nobody else may."""

    def work(i: int, run: RunDir, place: Place, *_: Any) -> None:
        (tmp_path / f"gpu{place.gpu}").mkdir()
        time.sleep(0.03)
        (tmp_path / f"gpu{place.gpu}").rmdir()
        run.update_manifest(gpu=place.gpu)

    outcomes = run(tmp_path, work, 5, at_once=3, gpus=(5, 7))
    assert statuses(outcomes) == ["finished"] * 5
    assert {read_run(outcome.run).manifest["gpu"] for outcome in outcomes} == {5, 7}


def test_as_many_at_a_time_as_num_parallel_says(tmp_path, forked):
    def work(i: int, run: RunDir, place: Place, *_: Any) -> None:
        assert place in (Place(1, gpu=None, share=2), Place(2, gpu=None, share=2))
        start = time.monotonic()
        (tmp_path / f"begun_{i}").touch()
        wait_until(lambda: len(list(tmp_path.glob("begun_*"))) >= 2)  # the first two meet
        time.sleep(0.02)
        (tmp_path / f"times_{i}").write_text(f"{start} {time.monotonic()}")

    assert statuses(run(tmp_path, work, 5)) == ["finished"] * 5
    times = [tuple(map(float, file.read_text().split())) for file in tmp_path.glob("times_*")]
    at_once = [sum(begin <= start < end for begin, end in times) for start, _ in times]
    assert len(times) == 5 and max(at_once) == 2


def test_a_worker_that_dies_is_reported_and_the_others_go_on(tmp_path, forked):
    def work(i: int, *_: Any) -> None:
        if i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 2:
            os._exit(7)

    outcomes = run(tmp_path, work, 4)
    assert [(outcome.status, outcome.error) for outcome in outcomes] == [
        ("finished", None),
        ("failed", "its process died (exit code -9)"),
        ("failed", "its process died (exit code 7)"),
        ("finished", None),
    ]
    assert all(outcome.run is not None for outcome in outcomes)


def test_a_worker_killed_in_the_middle_of_its_news_blocks_nobody(tmp_path, forked, caplog):
    def work(i: int, run: RunDir, *_: Any) -> None:
        logging.getLogger("a").warning("from %d", i)
        if i == 0:
            with (run.path / NEWS).open("a") as file:
                file.write('{"level": 30, "text": "to')
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)

    outcomes = run(tmp_path, work, 3)
    assert statuses(outcomes) == ["failed", "finished", "finished"]
    shown = sorted(message for message in caplog.messages if "from" in message)
    assert shown == ["job 0: from 0", "job 1: from 1", "job 2: from 2"]
    assert not list(tmp_path.glob(f"runs/*/{NEWS}"))


def test_the_news_of_a_killed_try_are_not_shown_again(tmp_path, forked, caplog):
    def work(i: int, run: RunDir, *_: Any) -> None:
        assert not (run.path / NEWS).exists()

    job = job_doing(tmp_path / "runs", "job 0", partial(work, 0))
    path = prepare(job, [], Place())
    (path / NEWS).write_text('{"level": 30, "text": "of another day"}\n')
    assert statuses(run(tmp_path, work, 1)) == ["finished"]
    assert "of another day" not in caplog.text


def test_interrupting_the_runner_alone_stops_its_workers(tmp_path, forked):
    def work(i: int, run: RunDir, place: Place, stop: Callable[[], bool], *_: Any) -> None:
        (tmp_path / f"begun_{i}").touch()
        wait_until(stop)
        raise Interrupted

    with signal_when(lambda: len(list(tmp_path.glob("begun_*"))) == 2):
        outcomes = run(tmp_path, work, 3)
    assert statuses(outcomes) == ["interrupted"] * 3
    assert [outcome.run is not None for outcome in outcomes] == [True, True, False]


def test_a_terminals_ctrl_c_reaches_runner_and_workers_and_means_one_request(tmp_path, forked, monkeypatch):
    """Also a worker that is just being started, and has not come to handling signals."""

    def work(i: int, run: RunDir, place: Place, stop: Callable[[], bool], *_: Any) -> None:
        wait_until(stop)
        time.sleep(0.3)  # The runner's request comes on top of the terminal's.
        run.update_manifest(asked=True)
        raise Interrupted

    held = workers._held_signals

    @contextlib.contextmanager
    def interrupted_at_start() -> Iterator[None]:
        with held():
            yield
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers, "_held_signals", interrupted_at_start)
    (outcome,) = run(tmp_path, work, 1)
    assert outcome.status == "interrupted" and read_run(outcome.run).manifest["asked"]


def test_interrupting_the_runner_twice_ends_workers_that_do_not_stop(tmp_path, forked):
    def work(i: int, run: RunDir, place: Place, stop: Callable[[], bool], *_: Any) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "begun").touch()
        wait_until(stop)
        (tmp_path / "asked").touch()
        time.sleep(60)

    def interrupt_twice() -> None:
        wait_until((tmp_path / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until((tmp_path / "asked").exists)
        os.kill(os.getpid(), signal.SIGINT)

    start = time.monotonic()
    with meanwhile(interrupt_twice), pytest.raises(KeyboardInterrupt):
        run(tmp_path, work, 1)
    assert time.monotonic() - start < 30
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_workers_of_a_killed_runner_die_with_it(tmp_path, forked):
    def work(i: int, *_: Any) -> None:
        (tmp_path / f"pid_{i}").write_text(str(os.getpid()))
        (tmp_path / f"there_{i}").touch()
        time.sleep(60)

    runner = os.fork()
    if runner == 0:
        os._exit(len(run(tmp_path, work, 2)))
    wait_until(lambda: len(list(tmp_path.glob("there_*"))) == 2)
    pids = [int(file.read_text()) for file in tmp_path.glob("pid_*")]
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)
    wait_until(lambda: not any(map(is_running, pids)), seconds=10)


def test_warnings_and_what_a_job_shows_reach_the_console(tmp_path, forked, caplog):
    """Of a silent job nothing does."""

    def work(i: int, *_: Any) -> None:
        logging.getLogger("a.shown").info("shown %d", i)
        logging.getLogger("a.other").info("not shown %d", i)
        logging.getLogger("a.other").warning("warned %d", i)

    jobs = [
        job_doing(tmp_path, f"job {i}", partial(work, i), shown=("a.shown",), silent=i == 1, log_file=None)
        for i in range(2)
    ]
    with caplog.at_level("INFO"):
        run_jobs(PlanSettings(multiprocess=True), jobs, console=False)
    assert caplog.messages == ["job 0: shown 0", "job 0: warned 0"]


def test_the_bar_of_a_job_follows_its_reports(tmp_path, forked, monkeypatch):
    seen = []
    move_to = Progress.move_to

    def record(bar: Progress, *where: Any) -> None:
        seen.append(where)
        move_to(bar, *where)

    def work(i: int, run: RunDir, place: Place, stop: Any, report: Report) -> None:
        report(3, 10, "loss 0.5")
        report(4, 10, "too soon after the other")
        time.sleep(REPORT_EVERY + 0.1)
        report(7.5, 10)

    monkeypatch.setattr(Progress, "move_to", record)
    run(tmp_path, work, 1)
    assert seen == [(0, 1), (3, 10, "loss 0.5"), (7.5, 10, ""), (1, 1)]  # the plan's own comes first and last


# Dependencies


def diamond(folder: Path, to: int = 3, seconds: float = 0.0) -> list[Job]:
    """Two jobs, one after both, one after the second; the last two make the whole's numbers."""
    first = counting(folder, "first", to, seconds=seconds)
    second = counting(folder, "second", to + 1, seconds=seconds)
    both = counting(folder, "both", to, (first, second), seconds)
    return [both, counting(folder, "after second", to, (second,), seconds), first, second]


def run_diamond(folder: Path, to: int = 3, seconds: float = 0.0) -> list[str]:
    settings = PlanSettings(multiprocess=True, num_parallel=2)
    return [outcome.status for outcome in run_jobs(settings, diamond(folder, to, seconds), console=False)]


EXPECTED = {
    "first": [1, 2, 3],
    "second": [1, 2, 3, 4],
    "both": [7, 14, 21],
    "after second": [4, 8, 12],
}


def test_a_job_starts_when_all_before_it_are_done(tmp_path, forked):
    assert run_diamond(tmp_path) == ["finished"] * 4
    assert values(tmp_path) == EXPECTED
    assert run_diamond(tmp_path) == ["skipped"] * 4


def test_spawned_workers_get_jobs_by_value(tmp_path):
    """As for users: nothing of the runner's memory is there."""
    assert run_diamond(tmp_path) == ["finished"] * 4
    assert values(tmp_path) == EXPECTED


def test_what_needs_a_dead_worker_is_not_run_and_the_others_are(tmp_path, forked):
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    first = job_doing(tmp_path, "first", die)
    jobs = [counting(tmp_path, "second", after=(first,)), counting(tmp_path, "third"), first]
    outcomes = run_jobs(PlanSettings(multiprocess=True, num_parallel=2), jobs, console=False)
    assert [outcome.status for outcome in outcomes] == ["not run", "finished", "failed"]
    assert outcomes[0].error == "needs first, which did not finish"


@pytest.mark.parametrize("moment", [0.1, 0.25, 0.4])
def test_a_runner_killed_with_two_workers_goes_on_to_the_same_values(tmp_path, forked, moment):
    runner = os.fork()
    if runner == 0:
        os._exit(len(run_diamond(tmp_path, seconds=0.05)))
    wait_until(lambda: len(find_runs(tmp_path)) == 2)  # two workers are under way
    time.sleep(moment)
    os.kill(runner, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) == -signal.SIGKILL
    cut = {run.path for run in find_runs(tmp_path)}
    # At once, while its workers may still be ending: their locks are waited for.
    assert set(run_diamond(tmp_path)) <= {"finished", "skipped"}
    assert values(tmp_path) == EXPECTED
    assert cut <= {run.path for run in find_runs(tmp_path)}, "gone on with, not begun anew"
