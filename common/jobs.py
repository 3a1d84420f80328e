"""A job: work that leaves a run directory, after other jobs, wherever it is done (common.schedule).

The run directory is all that stands between who runs a job and the process that does it. Who runs it makes
the directory, or finds that of an earlier try (`prepare`); the process goes on from what is there and leaves
in the manifest how that ended (`do`, `ending`), which is where the outcome is read (`read_outcome`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from common.console import INTERRUPTED_EXIT_CODE, console_silenced, setup_logging
from common.errors import Interrupted, UserError
from common.identity import RunIndex, open_or_create
from common.output import output_error
from common.process import work_begins
from common.run_dir import CONFIG, LOCK, MANIFEST, RunDir, read_run

logger = logging.getLogger(__name__)

Status = Literal["finished", "skipped", "failed", "not run", "interrupted"]
JobKey = tuple[Path, str]  # folder and identity
Report = Callable[..., None]  # steps done in all, of how many if not `Job.steps`, how it goes in a few words


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
class Place:
    """Where a job is done, one of a plan's.

    number: from 1; the line of its bar. gpu: the one to use, None = the job's own choice. share: how many
    jobs share the cores.
    """

    number: int = 1
    gpu: int | None = None
    share: int = 1


@dataclass(frozen=True)
class Job:
    """Work that leaves a run directory directly below `folder`, whose manifest holds `identity`.

    identity: a hash of all that decides the run's numbers, by which it is found again. That of the jobs in
    `after`, whose runs it reads, is to be part of it.
    create(runs of the jobs in `after`, place): makes the run directory, in the process of who runs the job,
    so it imports nothing heavy. work(run, place, stop, report): does the work in that directory, from where
    it stands; it asks stop() now and then, and raises Interrupted when that is true and it can be resumed.
    Both are functions of modules, or functools.partial of some, with arguments that can be pickled: a job is
    data that can be sent to another process or machine.
    imports: the modules that take seconds to import. kind: the same for jobs that take about as long. steps,
    unit: of its bar. shown: loggers whose lines a user is to see wherever the job is done. silent: no bar and
    no log lines on the console. log_file: its name after the run's prefix, None = no file. keep_checkpoints:
    also when the run is finished.
    """

    label: str
    identity: str
    folder: Path
    create: Callable[[Sequence[Path], Place], RunDir]
    work: Callable[[RunDir, Place, Callable[[], bool], Report], Any]
    after: tuple[Job, ...] = ()
    imports: tuple[str, ...] = ()
    steps: int = 1
    unit: str = "epoch"
    kind: str = ""
    shown: tuple[str, ...] = ()
    silent: bool = False
    log_file: str | None = "log.txt"
    keep_checkpoints: bool = True

    @property
    def key(self) -> JobKey:
        """The same for jobs that are one and the same work."""
        return self.folder, self.identity


def is_nowhere(run: Path) -> bool:
    """No earlier runner has left anybody who does a run still."""
    return False


def prepare(
    job: Job,
    earlier: Sequence[Path],
    place: Place,
    fresh: bool = False,
    index: RunIndex | None = None,
    is_under_way: Callable[[Path], bool] = is_nowhere,
) -> Path | Outcome:
    """The job's run directory: that of an earlier try unless `fresh`, or a new one; or why it cannot be done.

    earlier: runs of the jobs in `job.after`. index: of the job's folder. is_under_way: whether somebody does
    the run of an earlier try still, and so holds its lock.
    """
    try:
        if not fresh and job.folder.is_dir():
            known = (index or RunIndex(job.folder)).find(job.identity)
            if known is not None and is_under_way(known.path):
                return known.path.absolute()
        run, _ = open_or_create(job.folder, job.identity, lambda: job.create(earlier, place), fresh, index)
    except Exception as error:
        return Outcome("failed", error=str(error))
    with run:
        is_finished = run.manifest["status"] == "finished"  # by another runner, since the plan began
    return Outcome("skipped", run.path) if is_finished else run.path


def do(
    job: Job,
    path: Path,
    place: Place,
    stop: Callable[[], bool] = lambda: False,
    report: Report = lambda steps, total=None, status="": None,
    console: bool = True,
) -> None:
    """Do a job in its run directory `path`, in this process; the manifest then tells how it ended.

    console: log lines may go to the terminal. Raises KeyboardInterrupt: it was to stop at once; RunError,
    OSError: the directory cannot be written to.
    """
    with RunDir.open(path) as run:
        is_new = run.manifest["updated"] == run.manifest["created"]
        log = path / f"{run.prefix}{job.log_file}" if job.log_file else None
        with setup_logging(console, log), console_silenced(job.silent):
            logger.info("%s: %s in %s", job.label, "started" if is_new else "resumed", path)
            with ending(run, None, Interrupted, label=f"{job.label} failed: ") as end:
                job.work(run, place, stop, report)
            if end.status == "finished" and not job.keep_checkpoints:
                shutil.rmtree(run.checkpoints_path, ignore_errors=True)
    if isinstance(end.error, KeyboardInterrupt):
        raise end.error


def read_outcome(path: Path, otherwise: str = "its run does not say how it ended") -> Outcome:
    """How the process that did a job in `path` left it. otherwise: why it failed if it was cut short."""
    manifest = read_run(path).manifest
    status = manifest["status"]
    if status in ("finished", "interrupted"):
        return Outcome(status, path)
    return Outcome("failed", path, manifest.get("error") if status == "failed" else otherwise)


@dataclass
class Ending:
    """How a run ended, known after the block of `ending`.

    error: what ended the block before its time. is_new: this was the first try.
    """

    status: Literal["finished", "failed", "interrupted"] = "finished"
    error: BaseException | None = None
    is_new: bool = False

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


def finish_inner(run: RunDir) -> None:
    """Write that a run inside another one is done; how it ends otherwise is the outer run's."""
    run.update_manifest(status="finished")


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
    shown when interrupted, after an error of the disk, and after another if this try left something that the
    next one goes on from and that was not there before (`kept`: globs in the run's directory): a try without
    would come to the same error. None = the caller says how to go on. label: begins an error's line.
    """
    end = Ending(is_new=run is not None and run.manifest["updated"] == run.manifest["created"])
    work_begins()
    before = sizes(run.path, kept) if run is not None else set()
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
        of_disk = None if run is None else output_error(error, run.path)
        is_bug = of_disk is None and not isinstance(error, UserError)
        is_final = isinstance(error, UserError) and error.is_final
        if run is not None or is_bug:  # what all processes see, one says
            message = error if isinstance(error, Exception) else end.reason  # "0" alone says nothing
            logger.error("%s%s", label, of_disk or message, exc_info=is_bug)
        is_mendable = of_disk is not None or (run is not None and sizes(run.path, kept) - before)
        if resume_command is not None and not is_final and is_mendable:
            logger.error("what was computed is kept; to go on: %s", resume_command)


def remove_if_refused(run: RunDir | None, end: Ending) -> None:
    """Remove a new run that was refused before it began: it holds nothing but the words that were said."""
    is_refused = isinstance(end.error, UserError) and end.error.is_refusal
    if run is None or not end.is_new or not is_refused:
        return
    empty = [MANIFEST, LOCK, f"{run.prefix}{CONFIG}", f"{run.prefix}log.txt", "tensorboard/*", "wandb/*"]
    files = [path for path in run.path.rglob("*") if path.is_file() and path.stat().st_size]
    names = [path.relative_to(run.path).as_posix() for path in files]
    if all(any(fnmatch(name, glob) for glob in empty) for name in names):
        shutil.rmtree(run.path, ignore_errors=True)
        logger.info("nothing has begun: the run's folder is removed")


def _record(run: RunDir | None, **fields: str | None) -> None:
    """Write into the manifest, or log that it cannot be: a full disk is not to hide why the run ended."""
    if run is None:
        return
    try:
        run.update_manifest(**fields)
    except OSError as error:
        path, reason = run.path / MANIFEST, str(error).rpartition(" cannot be written: ")[2]
        logger.error("%s cannot be written, and does not say %r: %s", path, fields["status"], reason)


def sizes(run: Path, kept: Sequence[str]) -> set[tuple[str, int]]:
    """Names and sizes of what a resumed run goes on from. kept: globs in the run's directory."""
    names_and_sizes = set()
    for path in [path for glob in kept for path in run.glob(glob)]:
        with suppress(FileNotFoundError):
            names_and_sizes.add((path.name, path.stat().st_size))
    return names_and_sizes
