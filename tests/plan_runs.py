"""Tiny plans on disk, and what their runs left behind, for the tests of the plan runner."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.run_dir import RunInfo, find_runs, load_checkpoint, read_metrics

# Small enough to be run thousands of times; every stream of random numbers is in use.
BASE: dict[str, Any] = {
    "experiment_name": "{opt_method}_{lr}",
    "dataset": "npz",
    "model_type": "mlp",
    "mlp_hidden_layer_sizes": [6],
    "opt_method": "reinforce",
    "kl_regularization_coeff": 0.1,
    "num_labels_per_sample": 2,
    "frac_samples_to_modify_labels": 0.25,
    "samples_rnd_seed": 1,
    "init_rnd_seed": 2,
    "random_seed": 3,
    "lr": 0.01,
    "batch_size": 16,
    "epochs": 4,
    "epoch_log_interval": -1,
    "save_metric_plots": False,
}


def write_data(path: Path, seed: int = 0) -> Path:
    """An npz dataset of 40 train and 12 test inputs, 5 features, 4 classes."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(52, 5)).astype(np.float32), np.arange(52) % 4
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return path


def write_plan(folder: Path, options: dict[str, list[Any]] | None = None, **fields: Any) -> Path:
    """A plan file over BASE with its data and its runs in `folder`; fields of the plan or of base_config."""
    plan_fields = {"name", "multiprocess", "num_parallel", "gpu_ids_pool", "repetitions", "largest"}
    plan = {name: fields.pop(name) for name in plan_fields & fields.keys()}
    data = folder / "data.npz"
    if not data.exists():
        write_data(data)
    base = BASE | {"data_dir": str(data), "outputs_dir": str(folder / "runs")} | fields
    path = folder / "plan.json"
    path.write_text(json.dumps(plan | {"configurations": [{"base_config": base, "options": options or {}}]}))
    return path


def runs_of(folder: Path) -> list[RunInfo]:
    return find_runs(folder / "runs")


def numbers(run: RunInfo) -> dict[str, Any]:
    """All that a run computed: to be equal, bit for bit, however often it was cut."""
    state = load_checkpoint(run.path / run.manifest["checkpoint"])
    return {
        "rows": read_metrics(run.path),
        "score": run.manifest["score"],
        "weights": {name: value.tolist() for name, value in state["model"].items()},
        "monitor": state["monitor"],
        "start": run.manifest.get("start"),
    }


def all_numbers(folder: Path) -> dict[str, Any]:
    """Experiment name -> numbers of its one run, which must be finished."""
    runs = runs_of(folder)
    assert {run.manifest["status"] for run in runs} == {"finished"}
    names = [run.config["experiment_name"] for run in runs]
    assert len(set(names)) == len(names), "one run each"
    return dict(zip(names, map(numbers, runs), strict=True))


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
    return value


def rows_written(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0
