"""Two diagnoses of the same inputs, before and after some training: what woke up, what died."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.classes import CLASSES, ERROR_RATE, Strings
from rft_diagnose.diagnose import Diagnosis
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.over_inputs import share

LOOKS = ("flat_low", "flat_high", "spread")


@dataclass(frozen=True)
class Comparison:
    """before, after: [K], the places of the common inputs in each; change: [K], woke_up, died or ""."""

    before: Ints
    after: Ints
    change: Strings
    summary: dict[str, Any]


def compare(before: Diagnosis, after: Diagnosis) -> Comparison:
    """Match the inputs by label and say which changed by more than chance.

    woke_up: no spread before, spread after; died: the other way round; each where so many generations
    outside the bulk would all fall on one side with probability 0.05 at most, were nothing changed (Fisher's
    exact test). Raises DiagnosisError: no common input.
    """
    common, first, second = np.intersect1d(
        before.labels, after.labels, assume_unique=True, return_indices=True
    )
    if not len(common):
        raise DiagnosisError(
            f"the two have no input in common: the first has {before.labels[0]!s:.60}, "
            f"the second {after.labels[0]!s:.60}"
        )
    old, new = before.inputs, after.inputs
    was_flat = np.char.startswith(old.looks[first], "flat")
    is_flat = np.char.startswith(new.looks[second], "flat")
    woke = was_flat & (new.looks[second] == "spread")
    woke &= _one_sided(old.n[first], new.n[second], new.outside[second]) <= ERROR_RATE
    died = is_flat & (old.looks[first] == "spread")
    died &= _one_sided(new.n[second], old.n[first], old.outside[first]) <= ERROR_RATE
    summary = {
        "inputs": len(common),
        "only_before": len(before.labels) - len(common),
        "only_after": len(after.labels) - len(common),
        "classes": _crossed(old.label[first], new.label[second], CLASSES),
        "looks": _crossed(old.looks[first], new.looks[second], LOOKS),
        "woke_up": share(woke),
        "died": share(died),
        "mean_before": float(old.mean[first].mean()),
        "mean_after": float(new.mean[second].mean()),
    }
    return Comparison(first, second, np.select([woke, died], ["woke_up", "died"], ""), summary)


def relabelled(diagnosis: Diagnosis, labels: Sequence[str]) -> Diagnosis:
    """Give the diagnosis with names for its inputs, which it has by their numbers."""
    return replace(diagnosis, labels=np.array(labels, dtype=object)[diagnosis.labels])


def _one_sided(flat: Ints, other: Ints, outside: Ints) -> Floats:
    """Compute the probability that all `outside` of flat + other generations are among the others', [K]."""
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.pmf(0, flat + other, outside, flat), dtype=float)


def _crossed(before: Strings, after: Strings, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for old in names:
        counts[old] = {new: int(_both(before, old, after, new).sum()) for new in names}
    return counts


def _both(before: Strings, old: str, after: Strings, new: str) -> NDArray[np.bool_]:
    return (before == old) & (after == new)
