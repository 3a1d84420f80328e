"""Small sweeps on disk: a supervised training, PPO on its models, extractions of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from training_runs import ppo_config, save_data, supervised_config


def write_configs(folder: Path, model: Path) -> dict[str, str]:
    """Config files of small trainings and extractions from `model`, an encoder-decoder: name -> path."""
    data = save_data(folder / "data")
    extract = {
        "tokenizer": {"model_name": str(model), "truncation_side": "right", "max_length": 20},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}, "num_train_samples": 6},
        "alg": {
            "model_type": "seq2seq",
            "model_name": str(model),
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 4},
        },
        "evaluation": {"eval_batch_size": 6, "num_samples_per_input": 2, "metrics": [{"id": "chrf"}]},
    }
    extract["datapool"]["train_samples_rnd_seed"] = 0  # type: ignore[index]
    ppo = ppo_config(model, data, "seq2seq")
    ppo["alg"]["policy"]["args"]["model_name"] = "<model of sft>"
    configs = {"sft": supervised_config(model, data, max_steps=2), "ppo": ppo, "extract": extract}
    paths = {}
    for name, config in configs.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config, indent=1))
        paths[name] = str(path)
    return paths


def write_sweep(folder: Path, configurations: list[dict[str, Any]], **fields: Any) -> Path:
    """A plan file whose runs lie in `folder`/runs."""
    plan = {"output_path": str(folder / "runs"), **fields, "configurations": configurations}
    path = folder / "sweep.yml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path
