"""Odd but well-typed values in shipped configs: what `--check` accepts runs, or says what nobody could know.

pytest -m slow tests/slow/test_odd_values.py -s        (MUTANTS=1000 SEED=0 RUNS=150 for others)
"""

import io
import os
import random
import re
import signal
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from odd_configs import Tiny, mutate, shorten, tiny_configs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("docstring_cache")]

MUTANTS = int(os.environ.get("MUTANTS", "1000"))
SEED = int(os.environ.get("SEED", "0"))
RUNS = int(os.environ.get("RUNS", "150"))
SECONDS = 120
# What only the run can tell, each with the reason.
UNKNOWABLE = {
    r"is not finite|the gradient's norm is|the mean KL per token|train loss is nan": "diverged",
    r"not in (this machine's|the local) cache|could not be (downloaded|read) from": "not on this machine",
    r"'python_docs', split '\w+': there are no samples": "too few docstrings, as harvesting shows",
    r"runtime\.on_degenerate_rollout: stop\)": "equal rewards, where the config says stop",
}


class TooLong(BaseException):
    pass


def call(tiny: Tiny, path: Path, output: Path, *more: str) -> tuple[object, str]:
    """Exit status, or "traceback", and what was printed."""
    main, flags = tiny.command(path, output)
    out, err = io.StringIO(), io.StringIO()

    def alarm(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code: object = main([*flags, *more])
    except BaseException:
        code = "traceback"
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    printed = err.getvalue()
    if "TooLong" in printed:
        code = "too long"
    elif "Traceback (most recent call last)" in printed:
        code = "traceback"
    return code, printed


def last_error(printed: str) -> str:
    lines = printed.splitlines() or [""]
    return ([line for line in lines if " ERROR " in line or line.startswith("  ")] or lines)[-1][:400]


def test_what_is_accepted_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = tiny_configs(tmp_path / "tiny")
    assert len(files) > 20
    rng = random.Random(SEED)
    checked, ran, wrong, ended = Counter[str](), Counter[str](), list[str](), list[str]()
    seconds = time.monotonic()
    for number in range(MUTANTS):
        tiny = files[number % len(files)]
        change, data = mutate(tiny, rng)
        path = tiny.write(data, tmp_path / f"{number}.yml")
        code, printed = call(tiny, path, tmp_path / f"out_{number}", "--check")
        checked[{0: "accepted", 2: "refused"}.get(code, str(code))] += 1
        what = f"{number} {tiny.name}: {change}"
        if code not in (0, 2):
            wrong.append(f"check, {what}: {code}\n{printed[-1500:]}")
        if code != 0 or sum(ran.values()) == RUNS:
            continue
        tiny.write(shorten(data), tmp_path / f"{number}.yml")
        code, printed = call(tiny, path, tmp_path / f"out_{number}")
        if code == 0:
            ran["finished"] += 1
            continue
        if code == "too long":  # such as the docstrings of all packages; at most a few
            ran[code] += 1
            ended.append(f"{what}: {code}")
            continue
        reason = next((why for known, why in UNKNOWABLE.items() if re.search(known, printed)), None)
        if code in (1, 2) and reason is not None:
            ran[reason] += 1
            ended.append(f"{what}: {last_error(printed)}")
        else:
            ran["wrong"] += 1
            said = printed[-1500:] if code == "traceback" else last_error(printed)
            wrong.append(f"run, {what}: {code}: {said}")
            print(wrong[-1], flush=True)
    seconds = time.monotonic() - seconds
    print(f"\nseed {SEED}: {dict(checked)} of {MUTANTS} mutants of {len(files)} files")
    print(f"of the accepted {sum(ran.values())} were run: {dict(ran)}; {seconds:.0f} s in all")
    print(*ended, sep="\n")
    assert wrong == [], "\n\n".join(wrong)
    assert (
        ran["finished"] > RUNS / 2
        and ran["too long"] <= max(2, RUNS // 20)
        and checked["refused"] > MUTANTS / 10
    )
