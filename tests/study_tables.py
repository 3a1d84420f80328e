"""Small tables of the study, with known results."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from figures.criterion import SWEPT_TASK
from figures.study import RUNS

BASE = {"learning_rate": 3e-5, "temperature": 1.0, "ent_coef": 0.0}
Model = tuple[list[float], list[float]]  # means and stds of its inputs


def inputs(
    tasks: Mapping[str, Mapping[str, Model]], seeds: tuple[int, ...] = (0,), shift: float = 0
) -> pd.DataFrame:
    """`inputs` of task -> models, "second" being the second sample; shift: of the means, per seed."""
    parts = []
    for task, models in tasks.items():
        for seed in seeds:
            for name, (means, stds) in models.items():
                part = {
                    "task": task,
                    "data": task.partition(":")[0],
                    "seed": seed,
                    "method": "pretrained" if name == "second" else name,
                }
                part |= {"sample": 2 if name == "second" else 1, "split": "train", "input": range(len(means))}
                frame = pd.DataFrame(part | {"mean": means, "std": stds, "run": f"{task} {name} {seed}"})
                parts.append(
                    frame.assign(id=[f"{i}" for i in range(len(means))], mean=frame["mean"] + seed * shift)
                )
    return pd.concat(parts, ignore_index=True)


def run(method: str, before: float, after: float, **fields: object) -> list[dict[str, object]]:
    """Rows of `runs` of one training, the same on train and test."""
    defaults = {"task": SWEPT_TASK, "seed": 0, "method": method, **BASE, "sft_updates": 0, "sft_labels": 0.0}
    results = {"start_reward": before, "reward": after, "se": 0.01, "gain_se": 0.02}
    row = defaults | results | {"texts": 100, "measure": "texts", "run": "x"} | fields
    return [row | {"split": split} for split in ("train", "test")]


def runs(*parts: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=list(RUNS))


def grid() -> pd.DataFrame:
    """RFT 0.1 to 0.2; full SFT 0.8, then RFT 1.0; SFT on 1% of labels, 40% of steps 0.3, then RFT 0.5."""
    full, short = (
        {"sft_labels": 1.0, "sft_updates": 600},
        {"sft_labels": 0.01, "sft_updates": 240},
    )
    return runs(
        run("rft", 0.1, 0.2),
        run("sft", 0.1, 0.8, **full, learning_rate=1e-3, temperature=float("nan"), ent_coef=float("nan")),
        run("sft", 0.1, 0.3, **short, learning_rate=1e-3, temperature=float("nan"), ent_coef=float("nan")),
        run("sft_rft", 0.8, 1.0, **full, learning_rate=1e-5),
        run("sft_rft", 0.3, 0.5, **short, learning_rate=1e-4),
    )
