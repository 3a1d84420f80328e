"""Hand-made run folders of controlled finetuning runs, with what Figure 3 reads of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.run_dir import RunDir

CONFIG = {
    "model_type": "mlp",
    "dataset": "digits",
    "optimizer": "adam",
    "lr": 1e-4,
    "batch_size": 512,
    "num_train_samples": -1,
    "reward_type": "labels",
    "opt_method": "expected_reinforce",
    "frac_samples_to_modify_labels": 0.1,
}


def make_run(
    folder: Path,
    method: str = "expected_reinforce",
    status: str = "finished",
    epochs: int = 3,
    **fields: Any,
) -> Path:
    """A finetuning run whose values count the epochs."""
    with RunDir.create(folder, method, CONFIG | {"opt_method": method} | fields, {}) as run:
        for epoch in range(epochs):
            train = {
                f"{name} {group} reward std": epoch + offset
                for name, offset in (("reward", 0), ("avg reward std", 1), ("grad norm", 2))
                for group in ("small", "large")
            }
            run.append_metrics({"epoch": epoch, "train": train})
        run.update_manifest(status=status)
        return run.path
