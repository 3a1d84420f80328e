"""The worked example of docs/diagnosis.md: what it runs, and that the docs quote what the check prints."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from diagnose_vanishing_gradients import build_parser
from pretrain_small_language_model import build_parser as pretrain_parser

REPO = Path(__file__).parents[1]


def example():
    path = REPO / "examples" / "diagnose_python_docs.py"
    spec = importlib.util.spec_from_file_location("diagnose_python_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_model_is_made_only_where_it_is_missing():
    pretrain, check = example().commands("question", False, [])
    assert example().commands("question", True, []) == [check]
    assert (REPO / pretrain[0]).is_file() and (REPO / check[0]).is_file()
    made = pretrain_parser().parse_args(pretrain[1:])
    assert (REPO / made.config_path).is_file() and str(made.output_path / "t5") == "outputs/laptop_models/t5"


def test_the_check_takes_its_flags_and_those_that_are_added():
    (check,) = example().commands("hard_question", True, ["--fail-if", "dead_low > 0.3"])
    args = build_parser().parse_args(check[1:])
    assert (REPO / args.config_path).is_file() and args.gradients == 40
    assert "datapool.args.form=hard_question" in check and args.fail_if == ["dead_low > 0.3"]
    text = (REPO / args.config_path).read_text()
    assert "model_name: outputs/laptop_models/t5" in text


@pytest.mark.slow
def test_the_docs_quote_what_the_check_prints(tmp_path):
    """A quarter of an hour; the docstrings are those of the pinned packages."""
    command = [sys.executable, "examples/diagnose_python_docs.py", "question", "--output_path", str(tmp_path)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    part = (REPO / "docs" / "diagnosis.md").read_text().partition("## Example: sampling from a model")[2]
    quoted = part.split("```\n")[2].splitlines()
    assert (
        len(quoted) > 15
        and [line for line in quoted if line not in ("...", *result.stdout.splitlines())] == []
    )
