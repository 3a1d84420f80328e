"""The table of stages that is printed before anything runs: what, how many runs, how long by estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A row. runs: that are not finished; minutes: of these, on two cores without a GPU; NaN: no estimate."""

    name: str
    runs: int
    minutes: float
    detail: str = ""


def table_of(stages: Sequence[Stage]) -> list[str]:
    """The rows as text, and their sum."""
    whole = sum(stage.minutes for stage in stages if not math.isnan(stage.minutes))
    total = Stage("in all", sum(stage.runs for stage in stages), whole, "without what is finished")
    width = max(len(stage.name) for stage in [*stages, total])
    return [_line(stage, width) for stage in [*stages, total]]


def _line(stage: Stage, width: int) -> str:
    minutes = "" if math.isnan(stage.minutes) else f"about {stage.minutes:5.1f} min"
    return f"{stage.name:<{width}} {stage.runs:>4} runs  {minutes:<15} {stage.detail}".rstrip()
