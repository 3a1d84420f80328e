"""How far a plan is said to be, and how long it is said to take."""

import io
import logging
import re
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from toy_jobs import count, counting, job_doing

import common.schedule
from common.console import progress, setup_logging
from common.errors import Interrupted
from common.jobs import Job, Outcome
from common.outlook import Running, Series, estimate, show_outlook
from common.plan import PlanSettings
from common.schedule import run_jobs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def job(kind: str) -> Job:
    return job_doing(Path("runs"), kind, count, kind=kind)


def running(kind: str, since: float, done: float = 0, of: float = 100) -> Running:
    """Begun `since` seconds ago, with a pace if some steps are done."""
    bar = progress(of, kind, disable=True)
    bar._start = time.monotonic() - since
    bar.n = done
    return Running(job(kind), start=time.monotonic() - since, bar=bar)


def test_left_is_by_the_pace_of_what_runs_and_by_what_others_of_the_kind_took(clock):
    series = Series(seconds={"sft": [8.0, 12.0], "rft": [100.0]})
    assert estimate(series, [], [job("sft"), job("sft"), job("rft")], places=1) == 120
    assert estimate(series, [], [job("rft"), job("sft"), job("sft")], places=2) == 100
    # A quarter done in 30 seconds, whatever others took; 4 of about 10 seconds gone without a pace.
    assert estimate(series, [running("rft", 30, done=25)], [], places=2) == 90
    assert estimate(series, [running("sft", 4)], [job("sft")], places=1) == 6 + 10
    assert estimate(series, [running("sft", 40)], [], places=1) == 0, "late, but not for longer than no time"


def test_without_a_basis_nothing_is_said(clock):
    assert estimate(Series(), [], [job("sft")], places=1) is None
    assert estimate(Series(seconds={"sft": [9.0]}), [], [job("sft"), job("rft")], places=1) is None
    assert estimate(Series(), [running("sft", 5)], [], places=1) is None
    # What runs is the basis for what is like it.
    assert estimate(Series(), [running("sft", 30, done=50)], [job("sft")], places=1) == 30 + 60


def shown(series: Series, items: list[Running], waiting: list[Job], places: int = 1) -> str:
    with progress(len(waiting), "plan p", unit="experiment", disable=True, is_paced=False) as bar:
        show_outlook(bar, series, items, waiting, places)
        return bar._line(time.monotonic())


def test_what_a_plan_says(clock):
    series = Series(ended=2, seconds={"sft": [10.0]})
    assert shown(series, [running("sft", 4)], [job("sft")]) == "plan p: 2/4 experiments, about 00:16 left"
    series.failed = 1
    assert shown(series, [], [job("rft")]) == "plan p: 2/3 experiments, 1 failed"
    series = Series(foreseen=18, ended=2, seconds={"sft": [10.0]})
    assert shown(series, [], [job("sft")]) == "plan p: 2/18 experiments, at least 00:10 left"
    assert shown(Series(ended=3), [], []) == "plan p: 3/3 experiments"


def test_two_at_a_time_the_last_seconds_are_seconds(clock):
    """One of two jobs of 213 seconds has ended two seconds before the other."""
    series = Series(ended=1, seconds={"a": [211.0]})
    line = shown(series, [running("a", 211, done=99, of=100)], [], places=2)
    assert line == "plan p: 1/2 experiments, about 00:02 left"


def test_a_job_that_is_late_or_past_its_last_step_is_not_said_to_end_in_no_time(clock):
    series = Series(ended=1, seconds={"sft": [10.0]})
    for item in (running("sft", 40), running("sft", 40, done=100)):
        assert shown(series, [item], []) == "plan p: 1/2 experiments"


def test_an_interrupted_job_has_not_ended_and_stays_in_the_total(clock):
    series = Series()
    for name, status in (("a", "finished"), ("b", "interrupted"), ("c", "failed")):
        series.count(job(name), Outcome(status))
    assert shown(series, [], []) == "plan p: 2/3 experiments, 1 failed"


def test_bar_of_a_plan_has_no_rate():
    with redirect_stderr(Terminal()) as terminal:
        with progress(3, "plan p", unit="experiment", is_paced=False) as bar:
            bar.show("about 00:10 left")
            bar.move_to(1)
            bar.refresh()
    last = re.split(r"[\r\n]+", terminal.getvalue().strip())[-1]
    assert re.search(r"plan p:  33%\|.*\| 1/3 \[00:00, about 00:10 left\]", last)
    assert "/s" not in terminal.getvalue() and "s/" not in terminal.getvalue()


def totals(monkeypatch) -> list[tuple[float, float]]:
    """What the plan's bar stands at from now on."""
    seen = []
    whole = common.schedule.show_outlook

    def spy(bar, *rest):
        whole(bar, *rest)
        seen.append((bar.n, bar._steps))

    monkeypatch.setattr(common.schedule, "show_outlook", spy)
    return seen


def test_totals_of_a_series_are_known_at_the_start_and_what_it_did_is_not_skipped(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    first, second, third = (counting(tmp_path, name, seed=i) for i, name in enumerate("abc"))
    run_jobs(PlanSettings(), [third], console=False)
    seen = totals(monkeypatch)
    series = Series(foreseen=2)
    run_jobs(PlanSettings(), [first], console=False, series=series)
    run_jobs(PlanSettings(), [first, second, third], console=False, series=series)
    assert {total for _, total in seen} == {2}
    assert [ended for ended, _ in seen] == [0, 1, 1, 2]
    assert [record.args[0] for record in caplog.records if "skipped" in record.msg] == ["c"]
    assert set(series.seconds) == {""} and len(series.seconds[""]) == 2


def test_an_interrupted_plan_does_not_say_that_all_is_done(tmp_path, monkeypatch):
    def interrupt(run, place, stop, report):
        raise Interrupted

    seen = totals(monkeypatch)
    jobs = [counting(tmp_path, "a"), job_doing(tmp_path, "b", interrupt)]
    outcomes = run_jobs(PlanSettings(), jobs, console=False)
    assert [outcome.status for outcome in outcomes] == ["finished", "interrupted"]
    assert seen[-1] == (1, 2)


def test_a_resumed_job_says_nothing_about_its_kind(tmp_path):
    def interrupt_once(run, place, stop, report):
        if not (run.path / "tried").exists():
            (run.path / "tried").touch()
            raise Interrupted

    job = job_doing(tmp_path, "a", interrupt_once, kind="a")
    series = Series()
    run_jobs(PlanSettings(), [job], console=False, series=series)
    (outcome,) = run_jobs(PlanSettings(), [job], console=False, series=series)
    assert outcome.status == "finished" and not series.seconds


def test_lines_without_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common.schedule, "SHOW_EVERY", 0)
    settings = PlanSettings(name="p")
    with setup_logging(console=True):
        monkeypatch.setattr("common.console.Progress.update", _log_each(common.console.Progress.update))
        run_jobs(settings, [counting(tmp_path, name, seed=i) for i, name in enumerate("ab")])
    lines = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines() if "plan p" in line]
    assert lines[-1] == "plan p: 2/2 experiments"
    assert "plan p: 1/2 experiments" in lines


def _log_each(update):
    def update_and_log(bar, n=1):
        bar._log_every = 0
        return update(bar, n)

    return update_and_log
