"""Jobs in processes of their own: started, watched, stopped, never left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Literal, cast

import common.process
from common.console import Progress, StopRequest, is_ours, progress
from common.jobs import Job, Outcome, Queue, Turn
from common.plan import PlanSettings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bar_of(job: Job, position: int, console: bool) -> Progress:
    """The bar of a job under way; see common.console.progress."""
    hidden = not console or job.silent
    return progress(job.steps, job.label, position=position, disable=hidden, unit=job.unit)


@dataclass
class _Worker:
    job: Job
    process: BaseProcess
    gpu: int | None
    bar: Progress
    position: int


def in_processes(
    settings: PlanSettings, queue: Queue, fresh: bool, stop: StopRequest, console: bool
) -> Generator[tuple[Job, Outcome]]:
    """One process per job, at most `num_parallel` at a time, GPUs handed out from the pool.

    Each has a pipe of its own: a worker that is killed in the middle of a message, or of waiting for a lock,
    keeps no other from reporting.
    """
    context = cast(ForkServerContext | SpawnContext, multiprocessing.get_context(start_method()))
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload(queue.imports())
    running: dict[Connection, _Worker] = {}
    free_gpus = list(settings.gpu_ids_pool)
    positions = list(range(1, settings.num_parallel + 1))
    told_to_stop = False
    try:
        while True:
            while positions and not stop.requested and (free_gpus or not settings.gpu_ids_pool):
                if (taken := queue.take()) is None:
                    break
                job, earlier = taken
                gpu = free_gpus.pop(0) if free_gpus else None
                messages, sender = context.Pipe(duplex=False)
                arguments = (job, earlier, fresh, gpu, settings.num_parallel, sender)
                process = context.Process(target=_work, args=arguments, name=job.label)
                position = positions.pop(0)
                bar = bar_of(job, position, console)
                with _held_signals():
                    process.start()
                    running[messages] = _Worker(job, process, gpu, bar, position)
                sender.close()  # The worker's is now the only one: its end is the end of the messages.
            if not running:
                break
            for ready in wait(list(running), timeout=0.2):
                messages = cast(Connection, ready)
                worker = running[messages]
                outcome = _take_message(messages, worker)
                if outcome is not None:
                    del running[messages]
                    messages.close()
                    worker.process.join()
                    worker.bar.close()
                    positions.insert(0, worker.position)
                    free_gpus += [] if worker.gpu is None else [worker.gpu]
                    yield worker.job, outcome
                    yield from queue.take_hopeless()
            if stop.requested and not told_to_stop:
                told_to_stop = True
                for worker in running.values():
                    worker.process.terminate()
    finally:  # Of a second Ctrl-C: without this, Python would wait for the workers to finish.
        for worker in running.values():
            worker.process.kill()
            worker.process.join()
            worker.bar.close()


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
    if start_method() == "forkserver":
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
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


def _take_message(messages: Connection, worker: _Worker) -> Outcome | None:
    """The next message of a worker if it is its last: its outcome, or its death."""
    try:
        message = messages.recv()
    except (EOFError, OSError):
        worker.process.join()
        return Outcome("failed", error=f"its process died (exit code {worker.process.exitcode})")
    if isinstance(message, Outcome):
        return message
    if isinstance(message, LogLine):
        if not worker.job.silent:
            logger.log(message.level, "%s: %s", worker.job.label, message.text)
    else:
        worker.bar.move_to(*message)
    return None


@dataclass(frozen=True)
class LogLine:
    """A log record of a worker that belongs on the runner's console too."""

    level: int
    text: str


class _Relay(logging.Handler):
    """Sends the runner what a user must see while workers run: warnings, and what the job has to show."""

    def __init__(self, messages: Connection, shown: tuple[str, ...]) -> None:
        super().__init__()
        self._messages = messages
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING or record.name in self._shown:
            with suppress(BrokenPipeError):  # The runner was killed: `_die_with_parent` is about to end this.
                self._messages.send(LogLine(record.levelno, record.getMessage()))


def _work(
    job: Job, earlier: tuple[Path, ...], fresh: bool, gpu: int | None, share: int, messages: Connection
) -> None:
    """Body of a worker process: reports steps done, and at last its Outcome."""
    common.process.prepare()
    stop = StopRequest()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    # Ctrl-C comes from the terminal, from the runner, or from both: once or twice, it asks to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, request_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    last_report = 0.0

    def report(steps: float, total: float | None = None, status: str = "") -> None:
        nonlocal last_report
        if (now := time.monotonic()) - last_report > 0.2:
            last_report = now
            with suppress(BrokenPipeError):  # The runner was killed: `_die_with_parent` is about to end this.
                messages.send((steps, total, status))

    relay = _Relay(messages, job.shown)
    relay.addFilter(is_ours)
    logging.getLogger().addHandler(relay)
    messages.send(job.work(Turn(job, earlier, fresh, False, gpu, share, stop, report)))


def _die_with_parent() -> None:
    """A killed runner leaves no worker behind: its lock would keep the run from being resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
