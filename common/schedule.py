"""Runs jobs: skips the finished, resumes the cut, survives the failing.

    prepare = Job("prepare", hash_of(settings), folder, partial(create, settings), partial(prepare, settings))
    train = Job("train", hash_of([prepare.identity, lr]), folder, ..., after=(prepare,))
    outcomes = run_jobs(PlanSettings(multiprocess=True, num_parallel=2), [prepare, train])

Imports nothing heavy: a job's work imports what it needs, in a process of its own with `multiprocess`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from common.console import progress, stop_request
from common.identity import finished_runs, remove_incomplete_runs
from common.jobs import Job, JobKey, Outcome, Place, prepare
from common.plan import PlanSettings
from common.workers import LOOK_EVERY, Executor, in_own_process, in_this_process, preload

logger = logging.getLogger(__name__)
Then = Callable[[Job, Outcome], Sequence[Job]]


def run_jobs(
    settings: PlanSettings,
    jobs: Sequence[Job],
    fresh: bool = False,
    console: bool = True,
    interrupt_message: str = "stopping; press Ctrl-C again to stop at once",
    then: Then = lambda job, outcome: (),
) -> list[Outcome]:
    """Run `jobs`, each when those it comes `after` are done; returns one outcome each, in their order.

    Of several jobs that are the same work the first is run. fresh: ignore earlier runs; console: bars and log
    lines on the terminal. then: called when a job has ended or was found finished, in this process; the jobs
    that it returns are run as well, and their outcomes come behind the others. Raises KeyboardInterrupt when
    interrupted twice, ValueError: a job comes after one that is not among `jobs`.
    """
    plan = _Jobs(fresh, then)
    plan.add(jobs)
    if settings.multiprocess:
        execute: Executor = in_own_process
        gpus: Sequence[int | None] = settings.gpu_ids_pool or [None] * settings.num_parallel
        places = [Place(gpu, settings.num_parallel) for gpu in gpus[: settings.num_parallel]]
        if plan.waiting:
            preload(sorted({module for job in plan.waiting for module in job.imports}))
    else:
        execute, places = partial(in_this_process, console=console), [Place()]
    free = list(range(len(places)))
    running: dict[Future[Outcome], tuple[Job, int]] = {}

    def run(job: Job, earlier: Sequence[Path], number: int) -> Outcome:
        run_path = prepare(job, earlier, places[number], fresh)
        if isinstance(run_path, Outcome):
            return run_path
        hidden = not console or job.silent
        with progress(job.steps, job.label, number + 1, disable=hidden, unit=job.unit) as job_bar:
            return execute(job, run_path, places[number], stop, job_bar)

    with (
        stop_request(interrupt_message) as stop,
        progress(plan.count, f"plan {settings.name}", unit="experiment", disable=not console) as bar,
        ThreadPoolExecutor(len(places)) as pool,
    ):
        bar.move_to(0)
        try:
            while True:
                while free and not stop.requested and (ready := plan.take_ready()):
                    number = free.pop(0)
                    if settings.multiprocess:
                        future = pool.submit(run, *ready, number)
                    else:  # in the main thread, which Ctrl-C interrupts
                        future = Future()
                        future.set_result(run(*ready, number))
                    running[future] = ready[0], number
                if not running:
                    break
                for future in wait(running, LOOK_EVERY, FIRST_COMPLETED).done:
                    job, number = running.pop(future)
                    free.insert(0, number)
                    outcome = future.result()
                    # In this process, the job's own log line says so.
                    if outcome.status == "failed" and (settings.multiprocess or outcome.run is None):
                        logger.error("%s failed: %s", job.label, outcome.error)
                    plan.end(job, outcome)
                    bar.move_to(plan.num_ended, plan.count)
        except BaseException:
            stop.at_once = True  # else Python would wait for the jobs under way
            raise
    return [plan.outcomes.get(job.key, Outcome("interrupted")) for job in plan.asked]


class _Jobs:
    """The jobs of a plan: those that wait, and how the others ended.

    asked: all, in the order of the outcomes. count, num_ended: of those that were not found finished.
    """

    def __init__(self, fresh: bool, then: Then) -> None:
        self.asked: list[Job] = []
        self.waiting: list[Job] = []
        self.outcomes: dict[JobKey, Outcome] = {}
        self.count = self.num_ended = 0
        self._known: set[JobKey] = set()
        self._finished: dict[Path, dict[str, Path]] = {}
        self._fresh, self._then = fresh, then

    def add(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait, or find them finished. Raises ValueError: one comes after one that was not added."""
        self.asked += jobs
        new = {job.key: job for job in reversed(jobs) if job.key not in self._known}
        self._known |= new.keys()
        if lost := [job.label for job in jobs if any(need.key not in self._known for need in job.after)]:
            raise ValueError(f"they come after jobs that are not to be run: {', '.join(lost)}")
        for job in reversed(new.values()):
            if job.folder not in self._finished:
                remove_incomplete_runs(job.folder)
                self._finished[job.folder] = {} if self._fresh else finished_runs(job.folder)
            if run := self._finished[job.folder].get(job.identity):
                logger.info("%s: finished earlier, skipped (%s)", job.label, run)
                self._record(job, Outcome("skipped", run))
            else:
                self.waiting.append(job)
                self.count += 1

    def take_ready(self) -> tuple[Job, list[Path]] | None:
        """The first job that can start, with the runs of those it comes after; None if all have to wait."""
        for job in self.waiting:
            before = [self.outcomes.get(need.key) for need in job.after]
            if all(outcome is not None and outcome.is_done for outcome in before):
                self.waiting.remove(job)
                return job, [outcome.run for outcome in before if outcome is not None and outcome.run]
        return None

    def end(self, job: Job, outcome: Outcome) -> None:
        """Note how a job ended, and what follows from it for those that come after it."""
        ended = [(job, outcome)]
        while ended:
            job, outcome = ended.pop(0)
            if outcome.status == "not run":
                logger.error("%s not run: %s", job.label, outcome.error)
            self.num_ended += 1
            self._record(job, outcome)
            for other in list(self.waiting):
                if (blocked := self._blocked(other)) is not None:
                    self.waiting.remove(other)
                    ended.append((other, blocked))

    def _blocked(self, job: Job) -> Outcome | None:
        """The outcome of a job that cannot be run, since one before it failed or was stopped."""
        before = {need.label: self.outcomes[need.key] for need in job.after if need.key in self.outcomes}
        if lost := [label for label, outcome in before.items() if outcome.status in ("failed", "not run")]:
            return Outcome("not run", error=f"needs {', '.join(lost)}, which did not finish")
        return Outcome("interrupted") if any(o.status == "interrupted" for o in before.values()) else None

    def _record(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.key] = outcome
        self.add(self._then(job, outcome))
