"""Runs jobs: skips the finished, resumes the cut, survives the failing.

    prepare = Job("prepare", hash_of(settings), folder, partial(create, settings), partial(prepare, settings))
    train = Job("train", hash_of([prepare.identity, lr]), folder, ..., after=(prepare,))
    outcomes = run_jobs(PlanSettings(multiprocess=True, num_parallel=2), [prepare, train])

Imports nothing heavy: a job's work imports what it needs, in a process of its own with `multiprocess`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

from common.console import progress, stop_request
from common.executors import choose_executor
from common.identity import RunIndex, finished_runs, remove_incomplete_runs
from common.jobs import Job, JobKey, Outcome, Place, prepare
from common.outlook import Running, Series, show_outlook
from common.plan import PlanSettings
from common.run_dir import read_run
from common.workers import LOOK_EVERY

logger = logging.getLogger(__name__)
SHOW_EVERY = 5  # seconds


def run_jobs(
    settings: PlanSettings,
    jobs: Sequence[Job],
    fresh: bool = False,
    console: bool = True,
    interrupt_message: str = "stopping; press Ctrl-C again to stop at once",
    then: Callable[[Job, Outcome], Sequence[Job]] = lambda job, outcome: (),
    series: Series | None = None,
) -> list[Outcome]:
    """Run `jobs`, each when those it comes `after` are done; returns one outcome each, in their order.

    Of several jobs that are the same work the first is run. fresh: ignore earlier runs; console: bars and log
    lines on the terminal. then: called when a job has ended or was found finished, in this process; the jobs
    that it returns are run as well, and their outcomes come behind the others. series: of the calls that this
    one is part of; what an earlier one of them did is not said to be skipped. Raises KeyboardInterrupt when
    interrupted twice, ValueError: a job comes after one that is not among `jobs`.
    """
    asked: list[Job] = []
    waiting: list[Job] = []
    running: dict[Future[Outcome], tuple[Running, Place]] = {}
    series = series or Series()
    outcomes: dict[JobKey, Outcome] = {}
    finished: dict[Path, dict[str, Path]] = {}  # by an earlier plan: folder -> identity -> run
    indexes: dict[Path, RunIndex] = {}

    def add_jobs(jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        known = {job.key for job in asked}
        new = {job.key: job for job in jobs[::-1] if job.key not in known}  # the first of the same work
        known |= new.keys()
        if lost := [job.label for job in jobs if any(need.key not in known for need in job.after)]:
            raise ValueError(f"they come after jobs that are not to be run: {', '.join(lost)}")
        asked.extend(jobs)
        for job in [job for job in jobs if new.get(job.key) is job]:
            if job.folder not in finished:
                remove_incomplete_runs(job.folder)
                indexes[job.folder] = RunIndex(job.folder)
                finished[job.folder] = {} if fresh else finished_runs(job.folder)
            if path := finished[job.folder].get(job.identity):
                if job.key not in series.here:
                    logger.info("%s: finished earlier, skipped (%s)", job.label, path)
                outcomes[job.key] = Outcome("skipped", path)
                add_jobs(then(job, outcomes[job.key]))
            else:
                waiting.append(job)

    def run_job(item: Running, place: Place) -> Outcome:
        job = item.job
        earlier = [run for need in job.after if (run := outcomes[need.key].run) is not None]
        path = prepare(job, earlier, place, fresh, indexes[job.folder], executor.is_under_way)
        if isinstance(path, Outcome):
            return path
        manifest = read_run(path).manifest
        item.is_new = manifest["updated"] == manifest["created"]
        hidden = not console or job.silent
        with progress(job.steps, job.label, place.number, disable=hidden, unit=job.unit) as item.bar:
            return executor.run(job, path, place, stop, item.bar)

    def end_job(job: Job, outcome: Outcome) -> None:
        has_said = outcome.status == "failed" and executor.is_here and outcome.run is not None
        if outcome.status in ("failed", "not run") and not has_said:
            logger.error("%s %s: %s", job.label, outcome.status, outcome.error)
        outcomes[job.key] = outcome
        series.count(job, outcome)
        add_jobs(then(job, outcome))
        show()

    def show() -> None:
        show_outlook(bar, series, [item for item, _ in running.values()], waiting, places)

    add_jobs(jobs)
    executor = choose_executor(settings, waiting, console)
    free = [*executor.places]
    places = len(free)
    with (
        stop_request(interrupt_message) as stop,
        progress(
            len(waiting), f"plan {settings.name}", unit="experiment", disable=not console, is_paced=False
        ) as bar,
        ThreadPoolExecutor(len(free)) as pool,
    ):
        submit = _call if executor.is_here else pool.submit
        show()
        shown = time.monotonic()
        try:
            while True:
                while dead := next(
                    ((job, end) for job in waiting if job.after and (end := check_blocked(job, outcomes))),
                    None,
                ):
                    waiting.remove(dead[0])
                    end_job(*dead)
                can_start = not stop.requested
                ready = list(
                    islice((job for job in waiting if is_ready(job, outcomes)), len(free) * can_start)
                )
                for job, place in zip(ready, list(free), strict=False):
                    waiting.remove(job)
                    free.remove(place)
                    item = Running(job)
                    running[submit(run_job, item, place)] = item, place
                if not running:
                    break
                for future in wait(running, LOOK_EVERY, FIRST_COMPLETED).done:
                    item, place = running.pop(future)
                    free.insert(0, place)
                    item.end(series, future.result())
                    end_job(item.job, future.result())
                if time.monotonic() - shown > SHOW_EVERY:
                    shown = time.monotonic()
                    show()
        except BaseException:
            stop.at_once = True  # else Python would wait for the jobs under way
            raise
    return [outcomes.get(job.key, Outcome("interrupted")) for job in asked]


def is_ready(job: Job, outcomes: Mapping[JobKey, Outcome]) -> bool:
    """Whether all jobs that it comes after are done."""
    return all(need.key in outcomes and outcomes[need.key].is_done for need in job.after)


def check_blocked(job: Job, outcomes: Mapping[JobKey, Outcome]) -> Outcome | None:
    """The outcome of a job that cannot be run, since one that it comes after failed or was stopped."""
    before = [(need.label, outcomes[need.key].status) for need in job.after if need.key in outcomes]
    if lost := [label for label, status in before if status in ("failed", "not run")]:
        return Outcome("not run", error=f"needs {', '.join(lost)}, which did not finish")
    return Outcome("interrupted") if any(status == "interrupted" for _, status in before) else None


def _call(function: Callable[..., Outcome], *arguments: Any) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(function(*arguments))
    return future
