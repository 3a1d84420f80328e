"""What TRL's logged completions leave out: batches between logs, and what evaluation takes the place of."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np

from rft_diagnose.errors import listed
from rft_diagnose.groups import Ints

CHANCE = 1e-3  # that steps end alike without an evaluation, above which nothing is said
REMEDY = "the callback's log has all generations of training: VanishingGradientCallback(log_rollouts=True)"


def trl_notes(logged: Ints, codes: Ints, steps: Ints) -> list[str]:
    """Warn of what a log of TRL lacks.

    logged: the steps of all rows; codes, steps: [M], input and step of each row that is a generation.
    """
    notes = [_gaps(logged), _evaluation(codes, steps)]
    return [note for note in notes if note is not None]


def _gaps(steps: Ints) -> str | None:
    """Say that batches between logging steps are in no file."""
    logged = np.unique(steps[steps > 0])
    if not len(logged) or logged[-1] == len(logged):
        return None
    return (
        f"TRL logs the batches of logging steps alone: {len(logged):,} of {logged[-1]:,} steps are here. "
        "Unless each batch was used until the next log, generations are missing: set logging_steps=1, or "
        f"{REMEDY}"
    )


def _evaluation(codes: Ints, steps: Ints) -> str | None:
    """Say which steps seem to hold rows of evaluation, which TRL writes over those of training."""
    ends: dict[int, list[int]] = {}  # of each step its inputs in order, the last one first
    for step in np.unique(steps):
        ends[int(step)] = [int(code) for code, _ in groupby(codes[steps == step][::-1])]
    evaluated = {0} & ends.keys()  # training logs after its first step
    by_last: dict[int, list[int]] = {}
    for step, inputs in ends.items():
        if step not in evaluated:
            by_last.setdefault(inputs[0], []).append(step)
    several = [like for like in by_last.values() if len(like) > 1]
    if several:
        like = max(several, key=len)
        same = _common([ends[step] for step in like])
        if _chance(len(np.unique(codes)), same, len(like), len(ends)) < CHANCE:
            evaluated |= set(like)
    if not evaluated:
        return None
    return (
        f"evaluation's completions stand among those of training at steps {listed(sorted(evaluated))}, as it "
        "seems (they end with the same inputs in the same order, or training had not begun): TRL writes them "
        f"over those of training, to the same file. Evaluate in another run, or {REMEDY}"
    )


def _common(rows: list[list[int]]) -> int:
    """Count the inputs with which all rows begin."""
    columns = enumerate(zip(*rows, strict=False))
    return next((i for i, column in columns if len(set(column)) > 1), min(map(len, rows)))


def _chance(inputs: int, same: int, like: int, steps: int) -> float:
    """Bound the probability that so many of the steps draw the same inputs in the same order by chance."""
    choices = math.lgamma(steps + 1) - math.lgamma(like + 1) - math.lgamma(steps - like + 1)
    return math.exp(min(0.0, choices - same * (like - 1) * math.log(inputs)))
