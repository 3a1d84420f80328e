"""The whole study cut by signals at any moment, and started again, ends with the same numbers.

At smoke scale: models, learning rates, trainings, extractions, controlled runs, figures and the page.
Prints where the cuts hit: SEED=7 CUTS=20 pytest -m slow tests/slow/test_study_kills.py -s
"""

import json
import random
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from clones import link_clone, run_smoke, start_smoke
from signal_rounds import CUTS, FIRST, SEED, check_cut, send, shuffled_signals

from common.run_dir import find_runs

pytestmark = pytest.mark.slow

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


def test_cuts_at_random_moments_change_no_number(tmp_path):
    whole, cut = link_clone(tmp_path / "whole"), link_clone(tmp_path / "cut")
    begin = time.monotonic()
    run_smoke(whole)
    seconds = time.monotonic() - begin
    rng, hit = random.Random(f"{SEED} study"), Counter[str]()
    for name in shuffled_signals(rng):
        printed, delay = tmp_path / f"printed_{hit.total()}.txt", rng.uniform(FIRST, seconds / 3)
        process = start_smoke(cut, printed)
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        if process.returncode == 0:  # it was quicker
            break
        # A worker left alone ends by itself, while the study is started again.
        status = send(process, name, rng, to_group=rng.random() < 0.5)
        check_cut(name, status, delay, printed)
        hit[f"{name}: {stage(cut)}"] += 1
    print(f"\nstudy, seed {SEED}: {hit.total()} cuts")
    print(*(f"{count:4}  {where}" for where, count in sorted(hit.items())), sep="\n")
    assert hit.total() >= CUTS // 2
    run_smoke(cut)

    expected, results = numbers(whole), numbers(cut)
    assert results.keys() == expected.keys() and len(results) > 10
    for name, table in expected.items():
        pd.testing.assert_frame_equal(results[name], table, check_exact=True, obj=name)
    for name in STAGES.values():
        runs = [find_runs(clone / "outputs" / name) for clone in (whole, cut)]
        assert [run.manifest["status"] for run in runs[1]] == ["finished"] * len(runs[0])
    left = [path for path in (cut / "outputs").rglob(".tmp-*") if path.is_file()]
    assert left == []
    for path in (cut / "outputs").rglob("*.json"):
        json.loads(path.read_text())
