"""Hand-made run folders of extractions and trainings, with what the figures of the study read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.run_dir import RunDir
from figures.study import Source

REWARD = "lexical/rouge_l_max"


def extraction(
    base: Path,
    rewards: Any,
    status: str = "finished",
    prompts: list[str] | None = None,
    model: Path | None = None,
    extraction_seed: int = 0,
    **source: Any,
) -> Source:
    """An extraction with these rewards [N, G], of the model of a training's folder `model`."""
    values = torch.tensor(np.asarray(rewards), dtype=torch.float32)
    names = [f"{i}" for i in range(len(values))]
    config = {
        "alg": {"model_name": str((model or base / "start") / "mine_model")},
        "datapool": {**_pool(source), "split": source.get("split", "train")},
        "runtime": {"seed": extraction_seed},
    }
    with RunDir.create(base, "stats", config, {"job": "extraction"}) as run:
        content = {
            "all_generated_texts": [[f"text {g}" for g in range(values.shape[1])] for _ in names],
            "all_metric_values": {REWARD: values},
            "ids": names,
            "used_train_indices": list(range(len(names))),
            "prompts": prompts or [f"prompt {name}" for name in names],
            "references": [[f"reference {name}"] for name in names],
        }
        if status == "finished":
            torch.save(content, base / f"{run.path.name}.pt")
        run.update_manifest(status=status)
    return _source(run.path, source)


def training(
    base: Path,
    before: float,
    after: float,
    status: str = "finished",
    texts: int = 0,
    sft: Path | None = None,
    updates: int = 100,
    labels: float = -1,
    splits: tuple[str, ...] = ("train", "val", "test"),
    **source: Any,
) -> Source:
    """A training whose reward rises from `before` to `after` on all splits.

    texts: number of texts that are kept, half of them 0.1 above the mean and half below; labels: share of the
    train inputs, -1 for all; learning_rate, temperature, ent_coef: of RFT.
    """
    settings = {name: source.pop(name, value) for name, value in SETTINGS.items()}
    prefix = "mine_"
    config = _config(source, labels, settings, (sft or base / "start") / "mine_model")
    with RunDir.create(base, "mine", config, {"job": "training"}, prefix=prefix) as run:
        for split in splits:
            rows = [(0, before), *([(5, after)] if status == "finished" else [])]
            for epoch, value in rows:
                row = {"epoch": epoch, "metrics": {"other": 9.0, REWARD: value}}
                run.rows(f"{prefix}{split}_split_metrics.jsonl", "epoch").append(row)
                if texts:
                    kept = [{"metrics": {REWARD: value + 0.1 * (-1) ** i}} for i in range(texts)]
                    name = f"{prefix}epoch_{epoch}_{split}_split_predictions.json"
                    (run.path / name).write_text(json.dumps(kept))
        run.update_manifest(status=status, trained={"epochs": 1, "updates": updates})
    return _source(run.path, source | {"sft": sft})


SETTINGS = {"learning_rate": 3e-5, "temperature": 1.0, "ent_coef": 0.0}


def _config(source: dict[str, Any], labels: float, settings: dict[str, float], model: Path) -> dict[str, Any]:
    name = {"model_name": str(model)}
    alg: dict[str, Any] = {"id": "supervised", "training_args": {"learning_rate": 1e-3}, **name}
    if source.get("method", "rft") not in ("short", "sft"):
        policy = {"args": {"generation_kwargs": {"temperature": settings["temperature"]}, **name}}
        args = {name: settings[name] for name in ("learning_rate", "ent_coef")}
        alg = {"id": "ppo", "args": args, "policy": policy}
    pool = {**_pool(source), "frac_train_samples": labels}
    return {"alg": alg, "datapool": pool, "runtime": {"seed": source.get("seed", 0)}}


def _pool(source: dict[str, Any]) -> dict[str, Any]:
    return {"id": "python_docs", "args": {"form": source.get("task", "question")}}


def _source(path: Path, fields: dict[str, Any]) -> Source:
    defaults: dict[str, Any] = {"task": "question", "seed": 0, "method": "rft", "reward": REWARD}
    return Source(**(defaults | {"path": path, "command": f"python make.py {path.name}"} | fields))
