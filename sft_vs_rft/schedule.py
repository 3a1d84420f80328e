"""Runs the experiments of a plan: skips the finished, resumes the cut, survives the failing.

Imports nothing heavy: the worker imports torch, in its own process when the plan says `multiprocess`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import cast

from common.console import Progress, console_silenced, progress, setup_logging
from common.interrupts import StopRequest, stop_request
from common.run_dir import RunBusyError, RunDir
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.identity import earlier_run, identity, remove_stillborn
from sft_vs_rft.plan import Experiment, Plan

logger = logging.getLogger(__name__)

INTERRUPT_MESSAGE = (
    "stopping after the epochs under way, with a checkpoint; press Ctrl-C again to stop at once"
)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCK_PATIENCE = 5.0  # seconds; a worker of a killed runner ends well within them


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended. status: finished, skipped (finished earlier), failed, interrupted."""

    experiment: Experiment
    status: str
    run: Path | None = None
    score: float | None = None
    error: str | None = None


def run_plan(
    plan: Plan, experiments: Sequence[Experiment], fresh: bool = False, console: bool = True
) -> list[Outcome]:
    """Run `experiments` in their order; returns one outcome each, also when some fail or Ctrl-C stops them.

    fresh: ignore earlier runs; console: bars and log lines on the terminal.
    """
    outcomes: dict[int, Outcome] = {}
    to_run: list[Experiment] = []
    for folder in {experiment.config.outputs_dir for experiment in experiments}:
        remove_stillborn(Path(folder))
    for experiment in experiments:
        earlier = None if fresh else earlier_run(experiment)
        if earlier is not None and earlier.manifest.get("status") == "finished":
            logger.info("%s: finished earlier, skipped (%s)", experiment.label, earlier.path)
            outcomes[experiment.index] = Outcome(
                experiment, "skipped", earlier.path, earlier.manifest.get("score")
            )
        else:
            to_run.append(experiment)
    with stop_request(INTERRUPT_MESSAGE) as stop:
        run = _in_processes if plan.multiprocess else _in_process
        with progress(len(to_run), f"plan {plan.name}", unit="experiment", disable=not console) as bar:
            for outcome in run(plan, to_run, fresh, stop, console):
                outcomes[outcome.experiment.index] = outcome
                bar.update(1)
                if outcome.status == "failed" and (plan.multiprocess or outcome.run is None):
                    logger.error("%s failed: %s", outcome.experiment.label, outcome.error)
    return [outcomes.get(e.index, Outcome(e, "interrupted")) for e in experiments]


def execute(
    experiment: Experiment,
    fresh: bool,
    stop: Callable[[], bool],
    report: Callable[[float], None],
    console: bool,
    share: int = 1,
) -> Outcome:
    """Run one experiment in this process, in its new or earlier run directory, with its own log file.

    report(epochs done); share: how many experiments share the cores.
    """
    import sft_vs_rft.experiment  # noqa: F401  # Takes seconds: before the run is looked for, or stopped.

    if stop():
        return Outcome(experiment, "interrupted")
    try:
        with _open_run(experiment, fresh) as run:
            if run.manifest["status"] == "finished":  # By another runner, since the plan began.
                return Outcome(experiment, "skipped", run.path, run.manifest.get("score"))
            config = experiment.config.model_copy(update=run.manifest["seeds"])
            log_file = run.path / "log.txt" if config.save_logs else None
            with setup_logging(console, log_file), console_silenced(config.disable_console_log):
                return _run_in(experiment, config, run, stop, report, share)
    except Exception as error:
        return Outcome(experiment, "failed", error=str(error))


def _open_run(experiment: Experiment, fresh: bool) -> RunDir:
    """The experiment's earlier run, or a new one if there is none, or `fresh`; its seeds are in the manifest.

    Raises RunBusyError if a live process holds it, RunError if the experiment's name cannot name a folder.
    """
    from sft_vs_rft.train import resolve_seeds

    earlier = None if fresh else earlier_run(experiment)
    if earlier is None:
        config = resolve_seeds(experiment.config)
        names = ("random_seed", "init_rnd_seed", "samples_rnd_seed")
        seeds = {name: getattr(config, name) for name in names}
        manifest = {"identity": identity(experiment), "repetition": experiment.repetition, "seeds": seeds}
        return RunDir.create(Path(config.outputs_dir), config.experiment_name, config.model_dump(), manifest)
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return RunDir.open(earlier.path)
        except RunBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _run_in(
    experiment: Experiment,
    config: ExperimentConfig,
    run: RunDir,
    stop: Callable[[], bool],
    report: Callable[[float], None],
    share: int,
) -> Outcome:
    from sft_vs_rft.experiment import run_experiment
    from sft_vs_rft.train import TrainingInterrupted

    try:
        logger.info("%s: %s in %s", experiment.label, "resumed" if run.checkpoints() else "started", run.path)
        result = run_experiment(config, run, report, stop, share)
        return Outcome(experiment, "finished", run.path, result.score)
    except TrainingInterrupted:
        return Outcome(experiment, "interrupted", run.path)
    except Exception as error:
        expected = type(error).__module__.split(".")[0] in ("common", "sft_vs_rft")
        logger.error("%s failed: %s", experiment.label, error, exc_info=not expected)
        return Outcome(experiment, "failed", run.path, error=f"{type(error).__name__}: {error}")


def _in_process(
    plan: Plan, to_run: Sequence[Experiment], fresh: bool, stop: StopRequest, console: bool
) -> Iterator[Outcome]:
    for experiment in to_run:
        if stop.requested:
            return
        with _bar(experiment, 1, console) as bar:
            yield execute(experiment, fresh, stop, bar.move_to, console)


def _bar(experiment: Experiment, position: int, console: bool) -> Progress:
    hidden = not console or experiment.config.disable_console_log
    return progress(experiment.config.epochs, experiment.label, position=position, disable=hidden)


@dataclass
class _Worker:
    experiment: Experiment
    process: BaseProcess
    gpu: int | None
    bar: Progress
    position: int


def _in_processes(
    plan: Plan, to_run: Sequence[Experiment], fresh: bool, stop: StopRequest, console: bool
) -> Iterator[Outcome]:
    """One spawned process per experiment, at most `num_parallel` at a time, GPUs handed out from the pool.

    Each has a pipe of its own: a worker that is killed in the middle of a message, or of waiting for a lock,
    keeps no other from reporting.
    """
    context = multiprocessing.get_context("spawn")
    waiting, running = list(to_run), dict[Connection, _Worker]()
    free_gpus = list(plan.gpu_ids_pool)
    positions = list(range(1, plan.num_parallel + 1))
    told_to_stop = False
    try:
        while running or (waiting and not stop.requested):
            while waiting and positions and not stop.requested and (free_gpus or not plan.gpu_ids_pool):
                experiment = waiting.pop(0)
                gpu = free_gpus.pop(0) if free_gpus else None
                if gpu is not None:
                    config = experiment.config.model_copy(update={"gpu_ids": [gpu]})
                    experiment = replace(experiment, config=config)
                messages, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(experiment, fresh, sender, plan.num_parallel), name=experiment.label
                )
                position = positions.pop(0)
                bar = _bar(experiment, position, console)
                with _held_signals():
                    process.start()
                    running[messages] = _Worker(experiment, process, gpu, bar, position)
                sender.close()  # The worker's is now the only one: its end is the end of the messages.
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
                    yield outcome
            if stop.requested and not told_to_stop:
                told_to_stop = True
                for worker in running.values():
                    worker.process.terminate()
    finally:  # Of a second Ctrl-C: without this, Python would wait for the workers to finish.
        for worker in running.values():
            worker.process.kill()
            worker.process.join()
            worker.bar.close()


@contextmanager
def _held_signals() -> Iterator[None]:
    """Signals to stop wait for the end of the block; a process started in it holds them until it is ready."""
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
        error = f"its process died (exit code {worker.process.exitcode})"
        return Outcome(worker.experiment, "failed", error=error)
    if isinstance(message, Outcome):
        return message
    if isinstance(message, LogLine):
        if not worker.experiment.config.disable_console_log:
            logger.log(message.level, "%s: %s", worker.experiment.label, message.text)
    else:
        worker.bar.move_to(message)
    return None


@dataclass(frozen=True)
class LogLine:
    """A log record of a worker that belongs on the runner's console too."""

    level: int
    text: str


class _Relay(logging.Handler):
    """Sends the runner what a user must see while workers run: warnings, and how fit the start model is."""

    def __init__(self, messages: Connection) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING or record.name == "sft_vs_rft.start_check":
            with suppress(BrokenPipeError):  # The runner was killed: `_die_with_parent` is about to end this.
                self._messages.send(LogLine(record.levelno, record.getMessage()))


def _work(experiment: Experiment, fresh: bool, messages: Connection, share: int) -> None:
    """Body of a worker process: reports epochs done, and at last its Outcome."""
    stop = StopRequest()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    # Ctrl-C comes from the terminal, from the runner, or from both: once or twice, it asks to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, request_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    last_report = 0.0

    def report(epochs: float) -> None:
        nonlocal last_report
        if (now := time.monotonic()) - last_report > 0.2:
            last_report = now
            with suppress(BrokenPipeError):  # The runner was killed: `_die_with_parent` is about to end this.
                messages.send(epochs)

    logging.getLogger("sft_vs_rft").addHandler(_Relay(messages))
    messages.send(execute(experiment, fresh, stop, report, console=False, share=share))


def _die_with_parent() -> None:
    """A killed runner leaves no worker behind: its lock would keep the run from being resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
