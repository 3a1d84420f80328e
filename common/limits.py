"""The largest sizes that configs may ask for: far above any real ones, far below what no machine holds.

They are for slips (a size of 1e9) that would end in gigabytes and tracebacks, not for a machine's memory.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

CONTEXT = 10_000_000  # tokens of a prompt: the longest contexts that language models have been published with
TEXT = 2**20  # new tokens of a text: more than a million
TOKENS = 2**28  # tokens held at a time: with some 50 bytes each, as rollouts have, 13 GB
TEXTS = 1_000_000  # texts at a time
SAMPLES = 100_000_000  # of a dataset, which is held in memory
WEIGHTS = 1_000_000_000  # of a small model, made here: 16 GB with gradients and Adam
PROCESSES = 10_000


def at_most(limit: int, what: str) -> AfterValidator:
    """A bound of a field whose message says what is counted; null passes."""

    def check(value: Any) -> Any:
        if value is not None and value > limit:
            raise ValueError(excess(value, what, limit))
        return value

    return AfterValidator(check)


def excess(value: float, what: str, limit: int) -> str:
    """Say that a size is not plausible: `1,000,000,000 new tokens; at most 1,048,576 can be asked for`."""
    return f"{_count(value)} {what}; at most {limit:,} can be asked for"


def _count(value: float) -> str:
    """A size with its thousands apart, its order where it has more digits than one can read."""
    return f"{value:,}" if value < 10**18 else f"some 10^{len(hex(int(value))[2:]) * 4 * 301 // 1000}"


TextsAtATime = Annotated[int, Field(ge=1), at_most(TEXTS, "texts at a time")]
