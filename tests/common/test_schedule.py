"""Jobs in one process: order, what is skipped and resumed, what becomes of those that need a failed one."""

import logging
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import in_child, snapshot
from toy_jobs import count, counting, values

from common.jobs import Job, Outcome, Place, do, prepare, read_outcome
from common.plan import PlanSettings
from common.run_dir import RunDir, find_runs, read_run
from common.schedule import run_jobs


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """What a killed process has written needs none."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(*jobs: Job, fresh: bool = False) -> list[Outcome]:
    return run_jobs(PlanSettings(), jobs, fresh, console=False)


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_a_job_gets_the_runs_of_those_before_it_whatever_their_order(tmp_path):
    two, three = counting(tmp_path, "two", 2), counting(tmp_path, "three", 3)
    both = counting(tmp_path, "both", 1, after=(three, two))
    outcomes = run(both, two, three)
    assert statuses(outcomes) == ["finished"] * 3
    assert values(tmp_path) == {"two": [1, 2], "three": [1, 2, 3], "both": [5]}
    names = [outcome.run.name for outcome in outcomes if outcome.run]
    assert read_run(tmp_path / names[0]).manifest["earlier"] == [names[2], names[1]]


def test_again_skips_what_finished_and_fresh_does_not(tmp_path, caplog):
    first = counting(tmp_path, "first")
    jobs = first, counting(tmp_path, "second", after=(first,))
    done, before = run(*jobs), snapshot(tmp_path)
    with caplog.at_level(logging.INFO):
        again = run(*jobs)
    assert again == [replace(outcome, status="skipped") for outcome in done]
    assert snapshot(tmp_path) == before
    assert caplog.text.count("finished earlier, skipped") == 2
    fresh = run(*jobs, fresh=True)
    assert statuses(fresh) == ["finished"] * 2
    assert read_run(fresh[1].run).manifest["earlier"] == [fresh[0].run.name], "not the earlier one's"
    assert len(find_runs(tmp_path)) == 4


def test_a_finished_run_needs_none_of_those_before_it(tmp_path):
    """As when the user has deleted a model that nothing needs any more."""
    first = counting(tmp_path, "first")
    second = counting(tmp_path, "second", after=(first,))
    run(first, second)
    for path in tmp_path.glob("first_*"):
        path.rename(path.with_name("elsewhere"))
        (path.with_name("elsewhere") / "manifest.json").unlink()
    assert statuses(run(first, second)) == ["finished", "skipped"]


def test_what_needs_a_failed_job_is_not_run_and_the_others_are(tmp_path, caplog):
    bad, good = counting(tmp_path, "bad", -1), counting(tmp_path, "good")
    needs_bad = counting(tmp_path, "needs bad", after=(good, bad))
    needs_it_too = counting(tmp_path, "needs it too", after=(needs_bad,))
    needs_good = counting(tmp_path, "needs good", after=(good,))
    outcomes = run(bad, needs_bad, needs_it_too, needs_good, good)
    assert statuses(outcomes) == ["failed", "not run", "not run", "finished", "finished"]
    assert [outcome.error for outcome in outcomes[:3]] == [
        "ValueError: cannot count below 0",
        "needs bad, which did not finish",
        "needs needs bad, which did not finish",
    ]
    assert "needs bad not run: needs bad, which did not finish" in caplog.messages
    assert values(tmp_path).keys() == {"bad", "good", "needs good"}


def test_jobs_that_are_the_same_work_are_run_once(tmp_path):
    first, same = counting(tmp_path, "first"), counting(tmp_path, "same")
    other = counting(tmp_path, "other", after=(same,))
    outcomes = run(first, same, other)
    assert outcomes[0] == outcomes[1] and statuses(outcomes) == ["finished"] * 3
    assert values(tmp_path) == {"first": [1, 2, 3], "other": [3, 6, 9]}
    elsewhere = counting(tmp_path / "elsewhere", "same")
    assert statuses(run(first, elsewhere)) == ["skipped", "finished"], "another folder is another run"


def test_a_job_after_one_that_is_not_to_be_run_is_refused(tmp_path):
    first = counting(tmp_path, "first")
    jobs = counting(tmp_path, "second", after=(first,)), counting(tmp_path, "third", 4)
    with pytest.raises(ValueError, match=r"they come after jobs that are not to be run: second$"):
        run(*jobs)


def test_a_stop_leaves_the_rest_for_another_day(tmp_path):
    def stop_self(run: RunDir, *rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        count(3, 0.0, run, *rest)

    first = replace(counting(tmp_path, "first"), work=stop_self)
    jobs = first, counting(tmp_path, "second", after=(first,)), counting(tmp_path, "third", 4)
    outcomes = run(*jobs)
    assert statuses(outcomes) == ["interrupted"] * 3
    assert outcomes[1:] == [Outcome("interrupted")] * 2
    assert values(tmp_path) == {"first": []}
    jobs = (counting(tmp_path, "first"), *jobs[1:])
    assert statuses(run(*jobs)) == ["finished"] * 3


@pytest.mark.parametrize("label", ["first", "second"])
def test_killed_it_goes_on_to_the_same_values(tmp_path, monkeypatch, label):
    first = counting(tmp_path / "cut", "first", 4)
    jobs = first, counting(tmp_path / "cut", "second", 4, after=(first,))
    append = RunDir.append_metrics

    def append_and_die(run_dir: RunDir, row: dict[str, int]) -> None:
        append(run_dir, row)
        if run_dir.path.name.startswith(label) and row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", append_and_die)
        assert in_child(lambda: run(*jobs) and 0) == -signal.SIGKILL
    assert statuses(run(*jobs))[1] == "finished"
    assert values(tmp_path / "cut") == {"first": [1, 2, 3, 4], "second": [4, 8, 12, 16]}


def test_an_executor_that_fails_is_no_outcome(tmp_path, monkeypatch):
    """What does not come from a job's work is a mistake of ours, to be seen with its traceback."""

    def execute(*_: Any, **__: Any) -> Outcome:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("common.executors.run_here", execute)
    monkeypatch.setattr("common.executors.run_in_process", execute)
    for multiprocess in (False, True):
        with pytest.raises(ZeroDivisionError, match="here"):
            run_jobs(PlanSettings(multiprocess=multiprocess), [counting(tmp_path, "x")], console=False)


def test_unexpected_errors_have_their_traceback_in_the_log(tmp_path):
    (failed,) = run(counting(tmp_path, "bad", -1))
    assert failed.run is not None
    log = (failed.run / "log.txt").read_text()
    assert "bad failed: cannot count below 0" in log and "Traceback" in log


def test_a_folder_that_cannot_be_made_fails_its_job_alone(tmp_path):
    outcomes = run(counting(tmp_path, "x" * 300), counting(tmp_path, "good", 2))
    assert statuses(outcomes) == ["failed", "finished"]
    assert outcomes[0] == Outcome("failed", None, outcomes[0].error)
    assert "File name too long" in str(outcomes[0].error)


def test_jobs_may_be_added_when_one_has_ended(tmp_path):
    first, second = counting(tmp_path, "first", 2), counting(tmp_path, "second", 1)
    third = counting(tmp_path, "third", 3, after=(first,))
    more = {first.key: [third, second], third.key: [counting(tmp_path, "fourth", 4)]}
    ended = []

    def then(job: Job, outcome: Outcome) -> list[Job]:
        ended.append((job.label, outcome.status))
        return more.get(job.key, [])

    def run_all(multiprocess: bool) -> list[Outcome]:
        settings = PlanSettings(multiprocess=multiprocess, num_parallel=2)
        return run_jobs(settings, [first, second], console=False, then=then)

    outcomes = run_all(multiprocess=False)
    assert statuses(outcomes) == ["finished"] * 5
    names = [outcome.run.name.split("_")[0] for outcome in outcomes if outcome.run]
    assert names == ["first", "second", "third", "second", "fourth"]
    assert values(tmp_path) == {"first": [1, 2], "second": [1], "third": [2, 4, 6], "fourth": [1, 2, 3, 4]}
    assert ended == [(name, "finished") for name in ("first", "second", "third", "fourth")]
    ended.clear()
    again = run_all(multiprocess=True)
    assert statuses(again) == ["skipped"] * 5 and len(ended) == 4


def test_added_jobs_run_in_processes_too(tmp_path):
    first = counting(tmp_path, "first", 2)
    third = counting(tmp_path, "third", 3, after=(first,))
    outcomes = run_jobs(
        PlanSettings(multiprocess=True, num_parallel=2),
        [first],
        console=False,
        then=lambda job, outcome: [third] if job is first else [],
    )
    assert statuses(outcomes) == ["finished"] * 2
    assert values(tmp_path)["third"] == [2, 4, 6]


def test_no_jobs():
    assert run_jobs(PlanSettings(), [], console=False) == []
    assert run_jobs(PlanSettings(multiprocess=True), [], console=False) == []


def test_a_job_can_be_run_by_itself(tmp_path):
    """As a scheduler on another machine does: its directory made here, the work done there."""
    job = pickle.loads(pickle.dumps(counting(tmp_path, "alone")))
    path = prepare(job, [], Place())
    assert isinstance(path, Path) and read_outcome(path, "cut").error == "cut"
    reports: list[float] = []
    do(job, path, Place(), report=reports.append, console=False)
    assert read_outcome(path) == Outcome("finished", path)
    assert reports == [1, 2, 3]
    assert prepare(job, [], Place()) == Outcome("skipped", path)
