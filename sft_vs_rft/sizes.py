"""Sizes that no controlled experiment can have: for its dataset, its method, or for any machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from common import limits
from common.config import Problem
from common.limits import at_most, excess
from sft_vs_rft.data_source import EMBEDDED, SOURCES

Samples = Annotated[int, Field(ge=-1), at_most(limits.SAMPLES, "samples")]
BatchSize = Annotated[int, Field(ge=1), at_most(limits.SAMPLES, "inputs at a time")]
GroupSize = Annotated[int, Field(ge=0), at_most(10_000, "labels of a group")]
Width = Annotated[int, Field(ge=1), at_most(1_000_000, "units of a layer")]


def size_problems(dataset: str, labels_per_input: int, widths: Sequence[int]) -> list[Problem]:
    """Problems of K against the dataset's classes, and of the MLP's layers [widths of its ReLU layers]."""
    problems = []
    classes = SOURCES[dataset].num_classes if dataset in SOURCES else EMBEDDED.get(dataset)
    if classes is not None and labels_per_input > classes:
        message = f"is {labels_per_input:,}, but dataset {dataset!r} has only {classes} classes"
        problems.append(Problem("num_labels_per_sample", message))
    weights = sum(before * after for before, after in pairwise(widths))
    if weights > limits.WEIGHTS:
        message = excess(weights, "weights between these layers", limits.WEIGHTS)
        problems.append(Problem("mlp_hidden_layer_sizes", message))
    return problems


def group_problems(method: str, group_size: int, advantage: str) -> list[Problem]:
    """Problems of the methods with groups; none of the others, to which these fields mean nothing."""
    problems = []
    if method == "expected_group" and group_size == 1:
        problems.append(Problem("group_size", "must be at least 2, or 0 for infinitely many, got 1"))
    if method == "sampled_group" and group_size < 2:
        message = f"a sampled group has at least 2 labels, got {group_size}"
        problems.append(Problem("group_size", message))
    if method == "expected_group" and advantage != "grpo":
        message = (
            f"expected_group is the exact gradient of 'grpo', got {advantage!r}: that of 'rloo' is "
            "expected_reinforce's, that of 'dr_grpo' (1 - 1/G) times as long"
        )
        problems.append(Problem("advantage", message))
    return problems
