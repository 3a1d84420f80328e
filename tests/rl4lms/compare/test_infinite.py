"""Models that always won: what the command says, and writes, instead of infinite numbers."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from rl4lms_compare import main


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_model_that_never_lost_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("low", "a"), ("high", "a b"), ("higher", "a b c")):
        rows = [{"prompt": str(n), "generated_text": text, "split": "train"} for n in range(6)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = [str(tmp_path / f"{name}.json") for name in ("low", "high", "higher")]
    judge = ["--judge", "{id: increasing_numbers, args: {min_tokens: 1}}"]
    arguments = [*files, "--output_path", str(tmp_path / "out")]
    assert main([*arguments, *judge]) == 0  # no numbers: ties
    assert "+0" in capsys.readouterr().out
    for name, text in (("low", "x"), ("high", "1 x"), ("higher", "1 2 x")):
        rows = [{"prompt": str(n), "generated_text": text, "split": "train"} for n in range(6)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    assert main([*arguments, *judge]) == 2
    output, error = capsys.readouterr()
    assert error == (
        "increasing_numbers: higher never lost to low, high: by how much it is stronger has no finite "
        "answer; compare them on more prompts, or keep strengths finite with --ridge 1\n"
        f"the win rates are in {tmp_path / 'out' / 'win_rates.csv'}\n"
    )
    assert {float(row["win_rate"]) for row in rows_of(tmp_path / "out" / "win_rates.csv")} == {1}
    assert "win rates, ties half" in output and "strengths (" not in output
    assert "note: the prompts are of split train: models may have learnt on them" in output
    for word in ("inf", "nan"):
        assert word not in output.replace("finite", "").lower()
        for path in (tmp_path / "out").glob("*.csv"):
            assert word not in path.read_text().lower()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["strengths"][1]["elo"] is None
    assert main([*arguments, *judge, "--ridge", "1"]) == 0
    output, error = capsys.readouterr()
    assert "strengths (Bradley-Terry)" in output and error == ""


def test_groups_that_were_never_compared_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name in ("sft", "ppo", "ptx"):
        rows = [{"prompt": str(n), "generated_text": f"{name} {n}"} for n in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        files.append(str(tmp_path / f"{name}.json"))
    choices = [{"prompt": str(n), "a": f"sft {n}", "b": f"ppo {n}", "choice": "ab"[n % 2]} for n in range(4)]
    (tmp_path / "choices.json").write_text(json.dumps(choices))
    arguments = [*files, "--judge", str(tmp_path / "choices.json"), "--output_path", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "ptx and sft, ppo were never compared with each other" in capsys.readouterr().err
    assert float(rows_of(tmp_path / "out" / "win_rates.csv")[0]["win_rate"]) == 0.5
    assert main([*arguments, "--ridge", "1"]) == 0


def test_an_interval_without_an_end_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, first, others in (("low", "1 2 x", "x"), ("high", "x", "1 x")):  # one of ten prompts is lost
        texts = [first, *[others] * 9]
        rows = [{"prompt": str(n), "generated_text": text} for n, text in enumerate(texts)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        files.append(str(tmp_path / f"{name}.json"))
    assert main([*files, "--judge", "increasing_numbers", "--output_path", str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert re.search(r"increasing_numbers  high   \+382  \+\d+ or more\n", output), output
    row = rows_of(tmp_path / "out" / "strengths.csv")[1]
    assert float(row["elo"]) == pytest.approx(400 * math.log10(9)) and row["high"] == ""
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["strengths"][1]["high"] is None
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 1000
