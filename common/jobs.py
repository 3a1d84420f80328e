"""A job: work that leaves a run directory, after other jobs, in this process or another (common.schedule)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.console import INTERRUPTED_EXIT_CODE, console_silenced, setup_logging
from common.errors import UserError
from common.identity import open_or_create
from common.run_dir import MANIFEST, RunDir

logger = logging.getLogger(__name__)

Status = Literal["finished", "skipped", "failed", "not run", "interrupted"]
JobKey = tuple[Path, str]  # folder and identity


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    status: finished, skipped (finished earlier), failed, not run (what it needs failed), interrupted. error:
    why it failed or was not run.
    """

    status: Status
    run: Path | None = None
    error: str | None = None

    @property
    def is_done(self) -> bool:
        return self.status in ("finished", "skipped")


@dataclass(frozen=True)
class Job:
    """Work that leaves a run directory directly below `folder`, whose manifest holds `identity`.

    identity: of all that decides the run's numbers, by which it is found again; of the jobs in `after`, whose
    runs it reads, theirs are to be part of it. work: a function of a module, or a functools.partial of one,
    since it may be sent to another process. imports: the modules that it takes seconds to import. steps,
    unit: of its bar. shown: loggers whose lines a user is to see even of a job in another process. silent: no
    bar and no log lines on the console.
    """

    label: str
    identity: str
    folder: Path
    work: Callable[[Turn], Outcome]
    after: tuple[Job, ...] = ()
    imports: tuple[str, ...] = ()
    steps: int = 1
    unit: str = "epoch"
    shown: tuple[str, ...] = ()
    silent: bool = False

    @property
    def key(self) -> JobKey:
        """The same for jobs that are one and the same work."""
        return self.folder, self.identity


class Queue:
    """The jobs that wait for their turn. outcomes: of the others, growing while the queue is in use.

    Its length is the number of jobs that were ever in it.
    """

    def __init__(self, outcomes: dict[JobKey, Outcome]) -> None:
        self._waiting: list[Job] = []
        self._outcomes = outcomes
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, job: Job) -> None:
        """Let a job wait, behind the others."""
        self._waiting.append(job)
        self._length += 1

    def imports(self) -> list[str]:
        """What the waiting jobs import."""
        return sorted({module for job in self._waiting for module in job.imports})

    def take(self) -> tuple[Job, tuple[Path, ...]] | None:
        """The first job whose turn has come, with the runs of those before it; None if all have to wait."""
        for job in self._waiting:
            before = [self._outcomes.get(need.key) for need in job.after]
            if all(outcome is not None and outcome.is_done for outcome in before):
                self._waiting.remove(job)
                return job, tuple(o.run for o in before if o is not None and o.run is not None)
        return None

    def take_hopeless(self) -> Iterator[tuple[Job, Outcome]]:
        """The jobs whose turn will not come, since one before them failed or was stopped."""
        for job in list(self._waiting):
            known = [(need, self._outcomes[need.key]) for need in job.after if need.key in self._outcomes]
            if lost := [need.label for need, outcome in known if outcome.status in ("failed", "not run")]:
                self._waiting.remove(job)
                yield job, Outcome("not run", error=f"needs {', '.join(lost)}, which did not finish")
            elif any(outcome.status == "interrupted" for _, outcome in known):
                self._waiting.remove(job)
                yield job, Outcome("interrupted")


@dataclass(frozen=True)
class Turn:
    """What a job's work is given when its turn has come.

    earlier: run directories of the jobs in `job.after`. fresh: ignore an earlier run of the job. console: log
    lines may go to the terminal. gpu: the one to use, None = the job's own choice. share: how many jobs share
    the cores. stop(): whether to stop now, resumable. report(steps done in all, of how many if that is not
    `job.steps`, how it goes in a few words).
    """

    job: Job
    earlier: tuple[Path, ...] = ()
    fresh: bool = False
    console: bool = True
    gpu: int | None = None
    share: int = 1
    stop: Callable[[], bool] = lambda: False
    report: Callable[..., None] = lambda steps, total=None, status="": None


def carry_out(
    turn: Turn,
    create: Callable[[], RunDir],
    work: Callable[[RunDir], None],
    interrupted: type[Exception],
    log_file: str | None = "log.txt",
) -> Outcome:
    """Do a job's work in its earlier run directory, or in a new one, with a log file there.

    create: makes the directory, with the job's identity in the manifest. work: raises `interrupted` when it
    stopped because it was asked to. log_file: its name after the run's prefix, None = no file. Raises
    KeyboardInterrupt: the run is to stop at once, and what called this too.
    """
    job = turn.job
    if turn.stop():
        return Outcome("interrupted")
    try:
        run, is_earlier = open_or_create(job.folder, job.identity, create, turn.fresh)
        with run:
            if run.manifest["status"] == "finished":  # By another runner, since the plan began.
                return Outcome("skipped", run.path)
            log = run.path / f"{run.prefix}{log_file}" if log_file else None
            with setup_logging(turn.console, log), console_silenced(job.silent):
                logger.info("%s: %s in %s", job.label, "resumed" if is_earlier else "started", run.path)
                with ending(run, None, interrupted, label=f"{job.label} failed: ") as end:
                    work(run)
    except Exception as error:
        return Outcome("failed", error=str(error))
    if isinstance(end.error, KeyboardInterrupt):
        raise end.error
    return Outcome(end.status, run.path, end.reason)


@dataclass
class Ending:
    """How a run ended, known after the block of `ending`. error: what ended the block before its time."""

    status: Literal["finished", "failed", "interrupted"] = "finished"
    error: BaseException | None = None

    @property
    def code(self) -> int:
        """The exit status of a runner."""
        return {"finished": 0, "failed": 1, "interrupted": INTERRUPTED_EXIT_CODE}[self.status]

    @property
    def reason(self) -> str | None:
        """Why it failed, as in the manifest: type and message of the error."""
        return f"{type(self.error).__name__}: {self.error}" if self.status == "failed" else None


# What a resumed training goes on from: its checkpoints, by number, and the model of one that is evaluated.
CHECKPOINTS_AND_MODEL = ("*checkpoints/[a-z]*[0-9]*", "[!.]*model/config.json")


@contextmanager
def ending(
    run: RunDir | None,
    resume_command: str | None,
    interrupted: type[Exception],
    *,
    label: str = "",
    kept: Sequence[str] = CHECKPOINTS_AND_MODEL,
) -> Iterator[Ending]:
    """Write and say how the work in the block ends, which begins as "running"; no error leaves the block.

    Its normal end is "finished"; `interrupted` or Ctrl-C is "interrupted"; all else is "failed", also the
    SystemExit of a user's function. An error that is no UserError is logged with its traceback. That the
    manifest cannot be written is logged, and the run goes on to its own end.

    run: None in all processes but the main one: they log only what that one does not see. resume_command:
    shown when interrupted, and after an error if this try left something that the next one goes on from and
    that was not there before (`kept`: globs in the run's directory): a try without would come to the same
    error. None = the caller says how to go on. label: what an error's line begins with.
    """
    end = Ending()
    before = _sizes(run, kept)
    _record(run, status="running", error=None)
    try:
        yield end
        if run is not None:
            run.update_manifest(status="finished")
    except GeneratorExit:  # the block is part of a generator that was closed
        raise
    except (interrupted, KeyboardInterrupt) as error:
        end.status, end.error = "interrupted", error
        _record(run, status=end.status)
        if resume_command is not None:
            logger.warning("interrupted; to go on: %s", resume_command)
    except BaseException as error:
        end.status, end.error = "failed", error
        _record(run, status=end.status, error=end.reason)
        is_bug, is_final = not isinstance(error, UserError), isinstance(error, UserError) and error.is_final
        if run is not None or is_bug:  # what all processes see, one says
            message = error if isinstance(error, Exception) else end.reason  # "0" alone says nothing
            logger.error("%s%s", label, message, exc_info=is_bug)
        if resume_command is not None and not is_final and _sizes(run, kept) - before:
            logger.error("what was computed is kept; to go on: %s", resume_command)


def _record(run: RunDir | None, **fields: str | None) -> None:
    """Write into the manifest, or log that it cannot be: a full disk is not to hide why the run ended."""
    if run is None:
        return
    try:
        run.update_manifest(**fields)
    except OSError as error:
        path = run.path / MANIFEST
        logger.error("%s cannot be written, and does not say %r: %s", path, fields["status"], error)


def _sizes(run: RunDir | None, kept: Sequence[str]) -> set[tuple[str, int]]:
    """Names and sizes of what a resumed run goes on from."""
    sizes = set()
    for path in [path for glob in kept for path in run.path.glob(glob)] if run is not None else ():
        with suppress(FileNotFoundError):
            sizes.add((path.name, path.stat().st_size))
    return sizes
