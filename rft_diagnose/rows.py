"""Rows that are no generations of their own, and names of inputs that stand for several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.columns import Encoded
from rft_diagnose.groups import Ints

Bits = NDArray[np.uint64]
Bools = NDArray[np.bool_]
FEWEST = 12  # different texts, and TEXTS_EACH for an input on average: then equal ones are no chance
TEXTS_EACH = 3


def mix(*columns: NDArray[np.generic]) -> Bits:
    """Make a number [M] of the values in each row; equal rows have equal ones, others different ones."""
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        # The last step of splitmix64: every bit of a value has a part in every bit of the number.
        mixed = (mixed + np.uint64(0x9E3779B97F4A7C15)) ^ column.view(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _of_blocks(blocks: Ints, rows: Bits) -> tuple[Ints, Bits, Ints]:
    """Give the distinct blocks, and what stands for the multiset of rows of each: their sum and number."""
    order = np.argsort(blocks, kind="stable")
    distinct, starts, counts = np.unique(blocks[order], return_index=True, return_counts=True)
    return distinct, np.add.reduceat(rows[order], starts), counts


def repeated_blocks(blocks: Ints, rows: Bits) -> Ints:
    """Find the blocks, in ascending order, with the very rows of the block before. blocks, rows: [M]."""
    distinct, sums, counts = _of_blocks(blocks, rows)
    return distinct[1:][(sums[1:] == sums[:-1]) & (counts[1:] == counts[:-1])]


def copied_blocks(blocks: Ints, rows: Bits) -> Ints:
    """Find the blocks with the very rows of any block before. blocks, rows: [M]."""
    distinct, sums, counts = _of_blocks(blocks, rows)
    first = np.unique(mix(sums, counts.astype(np.int64)), return_index=True)[1]
    return np.delete(distinct, first)


def are_rows_of_kinds(kinds: Ints, groups: Ints, rows: Bits | None) -> bool:
    """Tell whether most groups have the same rows for each of several kinds: a row a kind and generation.

    kinds, groups: [M]; rows: [M], of the texts, or None: their numbers have to be the same, then.
    """
    if rows is None:
        rows = np.ones(len(groups), dtype=np.uint64)
    pairs = groups * (int(kinds.max()) + 2) + kinds
    distinct, sums, counts = _of_blocks(pairs, rows)
    owners = distinct // (int(kinds.max()) + 2)
    _, starts, sizes = np.unique(owners, return_index=True, return_counts=True)
    same = np.ones(len(starts), dtype=bool)
    for values in (sums, counts):
        same &= np.maximum.reduceat(values, starts) == np.minimum.reduceat(values, starts)
    return bool((same & (sizes > 1)).sum() > 0.5 * len(starts))


def rows_per_text(groups: Ints, rows: Bits) -> int:
    """Count the rows of each text if all texts have as many; 1 if they have not, or may have by chance.

    groups: [M], input and step; rows: [M], of group and text.
    """
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) < max(FEWEST, TEXTS_EACH * len(np.unique(groups))):
        return 1
    return int(counts[0]) if counts.min() == counts.max() else 1


def ambiguous_id(ids: Encoded, texts: Encoded) -> str | None:
    """Find an id that stands for several texts, if there is one; codes: [M] each."""
    pairs = np.unique(ids.codes * (len(texts.texts) + 1) + texts.codes + 1)
    owners, counts = np.unique(pairs // (len(texts.texts) + 1), return_counts=True)
    return ids.texts[int(owners[counts.argmax()])] if counts.max() > 1 else None


def restart(labels: Sequence[str], codes: Ints, blocks: Ints) -> tuple[int, int] | None:
    """Tell whether inputs' names count from 0 or 1 anew in each of several blocks, as places in a batch do.

    labels: of the N inputs; codes, blocks: [M]. Returns first and last number of the largest block, or None.
    """
    if not all(label.isdecimal() and len(label) < 10 for label in labels):
        return None
    numbers = np.array([int(label) for label in labels])[codes]
    distinct, place = np.unique(blocks, return_inverse=True)
    pairs = np.unique(np.stack([place, numbers]), axis=1)
    starts = np.unique(pairs[0], return_index=True)[1]
    sizes = np.diff([*starts, pairs.shape[1]])
    first, last = pairs[1][starts], np.maximum.reduceat(pairs[1], starts)
    if len(distinct) < 2 or sizes.min() < 2 or not (last - first + 1 == sizes).all():
        return None
    return (int(first[0]), int(last.max())) if first.max() <= 1 and first.min() == first.max() else None
