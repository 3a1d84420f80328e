"""Distinct texts per input: where all are the same, the rewards say nothing about learning."""

from __future__ import annotations

import numpy as np

from rft_diagnose.groups import Ints
from rft_diagnose.rows import mix

MOST = 0.5  # of the inputs: then it is the sampling, rather than inputs with one possible answer


def warn_of_equal_texts(codes: Ints, texts: Ints | None, steps: Ints | None) -> str | None:
    """Say of how many inputs all texts are the same, within each step; None: of none, or not known.

    codes, texts, steps: [M], each generation's input, a number that stands for its text, and its step.
    """
    if texts is None or not len(texts):
        return None
    visits = codes if steps is None else np.unique(mix(codes, steps), return_inverse=True)[1]
    order = np.lexsort((texts, visits))
    visits, texts, codes = visits[order], texts[order], codes[order]
    starts = np.flatnonzero(np.r_[True, visits[1:] != visits[:-1]])
    sizes = np.diff([*starts, len(visits)])
    new = np.r_[False, (texts[1:] != texts[:-1]) & (visits[1:] == visits[:-1])]
    distinct = 1 + np.add.reduceat(new, starts)
    owners, several = codes[starts], sizes > 1
    inputs = np.unique(owners[several])
    varied = np.unique(owners[several & (distinct > 1)])
    same = np.setdiff1d(inputs, varied)
    if not len(same):
        return None
    largest = np.unique(sizes[several & np.isin(owners, same)])
    each = f"{largest[0]:,} " if len(largest) == 1 else ""
    if len(same) < MOST * len(inputs):
        return f"all {each}texts of {len(same):,} of the {len(inputs):,} inputs are the same"
    return f"all {each}texts of {len(same):,} inputs are the same: is sampling on?"
