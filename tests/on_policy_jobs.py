"""PPO and NLPO runs on tiny models, from a config to what they leave behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from on_policy_runs import policy_name
from tiny_models import TEXTS

from common.config import validate
from common.files import read_rows
from common.run_dir import RunDir, load_checkpoint
from rl4lms.config import TrainConfig
from rl4lms.config.group import DEFAULTS as GROUP_DEFAULTS
from rl4lms.model.parallel import World
from rl4lms.run_setup import TrainingSetup, prepare
from rl4lms.text import Score, TextBatch
from rl4lms.train import choose_algorithm

PREFIX = "job_"
TIMINGS = ("seconds", "tokens_per_second")


def share_of_e(batch: TextBatch) -> list[float]:
    """A reward: the share of the letter e."""
    return [text.count("e") / max(1, len(text)) for text in batch.generated]


def constant(batch: TextBatch) -> list[float]:
    return [0.25] * len(batch)


def seven_tenths(batch: TextBatch) -> list[float]:
    """A constant of which sums are off by rounding."""
    return [0.7] * len(batch)


def huge(batch: TextBatch) -> list[float]:
    """Finite, but its square is not."""
    return [1e30 * len(text) for text in batch.generated]


def length(batch: TextBatch) -> dict[str, Score]:
    """A metric."""
    lengths = [float(len(text)) for text in batch.generated]
    return {"letters": Score(lengths, math.fsum(lengths) / len(lengths))}


def write_data(folder: Path) -> Path:
    """30 samples for each split."""
    folder.mkdir(exist_ok=True, parents=True)
    for n, split in enumerate(("train", "val", "test")):
        rows = [
            {"prompt": text[: 6 + i % 9], "references": [text]} for i, text in enumerate(TEXTS[n::11][:30])
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job(folder: Path, model: Path, alg: str = "ppo", **changes: Any) -> TrainConfig:
    """A training of `model` on data in `folder`: 48 tokens, or 20 texts, an iteration of tenths of a second.

    changes: fields by their dotted names, with __ for dots.
    """
    policy: dict[str, Any] = {
        "model_name": str(model),
        "generation_kwargs": {"do_sample": True, "top_k": 0, "max_new_tokens": 6},
    }
    if alg == "nlpo":
        policy |= {"top_mask": 0.9, "min_tokens_to_keep": 10, "target_update_iterations": 2}
    name = policy_name(alg, seq2seq="t5" in model.name)
    args = {"n_steps": 12, "batch_size": 16, "n_epochs": 1 if alg == "a2c" else 2, "learning_rate": 1e-3}
    kl_div: dict[str, Any] = {"coeff": 0.01}
    if alg in GROUP_DEFAULTS:
        args = {"group_size": 4, "prompts_per_iteration": 5, "learning_rate": 1e-3}
        kl_div = {}
    config: dict[str, Any] = {
        "tokenizer": {"model_name": str(model)},
        "reward_fn": {"id": "on_policy_jobs:share_of_e"},
        "datapool": {"id": "jsonl", "args": {"data_path": str(write_data(folder / "data"))}},
        "env": {"n_envs": 4, "args": {"max_prompt_length": 12, "max_episode_length": 6}},
        "alg": {"id": alg, "args": args, "kl_div": kl_div, "policy": {"id": name, "args": policy}},
        "train_evaluation": {"eval_batch_size": 30, "metrics": [], "n_iters": 4, "save_every": 1},
        "runtime": {"device": "cpu"},
    }
    for path, value in changes.items():
        *blocks, field = path.split("__")
        block = config
        for one in blocks:
            block = block.setdefault(one, {})
        block[field] = value
    found, problems = validate(TrainConfig, config)
    assert found is not None, problems
    return found


def start(folder: Path, config: TrainConfig, **options: Any) -> RunDir:
    """Train from the beginning; the run is closed."""
    with RunDir.create(folder / "runs", "run", config.model_dump(mode="json"), {}, prefix=PREFIX) as run:
        train(run, config, **options)
    return run


def resume(path: Path, config: TrainConfig, **options: Any) -> RunDir:
    """Go on with a run; it is closed."""
    with RunDir.open(path) as run:
        train(run, config, **options)
    return run


def train(
    run: RunDir | None,
    config: TrainConfig,
    *,
    path: Path | None = None,
    world: World | None = None,
    eval_on_train: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingSetup:
    """Train in an open run (of the main process). path: of its directory, where there is no run."""
    setup = prepare(
        config,
        path or (run.path if run is not None else Path()),
        run,
        world or World(),
        prefix=PREFIX,
        eval_on_train=eval_on_train,
        should_stop=should_stop,
    )
    choose_algorithm(config)(setup)
    return setup


def rows(run: RunDir, name: str) -> list[dict[str, Any]]:
    """The rows of one of the run's files, timings left out."""
    return [
        {key: value for key, value in row.items() if key.rpartition("/")[2] not in TIMINGS}
        for row in read_rows(run.path / f"{PREFIX}{name}.jsonl", "epoch")
    ]


def all_rows(run: RunDir) -> str:
    """Of rollouts, updates and evaluations, as text: NaN equals NaN."""
    names = [
        "rollout_info",
        "training_info",
        *(f"{split}_split_metrics" for split in ("train", "val", "test")),
    ]
    return json.dumps({name: rows(run, name) for name in names}, indent=1)


def checkpoint(run: RunDir, iteration: int = -1) -> dict[str, Any]:
    """The state after an iteration (-1: the newest checkpoint)."""
    paths = run.checkpoints()
    if iteration == -1:
        return load_checkpoint(paths[-1])
    return load_checkpoint(next(path for path in paths if path.name == f"epoch_{iteration:06d}.pt"))
