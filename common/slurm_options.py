"""What a plan asks of SLURM for each of its runs: the fields of `executor.slurm`, as options of sbatch."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from typing import Annotated, Any

from pydantic import Field

from common.config import Config, Problem, path_text
from common.errors import UserError

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"\d+(\.\d+)?[KMGT]?B?")
_FIELDS = {"partition": "partition", "time": "time", "cpus-per-task": "cpus", "mem": "mem"}
_FIELDS |= dict.fromkeys(("gpus-per-node", "gpus", "gpus-per-task"), "gpus")
# A run is one process; its directory says where its output goes and whose it is.
_NEVER = ("array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "wrap")
# Of sbatch --test-only: such a job may wait, and is nobody's mistake.
_MAY_WAIT = re.compile(r"busy|not available|down|drain", re.IGNORECASE)
WARN_BEFORE = 90  # seconds from the signal that asks to stop to the end of the job's time


class RefusedError(UserError):
    """Jobs cannot be submitted from here, or not such ones; the message is for the user."""


class Slurm(Config):
    """Each run is a job of SLURM, of one process."""

    time: Annotated[int, Field(ge=1)] | str = Field(
        description="limit of a job: minutes, or 4:00:00, 2-12:00:00 (2 days, 12 hours)"
    )
    partition: str = Field("", description="'' = the cluster's default")
    gpus: int = Field(0, ge=0, le=1, description="of a job: a run of a plan is one process on one GPU")
    cpus: int = Field(1, ge=1, description="cores of a job")
    mem: str = Field("", description="memory of a job, such as 16GB; '' = the cluster's default")
    sbatch: dict[str, str | int | bool] = Field(
        {}, description="further options of sbatch by their long names: {account: me, gres: gpu:a100:1}"
    )
    setup: list[str] = Field([], description="shell commands before each run, such as 'module load cuda'")

    def check(self) -> list[Problem]:
        problems = []
        if minutes(self.time) is None:
            problems.append(Problem("time", f"must be minutes, H:MM:SS or D-H:MM:SS, got {self.time!r}"))
        if self.mem and not _MEMORY.fullmatch(self.mem):
            problems.append(Problem("mem", f"must be a size such as 500MB or 16GB, got {self.mem!r}"))
        for name in self.sbatch:
            plain = name.replace("_", "-")
            message = None
            if not re.fullmatch(r"[a-z][a-z-]*", plain):
                message = "is no long name of an option of sbatch, such as account"
            elif plain in _FIELDS:
                message = f"is given by executor.slurm.{_FIELDS[plain]}"
            elif plain in _NEVER:
                message = "is set for each run: leave it out"
            if message:
                problems.append(Problem(path_text(("sbatch", name)), message))
        return problems


class ExecutorConfig(Config):
    """Where the runs of a plan are done, if not on this machine."""

    slurm: Slurm | None = Field(None, description="each run is a job of SLURM; null = on this machine")


def minutes(time: int | str) -> int | None:
    """A time limit as SLURM reads it, in minutes, rounded up; None if it is no such thing."""
    match = _TIME.fullmatch(str(time))
    if match is None:
        return None
    numbers = [int(number) for number in match["rest"].split(":")]
    if match["days"] is not None:  # D-H, D-H:M, D-H:M:S
        hours, mins, seconds = (*numbers, 0, 0)[:3]
        hours += 24 * int(match["days"])
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:  # M, M:S
        hours, (mins, seconds) = 0, (*numbers, 0)[:2]
    return 60 * hours + mins + math.ceil(seconds / 60) or None


def sbatch_options(slurm: Slurm) -> dict[str, Any]:
    """Long name -> value of each option, those that the plan gives last."""
    options: dict[str, Any] = {"partition": slurm.partition} if slurm.partition else {}
    options |= {"time": minutes(slurm.time), "cpus-per-task": slurm.cpus}
    options |= {"mem": slurm.mem} if slurm.mem else {}
    options |= {"gpus-per-node": slurm.gpus} if slurm.gpus else {}
    options |= {"signal": f"USR2@{WARN_BEFORE}", "requeue": True}
    options |= {name.replace("_", "-"): value for name, value in slurm.sbatch.items()}
    return {name: value for name, value in options.items() if value is not False}


def command_line(slurm: Slurm) -> list[str]:
    """The same as arguments of sbatch."""
    options = sbatch_options(slurm).items()
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options]


def check_slurm(slurm: Slurm) -> None:
    """Raises RefusedError: what submits jobs is not installed here, or SLURM would refuse such jobs."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        message = "executor.slurm needs a package that is not installed: pip install submitit"
        raise RefusedError(message) from None
    for program in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        if shutil.which(program) is None:
            raise RefusedError(
                f"executor.slurm: there is no {program} here: start the runner where SLURM takes jobs (a "
                "login node), or leave executor out to run on this machine"
            )
    test = ["sbatch", "--test-only", *command_line(slurm), "--wrap=true"]
    try:
        result = subprocess.run(test, capture_output=True, text=True, timeout=60, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise RefusedError("executor.slurm: sbatch --test-only has not answered for 60 s") from None
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    if result.returncode and not any(_MAY_WAIT.search(line) for line in lines):
        reason = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines)
        raise RefusedError(f"executor.slurm: SLURM refuses such jobs: {reason or 'it does not say why'}")
