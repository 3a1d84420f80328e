"""What the released research code computed on an MLP, met epoch by epoch (tests/golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = json.loads((GOLDEN / "controlled_mlp.json").read_text())["runs"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The golden data as a user's npz file and checkpoint."""
    folder = tmp_path_factory.mktemp("golden")
    arrays = np.load(GOLDEN / "controlled_mlp.npz")

    def normalised(images):
        return ((images / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(len(images), -1)

    np.savez(
        folder / "data.npz",
        x_train=normalised(arrays["train_images_uint8"]),
        y_train=arrays["train_labels"],
        modified_train=arrays["train_modified"],
        x_test=normalised(arrays["test_images_uint8"]),
        y_test=arrays["test_labels"],
    )
    prefix = "pretrained/"
    weights = {
        name.removeprefix(prefix): torch.tensor(arrays[name]) for name in arrays if name.startswith(prefix)
    }
    torch.save({"model": weights}, folder / "pretrained.pt")
    return folder


@pytest.mark.parametrize("golden", RUNS, ids=[run["name"] for run in RUNS])
def test_every_tracked_value_through_the_plan_runner(golden, files, tmp_path):
    from sft_vs_rft_controlled_experiments_plan_runner import main

    base_config = golden["config"] | {
        "experiment_name": golden["name"],
        "dataset": "npz",
        "data_dir": str(files),
        "model_type": "mlp",
        "num_labels_per_sample": 5,
        "load_model_from_checkpoint": str(files / "pretrained.pt"),
        "outputs_dir": str(tmp_path / "out"),
    }
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps({"name": "golden", "configurations": [{"base_config": base_config, "options": {}}]})
    )
    assert main(["--plan_config_path", str(plan), "--disable_console_log"]) == 0

    (metrics,) = (tmp_path / "out").glob("*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(golden["config"]["epochs"]))
    for split in ("train", "val"):
        assert rows[0][split].keys() == golden[split].keys()
        for name, values in golden[split].items():
            one_input = {"train accuracy": 1 / 1000, "test accuracy": 1 / 597}.get(name, 1 / 100)
            for row, expected in zip(rows, values, strict=True):
                tolerance = 1.01 * one_input if "accuracy" in name else 5e-6 * max(1, abs(expected))
                assert abs(row[split][name] - expected) <= tolerance, (name, row["epoch"])
