"""Rankings whose order is known, as a datapool of one's own, and configs of reward models trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import TEXTS
from training_runs import config_of, new_run

from common.run_dir import RunDir
from rl4lms.config import TrainConfig
from rl4lms.model.parallel import World
from rl4lms.rankings import Comparison, Ranking
from rl4lms.reward_model.setup import prepare
from rl4lms.reward_model.train import train
from rl4lms.samples import Split

SIZES = {"train": 24, "val": 10, "test": 4}
WORDS = tuple(sorted({word for text in TEXTS for word in text.rstrip(".").split()}))
WORTH = dict(zip(WORDS, np.random.default_rng(5).integers(-5, 6, len(WORDS)).tolist(), strict=True))


def planted(split: Split, *, sizes: dict[str, int] | None = None, noise: float = 0.0) -> list[Ranking]:
    """Rankings of 2 to 5 completions of 4 words by the sum of what their words are worth, all different.

    noise: of the labels, Gumbel, as a multiple of 1.
    """
    rng = np.random.default_rng(["train", "val", "test"].index(split))
    rankings = []
    for number in range((sizes or SIZES)[split]):
        texts: dict[str, float] = {}
        while len(texts) < 2 + number % 4:
            words = rng.choice(WORDS, 4).tolist()
            worth = float(sum(WORTH[word] for word in words))
            if worth not in texts.values():
                texts[" " + " ".join(words)] = worth
        gold = list(texts.values())
        score = np.asarray(gold) + noise * rng.gumbel(size=len(gold))
        order = np.argsort(-score).tolist()
        pairs = [
            Comparison(order[i], order[j], margin=float(j - i))
            for i in range(len(order))
            for j in range(i + 1, len(order))
        ]
        rankings.append(
            Ranking(
                f"{split} {number}",
                f"the dog {number} says",
                list(texts),
                pairs,
                [" " + " ".join(rng.choice(WORDS, 4).tolist())],
                {"gold": gold, "subset": "odd" if number % 2 else "even"},
            )
        )
    return rankings


def reward_config(
    model: Path, kind: str = "causal", *, tokenizer: Path | None = None, **args: Any
) -> dict[str, Any]:
    """Two epochs of three updates of eight prompts. model: its name "bag_of_tokens" needs a tokenizer."""
    defaults = {"prompts_per_batch": 8, "epochs": 2, "learning_rate": 1e-3, "micro_batch_size": 12}
    return {
        "tokenizer": {"model_name": str(tokenizer or model)},
        "datapool": {"id": "reward_runs:planted"},
        "alg": {
            "id": "reward_model",
            "model_type": kind,
            "model_name": str(model),
            "args": defaults | args,
        },
        "train_evaluation": {"eval_batch_size": 16, "metrics": [], "eval_every": 2},
    }


def start_reward_run(base: Path, config: dict[str, Any], world: World | None = None, **options: Any) -> Path:
    """The folder of a whole run; of processes that are not the main one, what they would write to."""
    checked = config_of(config)
    world = world or World()
    if not world.is_main:
        train(prepare(checked, base, None, world, prefix="mine_", **options))
        return base
    with new_run(base, checked) as run:
        train(prepare(checked, run.path, run, world, prefix=run.prefix, **options))
        return run.path


def train_reward_model(path: Path, config: TrainConfig) -> None:
    """Go on with the run in a folder."""
    with RunDir.open(path) as run:
        train(prepare(config, path, run, World(), prefix=run.prefix))
