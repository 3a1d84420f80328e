"""Tables as text, and the files that each leaves."""

import json
import shutil
import subprocess

import pandas as pd
import pytest

from figures.tables import (
    latex,
    latex_text,
    markdown,
    number,
    percent,
    save_table,
    setting,
    short,
    signed,
    with_interval,
    with_std,
)

NAN = float("nan")
AWKWARD = r"10% of a_b & $5 #1 {x} \ ~ ^ <y> |z| ± -0.5, x-ray"
SHOWN = pd.DataFrame({"task": ["a", AWKWARD], "RFT": ["0.500 ± 0.100", "-"]})
NUMBERS = pd.DataFrame({"task": ["a", "b"], "rft": [1 / 3, NAN]})


def test_numbers_as_text():
    assert [number(1 / 3), signed(0.5), short(-0.5), percent(0.25), setting(3e-5)] == [
        "0.333",
        "+0.50",
        "-0.50",
        "25%",
        "3e-05",
    ]
    assert {number(NAN), signed(NAN), short(NAN), percent(NAN), setting(NAN)} == {"-"}
    assert with_interval(0.5, 0.25, 0.75, signed) == "+0.50 [+0.25, +0.75]"
    assert with_interval(0.5, NAN, NAN) == "0.500"
    assert (with_std(0.5, 0.1), with_std(0.5, NAN)) == ("0.500 ± 0.100", "0.500")


def test_markdown_keeps_its_columns():
    lines = markdown(SHOWN).splitlines()
    assert lines[0] == "| task | RFT |" and lines[1] == "| --- | --- |"
    assert r"\|z\|" in lines[3]


def test_latex_says_minus_and_escapes_the_rest():
    assert latex_text("-0.5 [-0.1, 2-3] x-1") == "$-$0.5 [$-$0.1, 2-3] x-1"
    assert latex_text("a_b & 10%") == r"a\_b \& 10\%"
    assert latex_text("\\") == r"\textbackslash{}"


def test_latex_has_a_cell_for_each_column():
    text = latex(SHOWN, "Caption: 5%", "t")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(row.count(" & ") == 1 for row in rows)
    assert r"\caption{Caption: 5\%}" in text and r"\toprule" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    document = head + latex(SHOWN, AWKWARD, "t") + r"\end{document}"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout[-2000:]


def test_writes_four_files_with_the_numbers_in_full(tmp_path):
    runs = [{"path": "outputs/a"}]
    paths = save_table(SHOWN, NUMBERS, tmp_path / "new" / "table1", "Caption.", runs, seed=1)
    assert [path.name for path in paths] == [f"table1.{suffix}" for suffix in ("md", "tex", "csv", "json")]
    pd.testing.assert_frame_equal(pd.read_csv(paths[2]), NUMBERS, check_exact=True, check_dtype=False)
    assert json.loads(paths[3].read_text()) == {"table": "table1", "seed": 1, "runs": runs}
    assert paths[0].read_text() == f"{markdown(SHOWN)}\nCaption.\n"
