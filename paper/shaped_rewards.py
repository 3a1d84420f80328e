"""Rewards made of others, and each as a metric: what a config names by its dotted path.

The same texts stay the better ones; how far the rewards of an input are apart, and where they start, changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl4lms.rewards import build_reward
from rl4lms.text import Score, TextBatch, averaged


def affine(
    batch: TextBatch, *, reward: str, reward_args: Mapping[str, Any], scale: float, offset: float
) -> list[float]:
    """offset + scale x r of each text, r its reward under `reward`, an id with these arguments."""
    return [offset + scale * value for value in build_reward(reward, reward_args)(batch)]


def at_least(
    batch: TextBatch, *, reward: str, reward_args: Mapping[str, Any], threshold: float
) -> list[float]:
    """1 for a text whose reward under `reward` is the threshold or more, else 0."""
    return [float(value >= threshold) for value in build_reward(reward, reward_args)(batch)]


def exact_match(batch: TextBatch) -> list[float]:
    """1 for a text that is one of its references, space around it aside, else 0."""
    return [
        float(text.strip() in {reference.strip() for reference in references})
        for text, references in zip(batch.generated, batch.references, strict=True)
    ]


def affine_metric(batch: TextBatch, **args: Any) -> dict[str, Score]:
    """`affine` as a metric."""
    return {"shaped/affine": averaged(affine(batch, **args))}


def at_least_metric(batch: TextBatch, **args: Any) -> dict[str, Score]:
    """`at_least` as a metric."""
    return {"shaped/at_least": averaged(at_least(batch, **args))}


def exact_match_metric(batch: TextBatch) -> dict[str, Score]:
    """`exact_match` as a metric."""
    return {"shaped/exact_match": averaged(exact_match(batch))}
