"""Runs of plans as jobs of a real SLURM: killed, told to make room, left by their runner, stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from plan_runs import wait_until, write_plan
from slurm_cluster import ask, running_slurm
from toy_jobs import counting, values

from common import slurm
from common.jobs import Job
from common.plan import PlanSettings
from common.schedule import run_jobs

TESTS = Path(__file__).parents[1]
REPO = TESTS.parent
pytestmark = pytest.mark.slurm
EXECUTOR = {"slurm": {"time": 10}}
SETTINGS = PlanSettings.model_validate({"num_parallel": 4, "executor": EXECUTOR})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(autouse=True)
def on_cluster(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    for name, value in {**cluster, "PYTHONPATH": os.pathsep.join(paths)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "ASK_EVERY", 1.0)


def number_of(cluster: dict[str, str], label: str, state: str) -> Callable[[], str]:
    """The number of the job with this name, once it is in this state."""

    def look() -> str:
        answer = ask(cluster, "squeue", "-h", "-t", state, f"--name={label}", "-o", "%A")
        return answer.strip()

    return look


def rows(folder: Path, label: str) -> int:
    return len(values(folder).get(label, []))


def six(folder: Path, slow: float = 0.0) -> list[Job]:
    """Six jobs that come after each other; what each counts depends on those before it."""
    a = counting(folder, "a", 3)
    b = counting(folder, "b", 30, (a,), slow)
    c = counting(folder, "c", 31, (a,), slow)
    d = counting(folder, "d", 4, (a,))
    return [a, b, c, d, counting(folder, "e", 5, (b, c)), counting(folder, "f", 2, (d,))]


def test_six_jobs_after_each_other_of_which_some_are_killed_or_moved_count_as_here(tmp_path, cluster, caplog):
    caplog.set_level("INFO")
    here, folder = tmp_path / "here", tmp_path / "slurm"
    run_jobs(PlanSettings(), six(here), console=False)
    numbers = {}

    def disturb() -> None:
        for label in "bc":
            numbers[label] = wait_until(number_of(cluster, label, "RUNNING"))
            wait_until(lambda label=label: rows(folder, label) > 2)
        (run,) = folder.glob("b_*")
        os.kill(int((run / ".lock").read_text().split()[0]), signal.SIGKILL)  # it cannot say a word
        ask(cluster, "scancel", "--signal=USR2", numbers["c"])  # SLURM needs its machine
        wait_until(lambda: number_of(cluster, "c", "PENDING")() == numbers["c"])
        time.sleep(1.5)  # SLURM lets it wait for two minutes
        ask(cluster, "scontrol", "update", f"JobId={numbers['c']}", "StartTime=now")

    with ThreadPoolExecutor(1) as pool:
        disturbance = pool.submit(disturb)
        outcomes = run_jobs(SETTINGS, six(folder, 0.1), console=False)
        disturbance.result()
    assert [outcome.status for outcome in outcomes] == ["finished"] * 6
    assert values(folder) == values(here)
    cut = f"b: SLURM ended its job {numbers['b']} (FAILED), the run is running: submitted again"
    assert cut in caplog.text
    runs = {outcome.run.name[0]: outcome.run for outcome in outcomes if outcome.run}
    submitted = {label: len(list((run / "slurm").glob("*_submitted.pkl"))) for label, run in runs.items()}
    assert submitted == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1, "f": 1}
    # The same again finds all of them.
    caplog.clear()
    again = run_jobs(SETTINGS, six(folder, 0.1), console=False)
    assert {outcome.status for outcome in again} == {"skipped"}
    assert "of SLURM" not in caplog.text


RUNNER = """
import logging, sys
from pathlib import Path
from test_slurm import SETTINGS
from common.console import setup_logging
from common.schedule import run_jobs
from toy_jobs import counting
folder = Path(sys.argv[1])
a, b = counting(folder, "a", 3), counting(folder, "b", 40, seconds=0.1)
with setup_logging(console=True):
    outcomes = run_jobs(SETTINGS, [a, b, counting(folder, "c", 2, (a, b))])
print([outcome.status for outcome in outcomes])
"""


def start_runner(folder: Path) -> subprocess.Popen:
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(TESTS / "common"), str(REPO)])
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_a_runner_that_is_killed_leaves_its_jobs_to_the_next_and_one_that_is_stopped_stops_them(
    tmp_path, cluster
):
    first = start_runner(tmp_path)
    wait_until(lambda: rows(tmp_path, "b") > 2)
    first.kill()
    first.communicate()
    number = number_of(cluster, "b", "RUNNING")()
    second = start_runner(tmp_path)
    assert second.stdout is not None
    line = next(line for line in second.stdout if "b: " in line)
    assert f"b: job {number} of SLURM is under way" in line
    second.terminate()
    output, _ = second.communicate(timeout=60)
    assert "['finished', 'interrupted', 'interrupted']" in output or "['skipped', 'interrupted'" in output
    wait_until(lambda: ask(cluster, "squeue", "-h", "-o", "%A") == "")  # nothing is left behind
    counted = rows(tmp_path, "b")
    assert 2 < counted < 40
    third = start_runner(tmp_path)
    output, _ = third.communicate(timeout=60)
    assert "['skipped', 'finished', 'finished']" in output
    assert values(tmp_path)["b"] == list(range(1, 41))


def test_a_job_that_fails_says_why_and_one_that_slurm_refuses_too(tmp_path, cluster):
    (outcome,) = run_jobs(SETTINGS, [counting(tmp_path, "a", -1)], console=False)
    assert (outcome.status, outcome.error) == ("failed", "ValueError: cannot count below 0")
    refused = {"num_parallel": 4, "executor": {"slurm": {"time": 10, "partition": "nowhere"}}}
    (outcome,) = run_jobs(PlanSettings.model_validate(refused), [counting(tmp_path, "b", 3)], console=False)
    assert outcome.status == "failed"
    assert re.search("^it cannot be submitted: .*[Ii]nvalid partition", outcome.error or ""), outcome.error


CONTROLLED = REPO / "sft_vs_rft_controlled_experiments_plan_runner.py"


def test_a_failed_run_whose_next_job_is_cancelled_before_it_begins_is_tried_again(
    tmp_path, cluster, monkeypatch
):
    job = counting(tmp_path, "a", -1)
    assert run_jobs(SETTINGS, [job], console=False)[0].status == "failed"
    monkeypatch.setattr(slurm, "MOST_TRIES", 1)
    held = {"slurm": {"time": 10, "sbatch": {"begin": "now+1hour"}}}
    settings = PlanSettings.model_validate({"num_parallel": 4, "executor": held})
    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(
            lambda: ask(cluster, "scancel", wait_until(number_of(cluster, "a", "PENDING")))
        )
        (outcome,) = run_jobs(settings, [job], console=False)
        cancelling.result()
    assert outcome.status == "failed"
    assert re.search(
        r"SLURM ended its job \d+ \(CANCELLED\), the run is not begun, 1 times", outcome.error or ""
    )


def test_what_slurm_would_refuse_is_said_before_anything_is_submitted(tmp_path, cluster):
    plan = write_plan(tmp_path)
    options = ["--set", "executor.slurm.time=10", "--set", "executor.slurm.partition=nowhere"]
    command = [sys.executable, str(CONTROLLED), "--plan_config_path", str(plan), *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "executor.slurm: SLURM refuses such jobs: invalid partition specified: nowhere"
    )
    assert not (tmp_path / "runs").exists()
