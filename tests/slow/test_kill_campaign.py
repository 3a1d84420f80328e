"""Plans cut by signals at any moment and started again come to the numbers of an uninterrupted plan.

Prints where the cuts hit: SEED=7 CUTS=20 pytest -m slow tests/slow/test_kill_campaign.py -s
"""

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from plan_runs import all_numbers, rows_written, runs_of, write_plan
from processes import snapshot
from signal_rounds import SEED, TIMEOUT, Job, Whole, cut_at_random_moments, run_whole, start

from common.run_dir import load_checkpoint, read_metrics
from sft_vs_rft_controlled_experiments_plan_runner import main

pytestmark = pytest.mark.slow

RUNNER = "sft_vs_rft_controlled_experiments_plan_runner.py"
EPOCHS = 400
METHODS = ["reinforce", "supervised"]


def make_plan(folder: Path, multiprocess: bool, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"epochs": EPOCHS, "validate_every": 2, "num_checkpoints": 2, "save_metric_plots": True}
    parallel = {"multiprocess": multiprocess, "num_parallel": 2}
    return write_plan(folder, {"opt_method": METHODS}, **(settings | parallel | fields))


def campaign_job(multiprocess: bool) -> Job:
    def command(folder: Path) -> list[str]:
        return [RUNNER, "--plan_config_path", str(make_plan(folder, multiprocess))]

    return Job(command, checked_numbers, stage)


def files_in(folder: Path) -> list[Path]:
    """All files below a folder to which others may be writing."""
    return [Path(top) / name for top, _, names in os.walk(folder) for name in names]


def stage(folder: Path) -> str:
    """Where a killed plan was, as its files tell: what each experiment had begun and not ended."""
    runs = folder / "runs"
    paths = sorted(runs.iterdir()) if runs.is_dir() else []
    stages = [stage_of(path) for path in paths]
    under_way = [s for s in stages if s != "finished"]
    return " + ".join(sorted(under_way)) if under_way else f"{len(stages)} finished, none under way"


def stage_of(run: Path) -> str:
    if not (run / "manifest.json").exists():
        return "making the folder"
    if json.loads((run / "manifest.json").read_text())["status"] == "finished":
        return "finished"
    rows = rows_written(run)
    checkpoints = sorted(path.name for path in (run / "checkpoints").glob("*.pt"))
    epochs = int(checkpoints[-1].removesuffix(".pt").rpartition("_")[2]) + 1 if checkpoints else 0
    temporary = [path for path in files_in(run) if path.name.startswith(".tmp-")]
    if temporary:
        return f"writing {temporary[0].parent.name if temporary[0].parent != run else 'manifest or rows'}"
    if rows == 0:
        return "before the first row"
    if epochs == EPOCHS:
        return "after the last checkpoint"
    if len(checkpoints) > 2:
        return "between checkpoint and deletion"
    return "rows ahead of the checkpoint" if rows > epochs else "rows and checkpoint equal"


def check_files(folder: Path) -> None:
    """Every file that the runs left can be read, and none is temporary."""
    kinds: Counter[str] = Counter()
    for path in files_in(folder / "runs"):
        assert not path.name.startswith(".tmp-"), path
        kinds[path.suffix] += 1
        match path.suffix:
            case ".json":
                assert isinstance(json.loads(path.read_text()), dict)
            case ".jsonl":
                assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
                assert path.read_bytes().endswith(b"\n")
            case ".pt":
                assert "model" in load_checkpoint(path)
            case ".png":
                Image.open(path).verify()
            case ".txt":
                path.read_text()
    assert kinds[".json"] == 4 and kinds[".jsonl"] == 2 and kinds[".pt"] >= 2


def checked_numbers(folder: Path) -> dict[str, Any]:
    """The numbers of a finished plan, in one run for each experiment."""
    check_files(folder)
    for path in (folder / "runs").iterdir():
        # Killed before it had written its number into the lock, a run leaves an empty folder.
        assert (path / "manifest.json").exists() or not any(f.stat().st_size for f in files_in(path)), path
    for run in runs_of(folder):
        assert [row["epoch"] for row in read_metrics(run.path)] == list(range(run.config["epochs"]))
    return all_numbers(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The plan when nothing stops it."""
    return run_whole(campaign_job(multiprocess=False), tmp_path_factory.mktemp("whole") / "plan")


@pytest.mark.parametrize("multiprocess", [False, True], ids=["in process", "in processes"])
def test_cut_at_random_moments(multiprocess: bool, whole: Whole, tmp_path: Path) -> None:
    job = campaign_job(multiprocess)
    title = "controlled plan in processes" if multiprocess else "controlled plan in process"
    cut_at_random_moments(title, job, whole, tmp_path)
    folder = tmp_path / "round_0"
    after = snapshot(folder / "runs")
    assert start(job.command(folder) or [], tmp_path / "again.txt").wait(TIMEOUT) == 0
    assert snapshot(folder / "runs") == after, "nothing is left to do"


# Moments that chance seldom finds: the kill comes right before the nth thing that is done to a file.

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def in_child_killed_before_change(number: int, folder: Path, work: Callable[[], int]) -> bool:
    """Run `work` in a forked process that dies before its nth change of a file below `folder`; did it die?"""
    pid = os.fork()
    if pid == 0:
        left = number

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            if event not in CHANGES or (event == "open" and not args[2] & WRITING):
                return
            if isinstance(args[0], str | os.PathLike) and not str(args[0]).startswith(str(folder)):
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            os._exit(work())
        finally:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


SHORT = {"epochs": 3, "validate_every": 1, "num_checkpoints": 1, "save_metric_plots": False}


@pytest.fixture(scope="module")
def whole_short(tmp_path_factory):
    plan = make_plan(tmp_path_factory.mktemp("short") / "plan", False, **SHORT)
    assert main(["--plan_config_path", str(plan), "--disable_console_log"]) == 0
    return all_numbers(plan.parent)


def test_killed_before_each_change_of_a_file(whole_short, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # What a killed process has written needs none.
    number, killed = 0, True
    while killed:
        number += 1
        plan = make_plan(tmp_path / str(number), False, **SHORT)
        command = ["--plan_config_path", str(plan), "--disable_console_log"]
        killed = in_child_killed_before_change(number, plan.parent / "runs", lambda: main(command))  # noqa: B023
        assert main(command) == 0
        assert checked_numbers(plan.parent) == whole_short
    print(f"\nkilled before each of {number - 1} changes of files")
    assert number > 60


def test_killed_again_and_again_before_changes_of_files(whole_short, tmp_path, monkeypatch):
    """Also while a run is being resumed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    rng, kills = random.Random(SEED), 0
    for round_ in range(25):
        plan = make_plan(tmp_path / str(round_), False, **SHORT)
        command = ["--plan_config_path", str(plan), "--disable_console_log"]
        while in_child_killed_before_change(rng.randint(1, 40), plan.parent / "runs", lambda: main(command)):  # noqa: B023
            kills += 1
        assert checked_numbers(plan.parent) == whole_short
    print(f"\nseed {SEED}: {kills} kills in 25 plans")
