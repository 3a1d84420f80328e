"""The whole study killed with SIGKILL at any moment, and started again, ends with the same numbers.

At smoke scale: models, learning rates, trainings, extractions, controlled runs, figures and the page.
Prints where the kills hit: pytest -m slow tests/slow/test_study_kills.py -s
"""

import json
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from clones import link_clone, run_smoke, start_smoke

from common.run_dir import find_runs

pytestmark = pytest.mark.slow

KILLS = 14
STAGES = {"controlled": "smoke/controlled", "models": "smoke/models", "runs": "smoke/runs"}


def numbers(clone: Path) -> dict[str, pd.DataFrame]:
    """Every table behind a figure or table, without the names of runs, which hold the time they began."""
    folder = clone / "outputs" / "figures"
    tables = {str(path.relative_to(folder)): pd.read_csv(path) for path in sorted(folder.rglob("*.csv"))}
    return {name: table.drop(columns="run", errors="ignore") for name, table in tables.items()}


def stage(clone: Path) -> str:
    """Where a killed study was: the kinds of runs that are begun and not finished."""
    under_way = [
        f"{name}, {run.manifest.get('job', 'experiment')}"
        for name, folder in STAGES.items()
        for run in find_runs(clone / "outputs" / folder)
        if run.manifest.get("status") != "finished"
    ]
    return " + ".join(sorted(under_way)) or "no run under way"


def kill_after(seconds: float, process: subprocess.Popen[str]) -> str:
    """Kill the process and its workers some seconds after its start; returns what it had printed."""
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    printed, _ = process.communicate()
    timer.cancel()
    return printed


def test_kills_at_random_moments_change_no_number(tmp_path):
    whole, killed = link_clone(tmp_path / "whole"), link_clone(tmp_path / "killed")
    run_smoke(whole)
    rng, hit = random.Random(0), Counter()
    for _ in range(KILLS):
        process = start_smoke(killed)
        kill_after(rng.uniform(4, 40), process)
        if process.returncode == 0:  # it was quicker
            break
        assert process.returncode == -signal.SIGKILL
        hit[stage(killed)] += 1
    print(*(f"{count} x {where}" for where, count in sorted(hit.items())), sep="\n")
    assert sum(hit.values()) >= KILLS // 2
    run_smoke(killed)

    expected, found = numbers(whole), numbers(killed)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True, obj=name)
    for name in STAGES.values():
        runs = [find_runs(clone / "outputs" / name) for clone in (whole, killed)]
        assert [run.manifest["status"] for run in runs[1]] == ["finished"] * len(runs[0])
    left = [path for path in (killed / "outputs").rglob(".tmp-*") if path.is_file()]
    assert left == []
    for path in (killed / "outputs").rglob("*.json"):
        json.loads(path.read_text())
