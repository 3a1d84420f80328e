"""Rows that are no generations of their own, and names of inputs that stand for several."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.columns import Encoded
from rft_diagnose.groups import Ints

Bits = NDArray[np.uint64]
Bools = NDArray[np.bool_]
FEWEST = 12  # different texts, and TEXTS_EACH for an input on average: then equal ones are no chance
TEXTS_EACH = 3
# Eight texts out of four are twice each in 4% of groups by chance.
PRESENT = 0.5  # of the places of a batch in each
NUMBERED = re.compile(r"([A-Za-z][A-Za-z_ .:#-]*)?(\d{1,9})")
VARIED, COPIED = 4, 0.25


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


def contained_blocks(blocks: Ints, rows: Bits) -> list[tuple[int, int]]:
    """Find the blocks all of whose rows are among those of a larger one: pairs of both. blocks, rows: [M]."""
    order = np.lexsort((blocks, rows))
    blocks, rows = blocks[order], rows[order]
    starts = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]) | (blocks[1:] != blocks[:-1])])
    counts, blocks, rows = np.diff([*starts, len(blocks)]), blocks[starts], rows[starts]
    numbers, owners = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(owners, weights=counts)
    by_block = np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))[:-1])
    pairs = []
    for block, inside in enumerate(by_block):
        if len(inside) < FEWEST:
            continue
        # The largest of the blocks that share a row with it.
        same = slice(*(np.searchsorted(rows, rows[inside[0]], side) for side in ("left", "right")))
        other = int(owners[same][sizes[owners[same]].argmax()])
        if sizes[other] <= sizes[block]:
            continue
        theirs = by_block[other]
        place = np.minimum(np.searchsorted(rows[theirs], rows[inside]), len(theirs) - 1)
        if ((rows[theirs[place]] == rows[inside]) & (counts[theirs[place]] >= counts[inside])).all():
            pairs.append((int(numbers[block]), int(numbers[other])))
    return pairs


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


def groups_of_copies(groups: Ints, rows: Bits) -> int:
    """Count the groups in which every text stands equally often, and several times, if this is no chance.

    groups: [M], input and step; rows: [M], of group and text. Looked at are groups of at least VARIED texts.
    """
    _, first, counts = np.unique(rows, return_index=True, return_counts=True)
    order = np.argsort(groups[first], kind="stable")
    counts = counts[order]
    _, starts, texts = np.unique(groups[first][order], return_index=True, return_counts=True)
    least, most = np.minimum.reduceat(counts, starts), np.maximum.reduceat(counts, starts)
    varied = texts >= VARIED
    copied = varied & (least == most) & (least > 1)
    return int(copied.sum()) if copied.sum() >= max(3, COPIED * varied.sum()) else 0


def ambiguous_id(ids: Encoded, texts: Encoded) -> str | None:
    """Find an id that stands for several texts, if there is one; codes: [M] each."""
    pairs = np.unique(ids.codes * (len(texts.texts) + 1) + texts.codes + 1)
    owners, counts = np.unique(pairs // (len(texts.texts) + 1), return_counts=True)
    return ids.texts[int(owners[counts.argmax()])] if counts.max() > 1 else None


def are_of_visits(ids: Encoded, texts: Encoded, steps: Ints) -> bool:
    """Tell whether every id is of one step alone while most texts come again under other ids. steps: [M]."""
    visits = np.unique(np.stack([ids.codes, np.unique(steps, return_inverse=True)[1]]), axis=1)[0]
    if len(np.unique(visits)) < len(visits):
        return False
    _, ids_of_text = np.unique(np.unique(np.stack([texts.codes, ids.codes]), axis=1)[0], return_counts=True)
    return bool((ids_of_text > 1).sum() > 0.5 * len(ids_of_text))


def restart(labels: Sequence[str], codes: Ints, blocks: Ints) -> tuple[int, int] | None:
    """Tell whether inputs' names count from 0 or 1 anew in each of several blocks, as places in a batch do.

    labels: of the N inputs, numbers or with one word before all of them; codes, blocks: [M]. Places may be
    those of the inputs' first rows, and some of them left out. Returns the first and last number, or None.
    """
    matches = [NUMBERED.fullmatch(label) for label in labels]
    known = [match for match in matches if match is not None]
    if len(known) < len(labels) or len({match.group(1) for match in known}) > 1:
        return None
    numbers = np.array([int(match.group(2)) for match in known])[codes]
    width = max(1, int(np.gcd.reduce(numbers)))
    distinct, place = np.unique(blocks, return_inverse=True)
    pairs = np.unique(np.stack([place, numbers]), axis=1)
    starts = np.unique(pairs[0], return_index=True)[1]
    sizes = np.diff([*starts, pairs.shape[1]])
    first, last = pairs[1][starts], np.maximum.reduceat(pairs[1], starts)
    if len(distinct) < 2 or sizes.min() < 2 or first.min() > 1:
        return None
    places = (int(last.max()) - int(first.min())) // width + 1
    return (int(first.min()), int(last.max())) if sizes.min() >= PRESENT * places else None
