"""Every shipped config through `--check` of its runner."""

from pathlib import Path

import pytest

from rl4lms_extract_samples_from_model_runner import main as extract
from rl4lms_train_text_generation import main as train

CONFIGS = sorted(Path("rl4lms_scripts").glob("extract_samples/*.yml")) + sorted(
    Path("rl4lms_scripts").glob("training/*/*.yml")
)


def test_there_are_49():
    """The paper's 42, and a GRPO for each of its datasets."""
    assert len(CONFIGS) == 49
    assert sum("on_supervised" in path.stem for path in CONFIGS) == 14


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_check(path, capsys):
    runner = extract if path.parent.name == "extract_samples" else train
    code = runner(["--config_path", str(path), "--check"])
    output = capsys.readouterr()
    if "on_supervised" not in path.stem:
        assert code == 0 and output.out and not output.err
        return
    assert code == 2 and not output.out
    first, *problems = output.err.splitlines()
    assert first == f"{path}: 1 problem" and len(problems) == 1
    assert "alg.policy.args.model_name" in problems[0]
    assert "python rl4lms_train_text_generation.py --config_path rl4lms_scripts/training/" in problems[0]
