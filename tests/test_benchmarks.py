"""Benchmarks run as their document says; what takes minutes there is slow here."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def run(name: str, *arguments: str) -> list[list[str]]:
    """The words of the lines that a benchmark prints."""
    command = [sys.executable, str(REPO / "benchmarks" / name), *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO).stdout
    return [line.split() for line in output.splitlines()]


def test_groups_against_a_plain_loop():
    """Which first agrees with the project on losses and gradients."""
    lines = run("group.py", "--models", "gpt2-tiny", "--repeats", "1")
    rows = [line for line in lines if line[:1] == ["gpt2-tiny"]]
    assert [row[1] for row in rows] == ["grpo", "rloo"]
    assert all(float(row[-1]) < 1e-3 for row in rows)
    has_trl = importlib.util.find_spec("trl") is not None
    assert (["TRL", "is", "not", "installed,", "so", "it", "takes", "no", "part"] in lines) == (not has_trl)


@pytest.mark.slow
def test_copies_of_the_weights():
    peaks = {line[0]: float(line[2]) for line in run("memory.py") if line[0] in ("ppo", "rloo", "grpo")}
    assert peaks["ppo"] - peaks["rloo"] == pytest.approx(4, abs=0.5)
    assert peaks["rloo"] - peaks["grpo"] == pytest.approx(1, abs=0.5)
