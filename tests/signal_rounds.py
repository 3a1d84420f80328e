"""Runners that signals cut at random moments and that are started again until they finish.

For the campaigns in tests/slow. Environment variables: SEED of the moments and signals (without it another
one each time, printed), CUTS in each campaign.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
CUTS = int(os.environ.get("CUTS", "12"))
SIGNALS = {
    "KILL": (signal.SIGKILL,),
    "TERM": (signal.SIGTERM,),
    "INT": (signal.SIGINT,),
    "HUP": (signal.SIGHUP,),
    "INT twice": (signal.SIGINT, signal.SIGINT),
}
FIRST = 0.1  # seconds after its start, before which no runner is cut
BEFORE_THE_RUNNER = 2.0  # seconds in which Python may not have reached its first line, on a busy machine
TIMEOUT = 300  # seconds for one start of a runner


@dataclass(frozen=True)
class Job:
    """What is cut.

    command(folder): the runner's arguments, to begin in `folder` or to go on there; None: nothing is left to
    do. numbers(folder): all that a finished runner has left there, to be equal bit for bit. stage(folder):
    where a cut one was, in a few words.
    """

    command: Callable[[Path], list[str] | None]
    numbers: Callable[[Path], Any]
    stage: Callable[[Path], str]


@dataclass(frozen=True)
class Whole:
    """A run that nothing cut: its numbers, and the seconds that it took with its imports."""

    numbers: Any
    seconds: float


def run_whole(job: Job, folder: Path) -> Whole:
    """Run a job in a new folder without a cut."""
    folder.mkdir()
    begin = time.monotonic()
    runner = start(job.command(folder) or [], folder.with_name(f"{folder.name}.txt"))
    assert runner.wait(TIMEOUT) == 0, folder.with_name(f"{folder.name}.txt").read_text()
    return Whole(job.numbers(folder), time.monotonic() - begin)


def start(arguments: list[str], printed: Path) -> subprocess.Popen[bytes]:
    """A runner that leads a process group of its own, as a shell's does; what it prints goes to a file."""
    # What nohup and a shell's "&" ignore the runner would ignore too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with printed.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=REPO, stdout=file, stderr=file, start_new_session=True
        )


def size_of_rows(folder: Path) -> int:
    """Bytes of all rows that runs below a folder have logged; others may be writing to it."""
    size = 0
    for top, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".jsonl"):
                with suppress(FileNotFoundError):
                    size += (Path(top) / name).stat().st_size
    return size


def random_moment(rng: random.Random, folder: Path, seconds: float) -> Callable[[float], bool]:
    """Whether to cut a runner now, given the seconds since it was started.

    That is, as often as not, at any time from its start on, while Python and torch are imported too, or some
    time after its first new row.
    """
    if rng.random() < 0.5:
        delay = rng.uniform(FIRST, seconds)
        return lambda passed: passed > delay
    before, delay, first = size_of_rows(folder), rng.uniform(0, seconds / 2), list[float]()

    def is_due(passed: float) -> bool:
        if not first and size_of_rows(folder) != before:
            first.append(passed)
        return bool(first) and passed > first[0] + delay

    return is_due


def send(runner: subprocess.Popen[bytes], name: str, rng: random.Random, *, to_group: bool) -> int:
    """Send a runner, or its process group, the signals of that name; returns its status."""
    for number, which in enumerate(SIGNALS[name]):
        if number:
            time.sleep(rng.uniform(0, 1))
        if runner.poll() is None:
            (os.killpg if to_group else os.kill)(runner.pid, which)
    return runner.wait(TIMEOUT)


def check_cut(name: str, status: int, passed: float, printed: Path) -> None:
    """A cut runner ended as it is promised to, `passed` seconds after its start."""
    number, text = SIGNALS[name][0], printed.read_text(errors="replace")
    if number in (signal.SIGKILL, signal.SIGHUP):
        assert status in (-number, 0), (name, status, text)
    elif status == -number:
        assert passed < BEFORE_THE_RUNNER, (name, passed, text)
    else:
        assert status in (130, 0) and "Traceback" not in text, (name, status, text)


def shuffled_signals(rng: random.Random) -> list[str]:
    """CUTS names of signals, each as often as the others."""
    names = [*SIGNALS] * -(-CUTS // len(SIGNALS))
    names = names[:CUTS]
    rng.shuffle(names)
    return names


def cut_at_random_moments(title: str, job: Job, whole: Whole, tmp_path: Path) -> None:
    """Cut runs of a job CUTS times in all, go on with each until it ends, compare it with the whole one."""
    rng, seen, starts = random.Random(f"{SEED} {title}"), Counter[str](), 0
    left = shuffled_signals(rng)
    for round_ in itertools.count():
        folder = tmp_path / f"round_{round_}"
        folder.mkdir()
        is_cut = True
        while is_cut and (arguments := job.command(folder)) is not None:
            is_due = random_moment(rng, folder, whole.seconds) if left else lambda passed: False
            to_group = rng.random() < 0.5  # else a runner alone: its workers must end by themselves
            printed = tmp_path / f"printed_{round_}_{starts}.txt"
            runner, begin = start(arguments, printed), time.monotonic()
            starts += 1
            while runner.poll() is None and not is_due(time.monotonic() - begin):
                assert time.monotonic() - begin < TIMEOUT, printed.read_text()
                time.sleep(0.01)
            is_cut = runner.poll() is None
            if is_cut:
                name, passed = left.pop(), time.monotonic() - begin
                check_cut(name, send(runner, name, rng, to_group=to_group), passed, printed)
                seen[f"{name}: {job.stage(folder)}"] += 1
            else:
                assert runner.returncode == 0, printed.read_text()
        assert job.numbers(folder) == whole.numbers, folder
        print(f"\n{title}, seed {SEED}: round {round_} equal, {len(left)} cuts left", flush=True)
        if not left:
            break
    print(f"{title}, seed {SEED}: {seen.total()} cuts in {starts} starts of {round_ + 1} rounds, all equal")
    for name, count in sorted(seen.items()):
        print(f"{count:4}  {name}")
