"""What the jobs of InstructGPT's pipeline leave in their folders, and sizes of it. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIXES, TABLES = "mixes", "tables"  # folders of rankings with shares of on-policy texts; tables of rewards
SCORES, LOSSES = "scores.json", "losses.json"
TEACHER = "on_policy_"  # begins the name of a reward model that teaches


def mix_name(share: float) -> str:
    """The name of the rankings of which this share is of the policy's texts, and of what learns from them."""
    return f"{TEACHER}{round(100 * share)}"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def count_texts(path: Path) -> tuple[int, int, int]:
    """Count the prompts of a file of rankings, their completions and comparisons."""
    sizes = [len(row["completions"]) for row in read_lines(path)]
    return len(sizes), sum(sizes), sum(size * (size - 1) // 2 for size in sizes)
