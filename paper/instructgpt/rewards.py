"""Rewards of the teachers, and the loss of demonstrations as a metric: named by configs of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rl4lms.rewards import build_reward
from rl4lms.text import Score, TextBatch


def normalised(batch: TextBatch, *, model_name: str, mean: float, std: float) -> list[float]:
    """(r - mean) / std of each text, r the reward of a reward model."""
    return [(value - mean) / std for value in build_reward("reward_model", {"model_name": model_name})(batch)]


def squashed(
    batch: TextBatch, *, reward: str, reward_args: Mapping[str, Any], log_odds: bool, table_path: str
) -> list[float]:
    """The gold reward with its differences within some prompts squashed, then normalised.

    table_path: what `make_table` wrote, which knows the prompts' centres. log_odds: of a probability.
    """
    table = _read_table(table_path)
    gold = gold_values(batch, reward, reward_args, log_odds)
    return [
        (squash(value, table["centres"].get(prompt), table["factor"]) - table["mean"]) / table["std"]
        for prompt, value in zip(batch.prompts, gold, strict=True)
    ]


def gold_values(
    batch: TextBatch, reward: str, reward_args: Mapping[str, Any], log_odds: bool
) -> Sequence[float]:
    """The gold reward of each text, or the log-odds of it."""
    values = build_reward(reward, reward_args)(batch)
    return to_log_odds(values) if log_odds else values


def to_log_odds(probabilities: Sequence[float]) -> list[float]:
    """Log-odds of probabilities, clipped as in making rankings."""
    from rl4lms.make_rankings import log_odds

    return [float(value) for value in log_odds(np.asarray(probabilities, dtype=np.float64))]


def squash(value: float, centre: float | None, factor: float) -> float:
    """centre + factor * (value - centre); value where there is no centre."""
    return value if centre is None else centre + factor * (value - centre)


@cache
def _read_table(path: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(path).read_bytes())
    return table


def reference_loss(batch: TextBatch, *, tokenizer_name: str) -> dict[str, Score]:
    """The mean of -log p over tokens of the first references and their ends, in nats; of causal models.

    What is too long for the model's positions loses the beginning of its prompt.
    """
    from rl4lms.model.load import load_tokenizer, max_positions
    from rl4lms.pretraining import Example, mean_token_loss

    tokenizer, most = load_tokenizer(tokenizer_name), max_positions(batch.model)
    references = [sets[0] for sets in batch.reference_sets()]
    texts = [prompt + reference for prompt, reference in zip(batch.prompts, references, strict=True)]
    prompts, whole = (tokenizer(rows, verbose=False)["input_ids"] for rows in (batch.prompts, texts))
    examples = []
    for source, ids in zip(prompts, whole, strict=True):
        target = [*ids[len(source) :], tokenizer.eos_token_id][: None if most is None else most - 1]
        examples.append(Example(source if most is None else source[len(target) - most :], target))
    return {"sft/reference_loss": Score(None, mean_token_loss(batch.model, examples))}
