"""The range that rewards are judged in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.statistics import NEAR_OPTIMAL_MEAN
from rl4lms.diagnosis.groups import ROUNDING, DiagnosisError, Floats


@dataclass(frozen=True)
class Scale:
    """The reward's range, from worst to best, where it is from, and its two values if it has just two."""

    low: float
    high: float
    source: Literal["given", "assumed", "observed"]
    values: tuple[float, float] | None

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def near_best(self) -> float:
        """From where on a reward is next to the best: a small std there is no problem (Figure 2)."""
        return self.low + NEAR_OPTIMAL_MEAN * self.width


def find_scale(rewards: Floats, given: tuple[float, float] | None) -> Scale:
    """The range that rewards [M] are judged in: the given one, [0, 1] if they lie in it, else theirs.

    Raises DiagnosisError: the given one is none, or too small; or all rewards are one number outside [0, 1].
    """
    smallest, largest = float(rewards.min()), float(rewards.max())
    if given is not None:
        low, high = given
        if not low < high:
            raise DiagnosisError(f"the range goes from worst to best reward: {low:g} is not below {high:g}")
        slack = ROUNDING * (high - low)
        if smallest < low - slack or largest > high + slack:
            seen = smallest if smallest < low - slack else largest
            raise DiagnosisError(f"reward {seen:g} lies outside the given range {low:g} to {high:g}")
        source: Literal["given", "assumed", "observed"] = "given"
    elif 0 <= smallest and largest <= 1:
        low, high, source = 0.0, 1.0, "assumed"
    elif smallest < largest:
        low, high, source = smallest, largest, "observed"
    else:
        raise DiagnosisError(
            f"every reward is {smallest:g}: without the range (--range) that is neither good nor bad"
        )
    near = ROUNDING * (high - low)
    at_ends = (rewards <= smallest + near) | (rewards >= largest - near)
    values: tuple[float, float] | None = None
    if largest - smallest > near:
        values = (smallest, largest) if at_ends.all() else None
    elif min(abs(smallest - low), abs(smallest - high)) <= near:
        values = (low, high)
    return Scale(low, high, source, values)
