"""Conditions on a summary that make a pipeline stop: --fail-if "dead_low > 0.3"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.config import closest

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SHARES = ("dead_low", "dead_high", "live", "uncertain")
NAMES = (
    *SHARES,
    *("dead_low_at_least", "no_spread", "no_spread_low", "no_spread_high"),
    *("mean", "std", "std_percentile", "within_share"),
    *(f"signal_{size}" for size in (4, 8, 16, 32, 64)),
)


class ConditionError(Exception):
    """A condition that cannot be read; the message is for the user."""


@dataclass(frozen=True)
class Condition:
    """name operator number."""

    name: str
    sign: str
    number: float

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.number:g}"


def parse_condition(text: str) -> Condition:
    """Read one comparison. Raises ConditionError."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
    if not match:
        raise ConditionError(f"{text!r}: expected NAME < NUMBER (or <=, >, >=), such as 'dead_low > 0.3'")
    name, sign, number = match.groups()
    if name not in NAMES:
        meant = closest(name, NAMES)
        hint = f"did you mean {meant!r}? " if meant else ""
        raise ConditionError(f"{text!r}: unknown name {name!r}; {hint}known: {', '.join(NAMES)}")
    return Condition(name, sign, float(number))


def dead_can_be_told(summary: dict[str, Any]) -> bool:
    """Whether any input has the generations that a dead verdict takes; else the dead are not known."""
    return bool(summary["generations_per_input"]["max"] >= summary["dead_needs"])


def value_of(name: str, summary: dict[str, Any]) -> float | None:
    """The number that a name stands for in a diagnosis' summary; None: undefined there.

    signal_<size> is the lower bound where there are too few generations for an estimate.
    """
    if name.startswith("dead_") and name in SHARES and not dead_can_be_told(summary):
        return None
    if name in SHARES:
        return float(summary["classes"][name]["share"])
    if name.startswith("no_spread"):
        return float(summary[name]["share"])
    if name.startswith("signal_"):
        row = next(row for row in summary["signal"] if row["group_size"] == int(name.removeprefix("signal_")))
        return float(row["low"] if row["share"] is None else row["share"])
    if name == "std_percentile":
        return _optional(summary[name]["value"])
    if name == "within_share":
        return _optional(summary["variance"][name])
    return _optional(summary[name])


def holds(condition: Condition, summary: dict[str, Any]) -> bool:
    """Whether the condition is met; what is undefined meets none."""
    value = value_of(condition.name, summary)
    return value is not None and OPERATORS[condition.sign](value, condition.number)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
