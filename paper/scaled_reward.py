"""A reward on another scale: the same texts are better, by less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl4lms.rewards import build_reward
from rl4lms.text import TextBatch

CENTRE = 0.5


def scaled_reward(
    batch: TextBatch, *, reward: str, reward_args: Mapping[str, Any], scale: float
) -> list[float]:
    """0.5 + scale x (r - 0.5) of each text, r its reward under `reward`, an id with these arguments."""
    return [CENTRE + scale * (value - CENTRE) for value in build_reward(reward, reward_args)(batch)]
