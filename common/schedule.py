"""Runs jobs: skips the finished, resumes the cut, survives the failing.

    prepare = Job("prepare", hash_of(settings), folder, partial(prepare, settings))
    train = Job("train", hash_of([prepare.identity, lr]), folder, partial(train, lr), after=(prepare,))
    outcomes = run_jobs(PlanSettings(multiprocess=True, num_parallel=2), [prepare, train])

Imports nothing heavy: a job's work imports what it needs, in a process of its own with `multiprocess`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from common.console import progress
from common.identity import earlier_runs, remove_stillborn
from common.interrupts import StopRequest, stop_request
from common.jobs import Job, JobKey, Outcome, Queue, Turn, carry_out
from common.plan import PlanSettings
from common.workers import bar_of, in_processes

__all__ = ["Job", "Outcome", "Turn", "carry_out", "run_jobs"]

logger = logging.getLogger(__name__)


def run_jobs(
    settings: PlanSettings,
    jobs: Sequence[Job],
    fresh: bool = False,
    console: bool = True,
    interrupt_message: str = "stopping; press Ctrl-C again to stop at once",
) -> list[Outcome]:
    """Run `jobs`, each when those it comes `after` are done; returns one outcome each, in their order.

    Of several jobs that are the same work the first is run. fresh: ignore earlier runs; console: bars and log
    lines on the terminal. Raises KeyboardInterrupt when interrupted twice, ValueError: a job comes after one
    that is not among `jobs`.
    """
    distinct: dict[JobKey, Job] = {}
    for job in jobs:
        distinct.setdefault(job.key, job)
    if lost := [job.label for job in jobs if any(need.key not in distinct for need in job.after)]:
        raise ValueError(f"they come after jobs that are not to be run: {', '.join(lost)}")
    outcomes: dict[JobKey, Outcome] = {}
    to_run: list[Job] = []
    folders = {job.folder for job in jobs}
    for folder in folders:
        remove_stillborn(folder)
    found = {} if fresh else {folder: earlier_runs(folder) for folder in folders}
    for job in distinct.values():
        earlier = found.get(job.folder, {}).get(job.identity)
        if earlier is not None and earlier.manifest.get("status") == "finished":
            logger.info("%s: finished earlier, skipped (%s)", job.label, earlier.path)
            outcomes[job.key] = Outcome("skipped", earlier.path)
        else:
            to_run.append(job)
    queue = Queue(to_run, outcomes)
    with (
        stop_request(interrupt_message) as stop,
        progress(len(to_run), f"plan {settings.name}", unit="experiment", disable=not console) as bar,
    ):
        run = in_processes if settings.multiprocess else _in_process
        for job, outcome in run(settings, queue, fresh, stop, console):
            outcomes[job.key] = outcome
            bar.update(1)
            # In this process, the job's own log line says so.
            if outcome.status == "failed" and (settings.multiprocess or outcome.run is None):
                logger.error("%s failed: %s", job.label, outcome.error)
            elif outcome.status == "not run":
                logger.error("%s not run: %s", job.label, outcome.error)
    return [outcomes.get(job.key, Outcome("interrupted")) for job in jobs]


def _in_process(
    settings: PlanSettings, queue: Queue, fresh: bool, stop: StopRequest, console: bool
) -> Iterator[tuple[Job, Outcome]]:
    while not stop.requested and (taken := queue.take()):
        job, earlier = taken
        with bar_of(job, 1, console) as bar:
            yield job, job.work(Turn(job, earlier, fresh, console, stop=stop, report=bar.move_to))
        yield from queue.take_hopeless()
