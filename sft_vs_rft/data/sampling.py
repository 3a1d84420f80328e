"""The random choices of a controlled experiment: subset, label sets and modified inputs (Section 4.2).

Each has its own generator, so that changing one choice (say, how many inputs are modified) leaves the others.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sft_vs_rft.data.containers import Labels
from sft_vs_rft.data_source import DataError


def stratified_subset(labels: Labels, size: int, seed: int) -> NDArray[np.int64]:
    """Positions of `size` inputs with the class shares of `labels`, at random within a class, ascending.

    size: -1 = all. Raises DataError: more than there are.
    """
    if size == -1 or size == len(labels):
        return np.arange(len(labels))
    if size > len(labels):
        raise DataError(f"{size:,} inputs asked for, only {len(labels):,} available (-1 = all)")
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    shares = counts * size / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    # Largest remainders get what rounding down left over; a stable sort makes ties go to the lower class.
    quotas[np.argsort(quotas - shares, kind="stable")[: size - quotas.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:quota] for c, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def draw_label_sets(num_classes: int, size: int, seed: int) -> Labels:
    """The fixed label set of each class: itself, then size - 1 others drawn at random. [num_classes, size].

    Raises DataError: a set larger than the number of classes.
    """
    if size > num_classes:
        raise DataError(f"num_labels_per_sample is {size}, but the dataset has only {num_classes} classes")
    rng = np.random.default_rng(seed)
    others = [rng.permutation(np.delete(np.arange(num_classes), c))[: size - 1] for c in range(num_classes)]
    return np.column_stack([np.arange(num_classes), np.stack(others)])


def modify_labels(
    labels: Labels, label_sets: Labels, frac: float, seed: int
) -> tuple[Labels, NDArray[np.bool_]]:
    """Give a random floor(frac * N) of the inputs a label drawn uniformly from the classes outside their set.

    labels: [N]; label_sets: [C, K]. Returns the new labels [N] and which of them are modified [N].
    The inputs modified at a smaller `frac` are among those at a larger one, with the same labels.
    Raises DataError: the sets leave no class outside, or the share is less than one input.
    """
    modified = np.zeros(len(labels), dtype=bool)
    if frac == 0:
        return labels.copy(), modified
    num_classes, size = label_sets.shape
    if size == num_classes:
        raise DataError(
            f"frac_samples_to_modify_labels is {frac}, but label sets of all {num_classes} classes leave no "
            "other label; lower num_labels_per_sample"
        )
    # The tolerance undoes binary rounding: 0.29 * 100 is 28.999999999999996.
    count = math.floor(frac * len(labels) + 1e-9)
    if count == 0:
        raise DataError(
            f"frac_samples_to_modify_labels is {frac}: less than one of {len(labels)} train inputs"
        )
    rng = np.random.default_rng(seed)
    modified[rng.permutation(len(labels))[:count]] = True
    outside = np.stack([np.setdiff1d(np.arange(num_classes), members) for members in label_sets])
    drawn = outside[labels, rng.integers(num_classes - size, size=len(labels))]
    return np.where(modified, drawn, labels), modified
