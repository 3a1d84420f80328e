"""Runs as jobs of SLURM, by submitit: submitted, waited for, and submitted again when SLURM ends them.

Of a job's end there are three witnesses. The run's manifest says how the work ended. submitit's result file
appears when the job's process comes to its own end. `squeue` alone tells of a job that was killed: submitit
asks `sacct`, which without accounting knows nothing. A job outlives the runner that submitted it; the next
runner finds it by submitit's files in the run's directory (`Queue.job_of`).
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import common.process
from common.console import Progress, StopRequest
from common.jobs import CHECKPOINTS_AND_MODEL, Job, Outcome, Place, read_outcome, sizes
from common.run_dir import read_run
from common.slurm_options import Slurm, minutes, sbatch_options
from common.workers import NEWS, do_unseen, show_news

logger = logging.getLogger(__name__)

FOLDER = "slurm"  # of a run: submitit's files, the output of the job among them
ASK_EVERY, LOOK_EVERY = 5.0, 0.5  # seconds
MOST_TRIES = 3  # of a run whose jobs SLURM ends, by one runner
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
GONE, UNKNOWN = "gone from squeue", "unknown"
_submitting = threading.Lock()  # one sbatch at a time is enough for a cluster


class Queue:
    """What squeue says of this user's jobs, asked every few seconds, whoever wants to know."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._scripts: dict[str, str] = {}
        self._asked = float("-inf")
        self._is_answered = True

    def state(self, number: str, since: float = float("-inf")) -> str:
        """SLURM's word for a job's state, with the reason why it waits; GONE: it is not known (any more).

        since: when it was submitted (time.monotonic); an older answer says nothing of it.
        """
        with self._lock:
            if self._asked < since or time.monotonic() - self._asked > ASK_EVERY:
                self._ask()
            return self._states.get(number, GONE if self._is_answered else UNKNOWN)

    def job_of(self, run: Path) -> str | None:
        """The number of the newest job that was submitted for a run, if it has not ended."""
        names = [path.name for path in (run / FOLDER).glob("*_submitted.pkl")]
        numbers = sorted((name.partition("_")[0] for name in names), key=int)
        if not numbers or _result(run, number := numbers[-1]).exists() or has_ended(self.state(number)):
            return None
        script = Path(self._scripts.get(number, run / FOLDER / "unknown"))
        # Another cluster, or this one in later years, may have another job of this number.
        is_of_run = script.parent.is_dir() and script.parent.samefile(run / FOLDER)
        return number if is_of_run else None

    def _ask(self) -> None:
        self._asked = time.monotonic()  # before the answer, which a job may just miss
        command = ("squeue", f"--user={os.getuid()}", "--noheader", "--states=all", "--format=%A|%T|%r|%o")
        try:
            answer = _run(*command)
        except (OSError, subprocess.SubprocessError) as error:
            if self._is_answered:
                logger.warning("squeue does not answer (%s); asking again", error)
            self._is_answered = False
            return
        self._is_answered = True
        self._states, self._scripts = {}, {}
        for number, state, reason, script in (line.split("|", 3) for line in answer.splitlines()):
            is_explained = state == "PENDING" and reason != "None"
            self._states[number] = f"{state} ({reason})" if is_explained else state
            self._scripts[number] = script


def has_ended(state: str) -> bool:
    """Whether a job in this state runs no more, nor will."""
    return state == GONE or state in ENDED


def run_in_slurm(
    slurm: Slurm, queue: Queue, job: Job, run: Path, place: Place, stop: StopRequest, bar: Progress
) -> Outcome:
    """Do a job in one of SLURM's, or wait for the one that an earlier runner has left in the queue."""
    number, since, before = queue.job_of(run), float("-inf"), ""
    if number is not None:
        logger.info("%s: job %s of SLURM is under way", job.label, number)
    tries = 0
    while True:
        if number is None:
            before = read_run(run).manifest["updated"]
            (run / NEWS).unlink(missing_ok=True)  # of an earlier try that was killed
            try:
                number = submit(slurm, job, run, place)
            except Exception as error:  # what submitit makes of sbatch's errors is of many kinds
                return Outcome("interrupted" if stop.requested else "failed", run, _last_line(error))
            since = time.monotonic()
            logger.info("%s: job %s of SLURM, output in %s", job.label, number, run / FOLDER)
        end = _wait(number, since, queue, job, run, stop, bar)
        (run / NEWS).unlink(missing_ok=True)
        manifest = read_run(run).manifest
        has_begun = manifest["updated"] != before  # else its status is that of an earlier try
        if has_begun and manifest["status"] in ("finished", "failed"):
            return read_outcome(run)
        if stop.requested or stop.at_once:
            return Outcome("interrupted", run)
        tries += 1
        state = manifest["status"] if has_begun else "not begun"
        what = f"SLURM ended its job {number} ({end}), the run is {state}"
        if tries == MOST_TRIES:
            return Outcome(
                "failed", run, f"{what}, {tries} times: see {run / FOLDER / f'{number}_0_log.err'}"
            )
        logger.warning("%s: %s: submitted again", job.label, what)
        number = None


def submit(slurm: Slurm, job: Job, run: Path, place: Place) -> str:
    """Hand a job to SLURM; returns its number there."""
    import submitit

    root = Path(common.__file__).parents[1]
    setup = [
        f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{slurm.cpus}}}",
        *slurm.setup,
    ]
    options = sbatch_options(slurm)
    with _submitting:
        executor = submitit.SlurmExecutor(folder=run / FOLDER)
        executor.update_parameters(
            job_name=job.label,
            time=minutes(slurm.time),
            setup=setup,
            srun_args=[f"--cpus-per-task={slurm.cpus}"],  # which srun no longer takes from sbatch
            additional_parameters={name: value for name, value in options.items() if name != "time"},
        )
        return str(executor.submit(do_in_slurm, job, run, place).job_id)


def do_in_slurm(job: Job, run: Path, place: Place) -> None:
    """Body of a job of SLURM: it goes on where an earlier turn of it ended, or one of another job.

    SIGTERM asks to stop. So does SIGUSR2, some time before SLURM takes the machine away; the job is then
    queued again, unless this turn of it has done nothing, as the next one would.
    """
    common.process.prepare()
    stop = StopRequest()
    signals: set[int] = set()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signals.add(number)

    # Of submitit's own handlers that of SIGTERM does nothing, that of SIGUSR2 leaves in the midst of a step.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, request_stop)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    if read_run(run).manifest["status"] == "finished":
        return
    before = _sizes(run)
    do_unseen(job, run, place, stop)
    is_cut = signal.SIGUSR2 in signals and read_run(run).manifest["status"] == "interrupted"
    if is_cut and _sizes(run) != before:
        _run("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
        sys.exit(1)  # not at its end, of which submitit would leave word


def _wait(
    number: str, since: float, queue: Queue, job: Job, run: Path, stop: StopRequest, bar: Progress
) -> str:
    """Wait for the end of a job, telling it to stop when asked; returns its last state."""
    told, seen, shown = float("-inf"), "", 0
    while True:
        shown = show_news(run / NEWS, shown, job, bar)
        state = "COMPLETED" if _result(run, number).exists() else queue.state(number, since)
        if has_ended(state):
            show_news(run / NEWS, shown, job, bar)
            return state
        if stop.at_once:
            _tell(number)
            return state
        if stop.requested and time.monotonic() - told > ASK_EVERY:
            told = time.monotonic()
            # Signals reach the processes of a job alone; one that has none yet would begin.
            _tell(number, *([] if state.startswith("PENDING") else ["--signal=TERM"]))
        if state != seen:
            bar.show("" if state == "RUNNING" else f"job {number} {state}")
            seen = state
        time.sleep(LOOK_EVERY)


def _tell(number: str, *options: str) -> None:
    """Cancel a job, or send its processes a signal."""
    try:
        _run("scancel", *options, number)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("scancel %s: %s", number, error)  # it may have ended meanwhile


def _run(*command: str) -> str:
    """What a command of SLURM prints. Raises OSError, SubprocessError.

    In a session of its own: Ctrl-C at the terminal is for the runner alone.
    """
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=True, start_new_session=True
    )
    return result.stdout


def _result(run: Path, number: str) -> Path:
    """The file that submitit leaves when the job's process comes to its end."""
    return run / FOLDER / f"{number}_0_result.pkl"


def _sizes(run: Path) -> set[tuple[str, int]]:
    return sizes(run, (*CHECKPOINTS_AND_MODEL, "*.jsonl"))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"it cannot be submitted: {lines[-1] if lines else type(error).__name__}"
