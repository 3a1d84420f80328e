"""Where the jobs of a plan are done: here, in processes of this machine, or in jobs of SLURM.

What the three have in common is `Executor`; `choose_executor` is the one place that knows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.console import Progress, StopRequest
from common.jobs import Job, Outcome, Place, is_nowhere
from common.plan import PlanSettings
from common.slurm import Queue, run_in_slurm
from common.slurm_options import check_slurm, command_line
from common.workers import preload, run_here, run_in_process


@dataclass(frozen=True)
class Executor:
    """Where jobs are done.

    run(job, its run directory, place, stop, bar): does a job and returns when it has ended; its outcome is
    read from the run's manifest. A job is data, so whatever means there are can send it, the directory and
    the place to where `common.workers.do_unseen` does it: all that comes back is in the run directory.
    Meanwhile it looks at `stop` now and then (`requested`: tell the job to stop, resumable; `at_once`: kill
    it), and shows the news of the run.
    places: of the jobs that are done at the same time, each waited for in a thread of its own.
    is_here: in this process's main thread, which Ctrl-C interrupts; the job itself logs how it failed.
    is_under_way(run directory): a job that an earlier runner left does it still, and `run` waits for that.
    """

    run: Callable[[Job, Path, Place, StopRequest, Progress], Outcome]
    places: Sequence[Place]
    is_here: bool = False
    is_under_way: Callable[[Path], bool] = is_nowhere


def choose_executor(settings: PlanSettings, waiting: Sequence[Job], console: bool) -> Executor:
    """The executor that a plan asks for. waiting: what it is to do first; console: see `run_here`."""
    if settings.executor is not None and (slurm := settings.executor.slurm) is not None:
        queue = Queue()
        places = [Place(number) for number in range(1, settings.num_parallel + 1)]
        run = partial(run_in_slurm, slurm, queue)
        return Executor(run, places, is_under_way=lambda path: queue.job_of(path) is not None)
    if settings.multiprocess:
        if waiting:
            preload(sorted({module for job in waiting for module in job.imports}))
        return Executor(run_in_process, list_places(settings))
    return Executor(partial(run_here, console=console), [Place()], is_here=True)


def list_places(settings: PlanSettings) -> list[Place]:
    """Where processes of this machine run at the same time, each with its own GPU."""
    gpus: list[int | None] = [*settings.gpu_ids_pool] or [None] * settings.num_parallel
    share = settings.num_parallel
    return [Place(number, gpu, share) for number, gpu in enumerate(gpus[:share], start=1)]


def check_executor(settings: PlanSettings) -> None:
    """Raises UserError: jobs cannot be handed to where the plan wants them done."""
    if settings.executor is not None and settings.executor.slurm is not None:
        check_slurm(settings.executor.slurm)


def describe_executor(settings: PlanSettings) -> list[str]:
    """Lines that say what would be submitted; [] where jobs are done on this machine."""
    if settings.executor is None or (slurm := settings.executor.slurm) is None:
        return []
    what = "each experiment is a job of SLURM, submitted when those it starts from have finished"
    number = settings.num_parallel
    at_once = "one at a time (num_parallel)" if number == 1 else f"at most {number} at a time (num_parallel)"
    setup = [f"    first: {command}" for command in slurm.setup]
    return [f"{what}, {at_once}:", f"    sbatch {' '.join(command_line(slurm))}", *setup]
