"""What measuring a claim gives: a number, or the news that there is none."""

from __future__ import annotations

from dataclasses import dataclass


class NotTestedError(Exception):
    """There is nothing to measure; the message says what is missing."""


@dataclass(frozen=True)
class Measured:
    """A number, and what a reader should know of it."""

    value: float
    detail: str
