"""Supervised finetuning in several processes at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import save_tiny_t5
from training_runs import rows_of, save_data, supervised_config

ROOT = Path(__file__).parents[2]
RUNNER = "rl4lms_train_text_generation.py"

pytestmark = pytest.mark.slow


def command(folder: Path, base: str, launcher: list[str] | None = None) -> list[str]:
    start = launcher or [sys.executable]
    names = ["--base_path_to_store_results", str(folder / base), "--experiment_name", "mine"]
    return [*start, RUNNER, "--config_path", str(folder / "config.yml"), *names]


def finish(arguments: list[str]) -> None:
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


def only_run(folder: Path, base: str) -> Path:
    (path,) = (folder / base).iterdir()
    return path


def test_two_processes_make_the_update_of_one_with_their_batches_together(tmp_path):
    model = save_tiny_t5(tmp_path / "model", dropout_rate=0.0)
    data = save_data(tmp_path / "data")
    weights = {}
    for processes in (1, 2):
        raw = supervised_config(model, data, per_device_train_batch_size=8 // processes)
        raw["runtime"] = {"device": "cpu"}
        (tmp_path / "config.yml").write_text(yaml.safe_dump(raw))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        finish(command(tmp_path, str(processes), torchrun))
        path = only_run(tmp_path, str(processes))
        weights[processes] = load_file(path / "mine_model" / "model.safetensors")
        assert len(rows_of(path, "val_split_metrics")) == 4
    one, two = (rows_of(only_run(tmp_path, base), "training_info") for base in ("1", "2"))
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-5)
    assert all(torch.allclose(weights[1][name], weights[2][name], atol=1e-5) for name in weights[1])
