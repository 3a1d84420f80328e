"""Numbers that claims about controlled experiments are judged by: from the rows of one environment.

rows: of `figures.runs.controlled_table`; "small": the inputs of small reward std under the pretrained model.
"""

from __future__ import annotations

import pandas as pd

EXACT_GRPO = ("GRPO, G = 8", "GRPO, G = 64", "GRPO, G infinite")


def left_behind(rows: pd.DataFrame) -> float:
    """How far RFT ends behind SFT on the small-std inputs, over what there was to gain at the start."""
    ends = _small_ends(rows)
    return (ends["SFT"] - ends["RFT"]) / _missing(rows)


def first_gradient(rows: pd.DataFrame, method: str = "RFT") -> float:
    """A method's gradient norm of the small-std over that of the large-std inputs in the first epoch."""
    first = rows[(rows["method"] == method) & (rows["epoch"] == rows["epoch"].min())]
    norms = first.groupby("group")["grad_norm"].mean()
    return float(norms["small"] / norms["large"])


def grpo_left_behind(rows: pd.DataFrame) -> float:
    """How far the best exact GRPO ends behind SFT on the small-std inputs, over what there was to gain."""
    ends = _small_ends(rows)
    return (ends["SFT"] - max(ends[method] for method in EXACT_GRPO)) / _missing(rows)


def grpo_ahead(rows: pd.DataFrame) -> float:
    """How far the best exact GRPO ends ahead of RFT on the small-std inputs, over what there was to gain."""
    ends = _small_ends(rows)
    return (max(ends[method] for method in EXACT_GRPO) - ends["RFT"]) / _missing(rows)


def _small_rewards(rows: pd.DataFrame, method: str) -> pd.Series:
    """Mean reward of the small-std inputs under a method, by epoch."""
    part = rows[(rows["group"] == "small") & (rows["method"] == method)]
    return part.groupby("epoch")["reward"].mean().sort_index()


def _small_ends(rows: pd.DataFrame) -> dict[str, float]:
    return {str(name): float(_small_rewards(rows, name).iloc[-1]) for name in rows["method"].unique()}


def _missing(rows: pd.DataFrame) -> float:
    """What the small-std inputs lacked of the best reward when RFT began."""
    return 1 - float(_small_rewards(rows, "RFT").iloc[0])
