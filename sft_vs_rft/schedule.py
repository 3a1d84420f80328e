"""Runs the experiments of a plan: skips the finished, resumes the cut, survives the failing.

Imports nothing heavy: the worker imports torch, in its own process when the plan says `multiprocess`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

from common.console import Progress, progress, setup_logging
from common.interrupts import StopRequest, stop_request
from common.run_dir import RunDir, RunError, find_runs
from sft_vs_rft.data_source import find_npz
from sft_vs_rft.plan import Experiment, Plan

logger = logging.getLogger(__name__)

# Fields that change neither the numbers of a run nor what it leaves: they may differ when it is found again.
COSMETIC_FIELDS = {
    "outputs_dir", "gpu_ids", "disable_console_log", "save_logs", "train_batch_log_interval",
    "epoch_log_interval", "save_metric_plots",
}  # fmt: skip
INTERRUPT_MESSAGE = (
    "stopping after the epochs under way, with a checkpoint; press Ctrl-C again to stop at once"
)


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended. status: finished, skipped (finished earlier), failed, interrupted."""

    experiment: Experiment
    status: str
    run: Path | None = None
    score: float | None = None
    error: str | None = None


def identity(experiment: Experiment) -> str:
    """Hash of all that decides an experiment's numbers: its fields, its repetition and the files it reads."""
    config = experiment.config
    fields = {name: value for name, value in config.model_dump().items() if name not in COSMETIC_FIELDS}
    files = [find_npz(config.data_dir) if config.dataset == "npz" else None]
    files += [Path(p) if p else None for p in (config.load_model_from_checkpoint, config.trainer_checkpoint)]
    digests = [_digest(path) for path in files if path is not None and path.is_file()]
    text = json.dumps([fields, experiment.repetition, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_plan(
    plan: Plan, experiments: Sequence[Experiment], fresh: bool = False, console: bool = True
) -> list[Outcome]:
    """Run `experiments` in their order; returns one outcome each, also when some fail or Ctrl-C stops them.

    fresh: ignore earlier runs; console: bars and log lines on the terminal.
    """
    outcomes: dict[int, Outcome] = {}
    to_run: list[tuple[Experiment, Path | None]] = []
    for experiment in experiments:
        earlier = None if fresh else _earlier_run(experiment)
        if earlier is not None and earlier[1].get("status") == "finished":
            logger.info("%s: finished earlier, skipped (%s)", experiment.label, earlier[0])
            outcomes[experiment.index] = Outcome(experiment, "skipped", earlier[0], earlier[1].get("score"))
        else:
            to_run.append((experiment, earlier[0] if earlier else None))
    with stop_request(INTERRUPT_MESSAGE) as stop:
        run = _in_processes if plan.multiprocess else _in_process
        with progress(len(to_run), f"plan {plan.name}", unit="experiment", disable=not console) as bar:
            for outcome in run(plan, to_run, stop, console):
                outcomes[outcome.experiment.index] = outcome
                bar.update(1)
    return [outcomes.get(e.index, Outcome(e, "interrupted")) for e in experiments]


def _earlier_run(experiment: Experiment) -> tuple[Path, dict[str, Any]] | None:
    """The newest run of the same identity under `outputs_dir`, a finished one first."""
    wanted = identity(experiment)
    runs = [
        run
        for run in find_runs(Path(experiment.config.outputs_dir))
        if run.manifest.get("identity") == wanted
    ]
    runs.sort(key=lambda run: run.manifest.get("status") == "finished")
    return (runs[-1].path, runs[-1].manifest) if runs else None


def execute(
    experiment: Experiment,
    earlier: Path | None,
    stop: Callable[[], bool],
    report: Callable[[float], None],
    console: bool,
    share: int = 1,
) -> Outcome:
    """Run one experiment in this process, in its new or earlier run directory, with its own log file.

    report(epochs done); share: how many experiments share the cores.
    """
    from sft_vs_rft.experiment import run_experiment
    from sft_vs_rft.train import TrainingInterrupted, resolve_seeds

    path = earlier
    try:
        if earlier is not None:
            run = RunDir.open(earlier)
            config = experiment.config.model_copy(update=run.manifest["seeds"])
        else:
            config = resolve_seeds(experiment.config)
            seeds = {
                name: getattr(config, name) for name in ("random_seed", "init_rnd_seed", "samples_rnd_seed")
            }
            manifest = {"identity": identity(experiment), "repetition": experiment.repetition, "seeds": seeds}
            run = RunDir.create(
                Path(config.outputs_dir), config.experiment_name, config.model_dump(), manifest
            )
        path = run.path
    except (RunError, OSError) as error:
        return Outcome(experiment, "failed", path, error=str(error))
    log_file = run.path / "log.txt" if config.save_logs else None
    with run, setup_logging(console=console and not config.disable_console_log, log_file=log_file):
        try:
            logger.info("%s: %s in %s", experiment.label, "resumed" if earlier else "started", run.path)
            result = run_experiment(config, run, report, stop, share)
            return Outcome(experiment, "finished", run.path, result.score)
        except TrainingInterrupted:
            return Outcome(experiment, "interrupted", run.path)
        except Exception as error:
            expected = type(error).__module__.split(".")[0] in ("common", "sft_vs_rft")
            logger.error("%s failed: %s", experiment.label, error, exc_info=not expected)
            return Outcome(experiment, "failed", run.path, error=f"{type(error).__name__}: {error}")


def _in_process(
    plan: Plan, to_run: Sequence[tuple[Experiment, Path | None]], stop: StopRequest, console: bool
) -> Iterator[Outcome]:
    for experiment, earlier in to_run:
        if stop.requested:
            return
        with progress(experiment.config.epochs, experiment.label, position=1, disable=not console) as bar:
            yield execute(experiment, earlier, stop, bar.move_to, console)


@dataclass
class _Worker:
    experiment: Experiment
    process: BaseProcess
    gpu: int | None
    bar: Progress
    position: int


def _in_processes(
    plan: Plan, to_run: Sequence[tuple[Experiment, Path | None]], stop: StopRequest, console: bool
) -> Iterator[Outcome]:
    """One spawned process per experiment, at most `num_parallel` at a time, GPUs handed out from the pool."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    waiting, running = list(to_run), dict[int, _Worker]()
    free_gpus = list(plan.gpu_ids_pool)
    positions = list(range(1, plan.num_parallel + 1))
    while waiting or running:
        while waiting and positions and not stop.requested and (free_gpus or not plan.gpu_ids_pool):
            experiment, earlier = waiting.pop(0)
            gpu = free_gpus.pop(0) if free_gpus else None
            if gpu is not None:
                experiment = replace(
                    experiment, config=experiment.config.model_copy(update={"gpu_ids": [gpu]})
                )
            process = context.Process(
                target=_work, args=(experiment, earlier, messages, plan.num_parallel), name=experiment.label
            )
            process.start()
            position = positions.pop(0)
            bar = progress(experiment.config.epochs, experiment.label, position=position, disable=not console)
            running[experiment.index] = _Worker(experiment, process, gpu, bar, position)
        if stop.requested:
            waiting.clear()
        finished = _take_message(messages, running)
        for index, worker in list(running.items()):
            died = finished is None and not worker.process.is_alive() and messages.empty()
            if died:
                code = worker.process.exitcode
                finished = Outcome(worker.experiment, "failed", error=f"its process died (exit code {code})")
            if finished is not None and finished.experiment.index == index:
                worker.process.join()
                worker.bar.close()
                positions.insert(0, worker.position)
                free_gpus += [] if worker.gpu is None else [worker.gpu]
                del running[index]
                yield finished
                finished = None


def _take_message(messages: Any, running: dict[int, _Worker]) -> Outcome | None:
    try:
        message = messages.get(timeout=0.2)
    except Empty:
        return None
    if isinstance(message, Outcome):
        return message
    index, epochs = message
    running[index].bar.move_to(epochs)
    return None


def _work(experiment: Experiment, earlier: Path | None, messages: Any, share: int) -> None:
    """Body of a worker process: reports (index, epochs done), and at last its Outcome."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    last_report = 0.0

    def report(epochs: float) -> None:
        nonlocal last_report
        if (now := time.monotonic()) - last_report > 0.2:
            last_report = now
            messages.put((experiment.index, epochs))

    with stop_request("") as stop:
        messages.put(execute(experiment, earlier, stop, report, console=False, share=share))


def _die_with_parent() -> None:
    """A killed runner leaves no worker behind: its lock would keep the run from being resumed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
