"""What a diagnosis leaves appears together or not at all, and nothing in it computes or breaks a terminal."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from clones import REPO
from diagnosis_logs import make_log, write

from rft_diagnose import cli, results, write_report
from rft_diagnose.names import Columns
from rft_diagnose.results import numbers_csv, results_together, write_inputs
from rft_diagnose.tables import read_rewards

TEXTS = [
    "=1+1", "+1", "-2 apples", "@sum", "\tx", "\rx", '=HYPERLINK("http://x")', "'=1", "''=1", "'", "'a",
    "a=1",
    " =1", "", "é", "=", "-", "a\nb", "=1\n=2", "1,2",
]  # fmt: skip


def test_texts_that_begin_like_formulas_are_defused_and_read_back_the_same(tmp_path):
    size = len(TEXTS)
    columns = {
        "input": np.array(TEXTS, dtype=object),
        "=reward: mean": np.linspace(-1, 1, size),
        **{name: np.linspace(-1, 1, size) for name in ("std_ddof0", "more")},
        "looks": np.array(["flat_low"] * size),
    }
    write_inputs(columns, tmp_path / "inputs.csv")
    cells = list(csv.reader((tmp_path / "inputs.csv").open(newline="")))
    assert [row[0] for row in cells[1:7]] == ["'=1+1", "'+1", "'-2 apples", "'@sum", "'\tx", "'\rx"]
    assert cells[0][1] == "'=reward: mean" and cells[1][1] == "-1"  # a number computes nothing
    for row in cells:
        for cell in row[:1] + row[-1:]:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    asked = Columns(prompt="input", rewards=("=reward: mean",))
    table = read_rewards([tmp_path / "inputs.csv"], asked)
    assert table.labels == TEXTS
    assert table.rewards["=reward: mean"] == pytest.approx(columns["=reward: mean"])


def test_apostrophes_of_other_tables_stay(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,reward\n'=1,0\n'=1,1\n")
    assert read_rewards([tmp_path / "t.csv"], Columns()).labels == ["'=1"]


def test_tables_of_pictures_are_defused_too():
    text = numbers_csv({"=x": np.array(["=1", "+2", "ok"], dtype=object), "y": np.array([-1.0, 2.0, np.nan])})
    assert pd.read_csv(io.StringIO(text)).to_dict("list")["'=x"] == ["'=1", "'+2", "ok"]
    assert list(csv.reader(io.StringIO(text)))[1] == ["'=1", "-1.0"]


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "t.jsonl", make_log(1))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes nearly all of the time."""
    monkeypatch.setattr(cli, "write_report", lambda *arguments: False)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_an_error_in_any_write_leaves_what_was_there(tmp_path, table, monkeypatch, capsys):
    """A full disk, in turn at each file that is written or moved."""
    output = tmp_path / "out"
    assert run(table, "--output_path", output) == 0
    before, replace, count, failing = contents(output), os.replace, 0, 0
    monkeypatch.setattr(write_report, "draw", lambda *arguments: [])

    def full(source, target):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(results.os, "replace", full)
    other = write(tmp_path / "u.jsonl", [row | {"accuracy_reward": 1.0} for row in make_log(1)])
    # 4 files are written, 17 earlier ones moved away and 4 new ones there.
    for move in range(1, 26):
        count, failing = 0, move
        capsys.readouterr()
        assert run(other, "--output_path", output) == 2
        error = capsys.readouterr().err
        assert f"{output} (--output_path) cannot be written: No space left on device, " in error
        assert error.endswith(" MB free; what was there is as before\n")
        assert contents(output) == before
    count, failing = 0, 0
    assert run(other, "--output_path", output) == 0 and count == 25
    assert set(contents(output)) == {"inputs.csv", "summary.json", "report.html", "explorer.html"}


def test_results_of_an_earlier_check_go_together(tmp_path, table):
    """A log over time with dead inputs, then a table with neither."""
    output = tmp_path / "out"
    log = write(tmp_path / "log.jsonl", make_log(1) + make_log(2))
    assert run(log, "--output_path", output) == 0
    assert (output / "over_time.png").exists() and (output / "dead_low.jsonl").exists()
    (output / "mine.txt").write_text("kept")
    live = [{"prompt": "p", "reward": i % 2} for i in range(96)]
    assert run(write(tmp_path / "u.jsonl", live), "--output_path", output) == 0
    left = {path.name for path in output.iterdir()}
    assert "over_time.png" not in left and "dead_low.jsonl" not in left and "mine.txt" in left
    assert not [name for name in left if name.startswith(".")]
    assert json.loads((output / "summary.json").read_text())["diagnosed"] == "reward"


def test_folders_that_cannot_be_written_are_one_line(tmp_path, table, capsys, no_report):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing" / "here")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inputs.csv").mkdir()
    (tmp_path / "taken" / "inputs.csv" / "x").write_text("")
    for name in ("file", "file/below", "dangling", "dangling/below", "x" * 300):
        assert run(table, "--output_path", tmp_path / name) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / name} (--output_path) cannot be written: " in error and error.count("\n") == 1
    assert run(table, "--output_path", tmp_path / "taken") == 0  # a folder of that name is moved, too
    assert {path.name for path in tmp_path.iterdir()} == {"t.jsonl", "file", "dangling", "taken"}


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), results_together(tmp_path / "a" / "b") as staging:
        (staging / "inputs.csv").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line(table, monkeypatch, capsys):
    def exhausted(*arguments):
        raise MemoryError

    monkeypatch.setattr(cli, "read_rewards", exhausted)
    assert run(table) == 2
    assert capsys.readouterr().err == f"{table}: there is not enough memory for the diagnosis\n"


def rft_diagnose(*arguments, environment=(), **options):
    command = [sys.executable, "-m", "rft_diagnose.cli", *map(str, arguments)]
    settings = os.environ | {"PYTHONPATH": str(REPO)} | dict(environment)
    return subprocess.run(command, capture_output=True, env=settings, **options)


def test_standard_input_is_read(tmp_path, table):
    for source in ("pipe", "file"):
        content = {"input": table.read_bytes()} if source == "pipe" else {"stdin": table.open("rb")}
        result = rft_diagnose("/dev/stdin", cwd=tmp_path, **content)
        assert result.returncode == 0, result.stderr
        assert b"accuracy_reward: 12 inputs, 96 generations" in result.stdout
    assert (tmp_path / "outputs" / "diagnosis" / "stdin" / "inputs.csv").exists()


def test_texts_that_a_terminal_cannot_write_are_escaped(tmp_path):
    rows = [row | {"récompense": row["accuracy_reward"]} for row in make_log(1)]
    path = write(tmp_path / "t.jsonl", rows)
    odd = os.fsencode(path).replace(b"t.jsonl", b"\xff.jsonl")
    os.rename(os.fsencode(path), odd)
    result = rft_diagnose(
        os.fsdecode(odd), "--reward", "récompense", "--output_path", tmp_path / "out",
        environment={"PYTHONIOENCODING": "ascii"}, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert rb"r\xe9compense: 12 inputs" in result.stdout and (tmp_path / "out" / "report.html").exists()
