"""Doing a job on this machine: in this process, or in one of its own (`common.executors` chooses)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import FrameType
from typing import Literal, cast

import common.process
from common.console import Progress, StopRequest, is_ours
from common.files import RunError
from common.jobs import Job, Outcome, Place, do, read_outcome

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
NEWS = ".progress"
LOOK_EVERY, REPORT_EVERY = 0.2, 0.5  # seconds
_starting = threading.Lock()  # multiprocessing reads the exit codes of all children when it starts one


def run_here(
    job: Job, run: Path, place: Place, stop: StopRequest, bar: Progress, console: bool = True
) -> Outcome:
    """Do a job here, in the main thread. console: see `do`."""
    (run / NEWS).unlink(missing_ok=True)  # of an earlier try that was killed in a process of its own
    try:
        do(job, run, place, stop, bar.move_to, console)
    except Exception as error:
        return Outcome("failed", error=str(error))
    return read_outcome(run)


def run_in_process(job: Job, run: Path, place: Place, stop: StopRequest, bar: Progress) -> Outcome:
    """Do a job in a process that is started for it, and never left behind."""
    context = cast(ForkServerContext | SpawnContext, multiprocessing.get_context(start_method()))
    process = context.Process(target=_work, args=(job, run, place), name=job.label)
    (run / NEWS).unlink(missing_ok=True)  # of an earlier try that was killed
    shown, is_told = 0, False
    with _starting, _held_signals():
        process.start()
    try:
        while not stop.at_once and not wait([process.sentinel], LOOK_EVERY):
            shown = show_news(run / NEWS, shown, job, bar)
            if stop.requested and not is_told:
                is_told = True
                process.terminate()
    finally:
        if not wait([process.sentinel], 0):
            process.kill()
        with _starting:
            process.join()
    show_news(run / NEWS, shown, job, bar)
    (run / NEWS).unlink(missing_ok=True)
    return read_outcome(run, f"its process died (exit code {process.exitcode})")


def start_method() -> Literal["forkserver", "spawn"]:
    """How to start a worker: forked from a server that has imported what jobs need, or from nothing.

    The server saves each of a hundred short jobs some ten seconds. But CUDA cannot be used in a process whose
    parent has so much as counted the GPUs, which imports may do, and macOS's libraries bear no fork.
    """
    gpus = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))
    return "forkserver" if sys.platform == "linux" and not gpus else "spawn"


def preload(modules: Sequence[str]) -> None:
    """Let the server import these before its first job, when what runs first needs less than what follows.

    It imports what it is told when it starts, once, and works on while this process does. Of jobs that start
    from nothing (`start_method`) each imports its own.
    """
    context = multiprocessing.get_context(start_method())
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload(list(modules))
        with _held_signals():
            forkserver.ensure_running()


@contextmanager
def _held_signals() -> Iterator[None]:
    """Signals to stop wait for the end of the block; a process started in it holds them until it is ready.

    So does the server that workers are forked from, until its end, which is that of this process.
    """
    resource_tracker.ensure_running()  # Else it starts within the block, and lets the signals through.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _work(job: Job, run: Path, place: Place) -> None:
    """Body of a worker process."""
    common.process.prepare()
    stop = StopRequest()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    # Ctrl-C comes from the terminal, from the runner, or from both: once or twice, it asks to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, request_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        do_unseen(job, run, place, stop)
    except (RunError, OSError) as error:  # such as another runner that has taken the run meanwhile
        sys.exit(f"{job.label}: {error}")


def do_unseen(job: Job, run: Path, place: Place, stop: Callable[[], bool]) -> None:
    """Do a job where the console is not the runner's: what it is to show is written into the run."""
    news = NewsWriter(run / NEWS, job.shown)
    logging.getLogger().addHandler(news)
    do(job, run, place, stop, news.report, console=False)


def _die_with_parent() -> None:
    """A killed runner leaves no worker behind: its lock would keep the run from being resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class NewsWriter(logging.Handler):
    """Writes a run's news, rows of JSON: steps done, warnings, and what loggers in `shown` have to say."""

    def __init__(self, path: Path, shown: Sequence[str] = ()) -> None:
        super().__init__()
        self.addFilter(is_ours)
        self._path, self._shown = path, shown
        self._last_report = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING or record.name in self._shown:
            self._write({"level": record.levelno, "text": record.getMessage()})

    def report(self, steps: float, total: float | None = None, status: str = "") -> None:
        """Let the bar stand at `steps` (of `total`), with a few words on how it goes."""
        if (now := time.monotonic()) - self._last_report > REPORT_EVERY:
            self._last_report = now
            self._write({"steps": steps, "total": total, "status": status})

    def _write(self, row: dict[str, object]) -> None:
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:  # news end no run
            file.write(json.dumps(row) + "\n")


def show_news(path: Path, start: int, job: Job, bar: Progress) -> int:
    """Move the bar to where a run is, and log what it has to say unless the job is silent.

    start: where in the file of news to begin; returns where the next ones do. A torn last row is not read.
    """
    if not path.exists():
        return start
    with path.open("rb") as file:
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    for row in map(json.loads, whole.splitlines()):
        if "steps" in row:
            bar.move_to(row["steps"], row["total"], row["status"])
        elif not job.silent:
            logger.log(row["level"], "%s: %s", job.label, row["text"])
    return start + len(whole + newline)
