"""How far a plan is: how many of its jobs have ended, how long the others take where that is known."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.console import Progress, format_seconds
from common.jobs import Job, JobKey, Outcome


@dataclass
class Series:
    """Jobs that several calls of `run_jobs` run, one series for the user.

    foreseen: how many there are at least, in all calls; ended, failed, cut (interrupted): of them; here:
    those done by these calls; seconds: kind of job -> what each took.
    """

    foreseen: int = 0
    ended: int = 0
    failed: int = 0
    cut: int = 0
    here: set[JobKey] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def count(self, job: Job, outcome: Outcome) -> None:
        """Count a job that has ended; an interrupted one has not."""
        if outcome.status == "interrupted":
            self.cut += 1
            return
        self.ended += 1
        self.failed += outcome.status in ("failed", "not run")
        self.here.add(job.key)


@dataclass
class Running:
    """A job under way. bar: of its steps, once it has one; is_new: not gone on with from an earlier try."""

    job: Job
    is_new: bool = True
    start: float = field(default_factory=lambda: time.monotonic())
    bar: Progress | None = None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.start

    def end(self, series: Series, outcome: Outcome) -> None:
        """Keep how long it took, for the next of its kind."""
        if outcome.status == "finished" and self.is_new:
            series.seconds.setdefault(self.job.kind, []).append(self.seconds)


def show_outlook(
    bar: Progress, series: Series, running: Sequence[Running], waiting: Sequence[Job], places: int
) -> None:
    """Let a plan's bar say how many jobs there are, how many failed, and how long the others may take."""
    known = series.ended + series.cut + len(running) + len(waiting)
    left = estimate(series, running, waiting, places)
    is_all = series.foreseen <= known
    parts = [f"{series.failed} failed"] if series.failed else []
    # A job that is late, or draws its figures after its last step, is not done in no time.
    if left is not None and left >= 1 and (running or waiting):
        parts.append(f"{'about' if is_all else 'at least'} {format_seconds(left)} left")
    bar.show(", ".join(parts))
    bar.move_to(series.ended, max(series.foreseen, known))
    bar.refresh()


def estimate(series: Series, running: Sequence[Running], waiting: Sequence[Job], places: int) -> float | None:
    """Seconds until all is done, `places` at a time; None where one of the jobs gives no basis to tell.

    A running job's is its own pace, or what others of its kind took; a waiting one's what these took, or what
    a running one of its kind is going to take.
    """
    whole = {kind: statistics.fmean(seconds) for kind, seconds in series.seconds.items()}
    ends = []
    for item in running:
        left = item.bar.seconds_left if item.bar is not None else None
        if left is None and item.job.kind in whole:
            left = max(0.0, whole[item.job.kind] - item.seconds)
        if left is None:
            return None
        ends.append(left)
        whole.setdefault(item.job.kind, item.seconds + left)
    ends += [0.0] * (places - len(ends))
    heapq.heapify(ends)
    for job in waiting:
        if job.kind not in whole:
            return None
        heapq.heappush(ends, heapq.heappop(ends) + whole[job.kind])
    return max(ends)
