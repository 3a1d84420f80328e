"""The algorithms' pages: short, in numbered steps, and few calls away from the runner."""

import ast
import json
import re
import sys
import traceback
from pathlib import Path

import pytest
from on_policy_jobs import job

import rl4lms.ppo.update as update_module
import rl4lms_train_text_generation as runner

REPO = Path(__file__).parents[3]
LONGEST = 80


@pytest.mark.parametrize(("room", "steps"), [("ppo", 6), ("sft", 5), ("group", 4), ("reward_model", 7)])
def test_a_page_is_one_function_in_numbered_steps(room, steps):
    text = (REPO / "rl4lms" / room / "train.py").read_text()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["train"]
    assert functions[0].end_lineno - functions[0].lineno < LONGEST
    numbers = [int(number) for number in re.findall(r"^ +# (\d+)\.", text, re.MULTILINE)]
    assert numbers == list(range(1, steps + 1))


def test_the_loss_is_five_frames_from_main(tmp_path, tiny_gpt2, monkeypatch):
    loss, stacks = update_module.ppo_loss, []

    def traced(*args, **kwargs):
        stacks.append([Path(frame.filename) for frame in traceback.extract_stack()])
        return loss(*args, **kwargs)

    monkeypatch.setattr(update_module, "ppo_loss", traced)
    config = job(tmp_path, tiny_gpt2, train_evaluation__n_iters=1)
    path = tmp_path / "config.yml"
    path.write_text(json.dumps(config.model_dump(mode="json")))  # which is YAML, too
    monkeypatch.setattr(sys, "argv", [runner.__file__])
    assert runner.main(["--config_path", str(path), "--base_path_to_store_results", str(tmp_path)]) == 0
    ours = [
        file for file in stacks[0] if file.is_relative_to(REPO) and not {"tests", ".venv"} & set(file.parts)
    ]
    # The test's own function stands for `ppo_loss`.
    assert len(ours) + 1 <= 5, ours
