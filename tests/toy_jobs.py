"""Jobs that count to a number in a file, for the tests of what runs jobs."""

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import Interrupted
from common.identity import IDENTITY, hash_of
from common.jobs import Job, Place, Report
from common.run_dir import RunDir, find_runs, read_metrics


def create(
    folder: Path, label: str, identity: str, earlier: Sequence[Path] = (), place: Place | None = None
) -> RunDir:
    manifest = {IDENTITY: identity, "earlier": [path.name for path in earlier]}
    return RunDir.create(folder, label, {}, manifest)


def count(
    to: int, seconds: float, run: RunDir, place: Place, stop: Callable[[], bool], report: Report
) -> None:
    """Count on from where an earlier try is, by what the runs before it counted to; -1 fails at once."""
    if to < 0:
        raise ValueError("cannot count below 0")
    earlier = [run.path.parent / name for name in run.manifest["earlier"]]
    step = sum(len(read_metrics(path)) for path in earlier) or 1
    for number in range(len(read_metrics(run.path)), to):
        if stop():
            raise Interrupted
        run.append_metrics({"epoch": number, "value": step * (number + 1)})
        report(number + 1)
        time.sleep(seconds)


def counting(
    folder: Path, label: str, to: int = 3, after: tuple[Job, ...] = (), seconds: float = 0.0, seed: int = 0
) -> Job:
    identity = hash_of([to, seed, [job.identity for job in after]])
    work = partial(count, to, seconds)
    return Job(label, identity, folder, partial(create, folder, label, identity), work, after, steps=to)


def job_doing(folder: Path, label: str, work: Callable[..., object], **fields: Any) -> Job:
    """A job that does `work(run, place, stop, report)`."""
    identity = hash_of(label)
    return Job(label, identity, folder, partial(create, folder, label, identity), work, **fields)


def values(folder: Path) -> dict[str, list[int]]:
    """Label -> what its one run counted. Folders of runs killed before they had a manifest do not count."""
    counted: dict[str, list[int]] = {}
    for run in find_runs(folder):
        label = re.split(r"_\d{4}-\d\d-\d\d_", run.path.name)[0]
        assert label not in counted, "one run each"
        counted[label] = [row["value"] for row in read_metrics(run.path)]
    return counted
