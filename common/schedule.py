"""Runs jobs: skips the finished, resumes the cut, survives the failing.

    prepare = Job("prepare", hash_of(settings), folder, partial(prepare, settings))
    train = Job("train", hash_of([prepare.identity, lr]), folder, partial(train, lr), after=(prepare,))
    outcomes = run_jobs(PlanSettings(multiprocess=True, num_parallel=2), [prepare, train])

Imports nothing heavy: a job's work imports what it needs, in a process of its own with `multiprocess`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from common.console import StopRequest, progress, stop_request
from common.identity import finished_runs, remove_stillborn
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
    then: Callable[[Job, Outcome], Sequence[Job]] = lambda job, outcome: (),
) -> list[Outcome]:
    """Run `jobs`, each when those it comes `after` are done; returns one outcome each, in their order.

    Of several jobs that are the same work the first is run. fresh: ignore earlier runs; console: bars and log
    lines on the terminal. then: called when a job has ended or was found finished, in this process; the jobs
    that it returns are run as well, and their outcomes come behind the others. Raises KeyboardInterrupt when
    interrupted twice, ValueError: a job comes after one that is not among `jobs`.
    """
    known: dict[JobKey, Job] = {}
    asked: list[Job] = []
    outcomes: dict[JobKey, Outcome] = {}
    found: dict[Path, dict[str, Path]] = {}
    queue = Queue(outcomes)

    def add(more: Sequence[Job]) -> None:
        asked.extend(more)
        new: dict[JobKey, Job] = {}
        for job in more:
            if job.key not in known:
                new.setdefault(job.key, job)
        known.update(new)
        if lost := [job.label for job in more if any(need.key not in known for need in job.after)]:
            raise ValueError(f"they come after jobs that are not to be run: {', '.join(lost)}")
        for job in new.values():
            if job.folder not in found:
                remove_stillborn(job.folder)
                found[job.folder] = {} if fresh else finished_runs(job.folder)
            if finished := found[job.folder].get(job.identity):
                logger.info("%s: finished earlier, skipped (%s)", job.label, finished)
                end(job, Outcome("skipped", finished))
            else:
                queue.add(job)

    def end(job: Job, outcome: Outcome) -> None:
        outcomes[job.key] = outcome
        add(then(job, outcome))

    add(jobs)
    run = in_processes if settings.multiprocess else _in_process
    with (
        stop_request(interrupt_message) as stop,
        progress(len(queue), f"plan {settings.name}", unit="experiment", disable=not console) as bar,
        closing(run(settings, queue, fresh, stop, console)) as ends,
    ):
        bar.move_to(0)
        for done, (job, outcome) in enumerate(ends, start=1):
            # In this process, the job's own log line says so.
            if outcome.status == "failed" and (settings.multiprocess or outcome.run is None):
                logger.error("%s failed: %s", job.label, outcome.error)
            elif outcome.status == "not run":
                logger.error("%s not run: %s", job.label, outcome.error)
            end(job, outcome)
            bar.move_to(done, len(queue))
    return [outcomes.get(job.key, Outcome("interrupted")) for job in asked]


def _in_process(
    settings: PlanSettings, queue: Queue, fresh: bool, stop: StopRequest, console: bool
) -> Generator[tuple[Job, Outcome]]:
    while not stop.requested and (taken := queue.take()):
        job, earlier = taken
        with bar_of(job, 1, console) as bar:
            yield job, job.work(Turn(job, earlier, fresh, console, stop=stop, report=bar.move_to))
        yield from queue.take_hopeless()
