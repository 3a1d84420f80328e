"""Configs and data of small training runs, and what such a run is started with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_models import TEXTS

from common.config import validate
from common.run_dir import RunDir
from rl4lms.config import TrainConfig, resolved
from rl4lms.model.parallel import World
from rl4lms.run_setup import TrainingSetup, prepare

SIZES = {"train": 16, "val": 6, "test": 5}


def save_data(folder: Path, references: int = 2, **sizes: int) -> Path:
    """A `jsonl` dataset of three splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (SIZES | sizes).items():
        rows = [
            {
                "prompt": f"the dog {i} looks at",
                "references": [TEXTS[i + n] for n in range(references)],
                "n": i,
            }
            for i in range(size)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def supervised_config(model: Path, data: Path, kind: str = "seq2seq", **training_args: Any) -> dict[str, Any]:
    """Two epochs of four updates, for `save_data` with 16 train samples of two references."""
    arguments = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 3,
        "save_steps": 2,
    }
    return {
        "tokenizer": {"model_name": str(model), "truncation_side": "right", "max_length": 20},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
        "alg": {
            "id": "supervised",
            "model_type": kind,
            "model_name": str(model),
            "training_args": arguments | training_args,
            "generation_kwargs": {"do_sample": True, "max_new_tokens": 3},
        },
        "train_evaluation": {
            "eval_batch_size": 16,
            "metrics": [{"id": "chrf"}],
            "generation_kwargs": {"max_new_tokens": 4},
        },
    }


def ppo_config(model: Path, data: Path, kind: str = "causal") -> dict[str, Any]:
    """Two iterations of 80 tokens."""
    return {
        "tokenizer": {"model_name": str(model), "truncation_side": "right", "max_length": 30},
        "datapool": {"id": "jsonl", "args": {"data_path": str(data)}},
        "reward_fn": {"id": "chrf"},
        "env": {
            "n_envs": 4,
            "args": {"max_prompt_length": 10, "max_episode_length": 6, "prompt_truncation_side": "right"},
        },
        "alg": {
            "id": "ppo",
            "args": {"n_steps": 20, "batch_size": 16, "learning_rate": 1e-4, "n_epochs": 2},
            "policy": {
                "id": f"{kind}_lm_actor_critic_policy",
                "args": {
                    "model_name": str(model),
                    "prompt_truncation_side": "left",
                    "generation_kwargs": {"do_sample": True, "top_k": 0, "max_new_tokens": 6},
                },
            },
        },
        "train_evaluation": {
            "eval_batch_size": 4,
            "n_iters": 2,
            "eval_every": 1,
            "metrics": [{"id": "chrf"}],
            "generation_kwargs": {"max_new_tokens": 5},
        },
    }


def config_of(data: dict[str, Any]) -> TrainConfig:
    config, problems = validate(TrainConfig, data)
    assert config is not None, problems
    return config


def new_run(base: Path, config: TrainConfig) -> RunDir:
    return RunDir.create(base, "mine", resolved(config), {}, prefix="mine_")


def setup_of(
    config: TrainConfig, run: RunDir, should_stop: Callable[[], bool] = lambda: False, **options: Any
) -> TrainingSetup:
    return prepare(config, run.path, run, World(), prefix=run.prefix, should_stop=should_stop, **options)


def rows_of(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the run in `path`, [] if there is none."""
    file = path / f"mine_{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
