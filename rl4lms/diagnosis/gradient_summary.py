"""What the gradients of some inputs say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.statistics import bootstrap_interval, spearman
from rl4lms.diagnosis.groups import Floats, Ints

LOWEST = (0.1, 0.25, 0.5)  # shares of the inputs, by reward std
BOUNDS = ("bound", "linear_bound", "power_bound")


def gradient_shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of the total squared gradient that the inputs of lowest std have, with bootstrap intervals."""
    stds = np.array([row["std"] for row in rows])
    squared = np.array([row["squared"] for row in rows])

    def shares(chosen: Ints) -> Floats:
        ordered = squared[chosen][np.argsort(stds[chosen], kind="stable")].cumsum()
        if ordered[-1] <= 0:
            return np.full(len(LOWEST), np.nan)
        last = [max(1, round(part * len(ordered))) - 1 for part in LOWEST]
        return np.asarray(ordered[last] / ordered[-1])

    found = shares(np.arange(len(rows)))
    low, high = bootstrap_interval(shares, len(rows))
    return [
        {"lowest": part, "share": _known(found[i]), "low": _known(low[i]), "high": _known(high[i])}
        for i, part in enumerate(LOWEST)
    ]


def summarise_gradients(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The gradients' part of summary.json, of one reward."""
    std, norm = np.array([row["std"] for row in rows]), np.array([row["norm"] for row in rows])
    return {
        "inputs": len(rows),
        "generations_each": rows[0]["generations"],
        "rank_correlation": _known(spearman(std, norm)),
        "shares": gradient_shares(rows),
        "bounds": {name: bound_ratios(rows, name) for name in BOUNDS},
    }


def summarise_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The gradients of what is optimised, the first reward of the rows, and by name those of the others."""
    by_reward: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not math.isnan(row["std"]):
            by_reward.setdefault(row["reward"], []).append(row)
    if not by_reward:
        return None
    (name, main), *others = ((name, summarise_gradients(own)) for name, own in by_reward.items())
    return {"reward": name, **main, "others": dict(others)}


def bound_ratios(rows: Sequence[dict[str, Any]], bound: str) -> dict[str, float | None]:
    """Gradient norm over a bound: median and largest over the inputs where that is not 0."""
    ratios = [row["norm"] / row[bound] for row in rows if row[bound] > 0]
    if not ratios:
        return {"median": None, "largest": None}
    return {"median": float(np.median(ratios)), "largest": max(ratios)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
