"""Jobs that count to a number in a file, for the tests of what runs jobs."""

import re
import time
from functools import partial
from pathlib import Path

from common.identity import IDENTITY, hash_of
from common.jobs import Job, Outcome, Turn, carry_out
from common.run_dir import RunDir, find_runs, read_metrics


class CountingStopped(Exception):
    pass


def count(to: int, seconds: float, turn: Turn) -> Outcome:
    """Count on from where an earlier run is, by what the runs before it counted to; -1 fails at once."""

    def create() -> RunDir:
        manifest = {IDENTITY: turn.job.identity, "earlier": [path.name for path in turn.earlier]}
        return RunDir.create(turn.job.folder, turn.job.label, {}, manifest)

    def work(run: RunDir) -> None:
        if to < 0:
            raise ValueError("cannot count below 0")
        step = sum(len(read_metrics(path)) for path in turn.earlier) or 1
        for number in range(len(read_metrics(run.path)), to):
            if turn.stop():
                raise CountingStopped
            run.append_metrics({"epoch": number, "value": step * (number + 1)})
            turn.report(number + 1)
            time.sleep(seconds)

    return carry_out(turn, create, work, CountingStopped)


def counting(
    folder: Path, label: str, to: int = 3, after: tuple[Job, ...] = (), seconds: float = 0.0, seed: int = 0
) -> Job:
    identity = hash_of([to, seed, [job.identity for job in after]])
    return Job(label, identity, folder, partial(count, to, seconds), after, steps=to)


def values(folder: Path) -> dict[str, list[int]]:
    """Label -> what its one run counted. Folders of runs killed before they had a manifest do not count."""
    found: dict[str, list[int]] = {}
    for run in find_runs(folder):
        label = re.split(r"_\d{4}-\d\d-\d\d_", run.path.name)[0]
        assert label not in found, "one run each"
        found[label] = [row["value"] for row in read_metrics(run.path)]
    return found
