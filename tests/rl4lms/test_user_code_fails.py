"""A reward, metric or dataset of the user's own that fails: what is said, where, and what goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_plans import write_sweep
from training_runs import ppo_config, save_data

import rl4lms_plan_runner as plans
import rl4lms_train_text_generation as training
from common.run_dir import find_runs

OWN = """
import sys

from rl4lms.metrics import Score
from rl4lms.samples import Sample


def reward(batch):
    return [score(text) for text in batch.generated]


def score(text):
    {fail}


def metric(batch):
    return {{"own": Score(None, sum(map(score, batch.generated)))}}


def data(split):
    score("")
    return [Sample(0, "p", ["r"])]
"""
FAILING_LINE = 13
FAILURES = {"return 1 / 0": "ZeroDivisionError", "sys.exit(0)": "SystemExit"}


@pytest.fixture(params=FAILURES)
def failure(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module `failing_code` whose functions all fail; the name of their error."""
    import sys

    (tmp_path / "failing_code.py").write_text(OWN.format(fail=request.param))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "failing_code", raising=False)
    monkeypatch.chdir(tmp_path)
    return FAILURES[request.param]


@pytest.fixture
def config(tmp_path: Path, tiny_gpt2: Path) -> dict[str, Any]:
    return ppo_config(tiny_gpt2, save_data(tmp_path / "data"))


def write(folder: Path, name: str, config: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump(config))
    return str(folder / name)


CASES = {
    "reward": (
        {"reward_fn": {"id": "failing_code:reward"}},
        "reward 'failing_code:reward' raised {} for text 0 (",
    ),
    "metric": (
        {"train_evaluation.metrics": [{"id": "failing_code:metric"}]},
        "metric 'failing_code:metric' raised {} on train for text 0 (",
    ),
    "datapool": (
        {"datapool": {"id": "failing_code:data"}},
        "datapool 'failing_code:data' raised {} for split 'train': ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_file_and_line_are_said_on_the_screen_in_the_log_and_in_the_manifest(
    case: str, failure: str, config: dict[str, Any], tmp_path: Path, capfd: Any
) -> None:
    changes, message = CASES[case]
    for field, value in changes.items():
        block, _, name = field.rpartition(".")
        (config[block] if block else config)[name] = value
    path = write(tmp_path, "ppo.yml", config)
    assert training.main(["--config_path", path, "--base_path_to_store_results", str(tmp_path / "runs")]) == 1
    (run,) = find_runs(tmp_path / "runs")
    assert run.manifest["status"] == "failed"
    screen = capfd.readouterr().err
    (log,) = run.path.glob("*log.txt")
    for text in (screen, log.read_text(), run.manifest["error"]):
        assert message.format(failure) in text
        assert f", at {tmp_path / 'failing_code.py'}:{FAILING_LINE}" in text
        assert "Traceback" not in text and "--resume" not in text


def test_the_rest_of_a_plan_is_run(failure: str, config: dict[str, Any], tmp_path: Path) -> None:
    good = write(tmp_path, "good.yml", config)
    bad = write(tmp_path, "bad.yml", config | {"reward_fn": {"id": "failing_code:reward"}})
    configurations = [
        {"name": "bad", "config_path": bad},
        {"name": "good", "config_path": good},
    ]
    plan = write_sweep(tmp_path, configurations)
    assert plans.main(["--plan_config_path", str(plan), "--disable_console_log"]) == 1
    statuses = {run.manifest["experiment"]: run.manifest["status"] for run in find_runs(tmp_path / "runs")}
    assert statuses == {"bad_seed_0": "failed", "good_seed_0": "finished"}
