"""Samples: what a datapool returns, and how the configs choose some of them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from common.hub import DataError

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One input of a dataset, with the texts its outputs are compared to.

    id: unique within a split, the same in every run; meta_data: whatever rewards and metrics of the dataset
    need besides.
    """

    id: str | int
    prompt_or_input_text: str
    references: list[str]
    meta_data: dict[str, Any] = field(default_factory=dict)


def subsample(
    samples: Sequence[Sample], n: int | None = None, frac: float | None = None, seed: int | None = None
) -> list[Sample]:
    """Take the samples at `subsample_indices`."""
    return [samples[i] for i in subsample_indices(len(samples), n, frac, seed)]


def subsample_indices(
    total: int, n: int | None = None, frac: float | None = None, seed: int | None = None
) -> list[int]:
    """The first n, or floor(frac * total), of `numpy.random.RandomState(seed).permutation(total)`.

    n, frac: give at most one; without both (None or -1) all are taken, in their order. seed: None or -1 =
    unseeded. Raises ValueError: both given, or a fraction that is not in (0, 1] or leaves nothing.
    """
    n = None if n == -1 else n
    frac = None if frac == -1 else frac
    if n is None and frac is None:
        return list(range(total))
    if n is not None and frac is not None:
        raise ValueError(f"give a number of samples or a fraction, not both: {n} and {frac}")
    if frac is not None:
        if not 0 < frac <= 1:
            raise ValueError(f"a fraction of samples must be in (0, 1], got {frac}")
        # The tolerance undoes binary rounding: 0.29 * 100 is 28.999999999999996.
        n = math.floor(frac * total + 1e-9)
        if n == 0:
            raise ValueError(f"a fraction of {frac} is less than one of {total:,} samples")
    assert n is not None
    if n < 1:
        raise ValueError(f"a number of samples must be at least 1 (-1 = all), got {n}")
    if n > total:
        logger.warning("%s samples asked for, all %s there are taken", f"{n:,}", f"{total:,}")
    import numpy as np

    seed = None if seed == -1 else seed
    return [int(i) for i in np.random.RandomState(seed).permutation(total)[:n]]


def checked(samples: Any, what: str) -> list[Sample]:
    """What a datapool returned, as a list. Raises DataError: none, not only samples, or repeated ids."""
    return check_each(samples, what, "rl4lms.samples.Sample", _problem)


def check_each(elements: Any, what: str, kind: str, find_problem: Callable[[Any], str | None]) -> list[Any]:
    """The elements of a kind (its dotted name) as a list. Raises DataError: none, wrong ones, ids twice."""
    noun = kind.rpartition(".")[2].lower()
    if not isinstance(elements, Sequence):
        raise DataError(f"{what}: expected a list of {kind}, got {type(elements).__name__}")
    if not elements:
        raise DataError(f"{what}: there are no {noun}s")
    ids: set[str | int] = set()
    for position, element in enumerate(elements):
        problem = find_problem(element)
        if problem is None and element.id in ids:
            problem = f"id {element.id!r} is also that of a {noun} before it"
        if problem:
            raise DataError(f"{what}, position {position}: {problem}")
        ids.add(element.id)
    return list(elements)


def _problem(sample: Any) -> str | None:
    if not isinstance(sample, Sample):
        return f"expected a rl4lms.samples.Sample, got {type(sample).__name__}"
    if not isinstance(sample.id, str | int):
        return f"id must be a string or a whole number, is {sample.id!r}"
    if not isinstance(sample.prompt_or_input_text, str):
        return f"prompt_or_input_text must be a string, is {sample.prompt_or_input_text!r:.60}"
    if not isinstance(sample.references, list) or not all(isinstance(r, str) for r in sample.references):
        return f"references must be a list of strings, is {sample.references!r:.60}"
    if not isinstance(sample.meta_data, dict):
        return f"meta_data must be a dict, is {sample.meta_data!r:.60}"
    for name in ("id", "prompt_or_input_text", "references", "meta_data"):
        if broken := describe_broken_text(getattr(sample, name)):
            return f"{name} of sample {sample.id!r} {broken}"
    return None


def describe_broken_text(value: Any) -> str | None:
    """Say what is wrong with a text that UTF-8 cannot write; None: nothing.

    value: the text, or lists and mappings with texts in them, of which the last such is described.
    """
    todo, entered = [value], set[int]()
    while todo:
        item = todo.pop()
        if isinstance(item, str) and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError as error:
                code = ord(item[error.start])
                half = f"half of a character (the surrogate \\u{code:04x})"
                return f"has {half}: write the text anew, or leave it out"
        elif isinstance(item, dict | list | tuple) and id(item) not in entered:
            entered.add(id(item))
            todo += [*item, *item.values()] if isinstance(item, dict) else item
    return None


def content_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 of the samples' content and order, hexadecimal: did two runs see the same data?"""
    digest = hashlib.sha256()
    for sample in samples:
        content = [sample.id, sample.prompt_or_input_text, sample.references, sample.meta_data]
        digest.update(json.dumps(content, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
