"""IMDB reviews (Maas et al. 2011): the first half of a review -> the rest."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from common.hub import Published
from rl4lms.datapools.sources import (
    DatasetArgs,
    Row,
    read_rows,
)
from rl4lms.samples import Sample, Split

IMDB = Published(
    name="imdb",
    columns={"text": str, "label": int},
    rows={"train": 25_000, "test": 25_000},
    repo="stanfordnlp/imdb",
    config="plain_text",
    revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
)
POSITIVE = 1
TRAIN_SHARE = 0.8
NUM_TEST = 5_000


ShuffleSeed = Annotated[int, Field(ge=0, description="seed of the shuffle that separates train from val")]


class ImdbArgs(DatasetArgs):
    seed: ShuffleSeed = 42
    # Off, unlike in the paper's configurations, which say so: an absent flag drops nothing.
    only_positive_samples: bool = Field(False, description="leave negative reviews out of train")


class ImdbSeq2SeqArgs(DatasetArgs):
    seed: ShuffleSeed = 42
    positive_ratio: float = Field(1.0, gt=0, le=1, description="share of train's positive reviews to use")


def load(split: Split, *, seed: int, only_positive_samples: bool, data_path: str | None) -> list[Sample]:
    """Load reviews: the prompt is the first half of the words, the reference all. Raises DataError."""
    return [
        Sample(f"{split}_{i}", halves(row["text"])[0], [row["text"]])
        for i, row in _shuffle_reviews(split, seed, data_path)
        if split != "train" or not only_positive_samples or row["label"] == POSITIVE
    ]


def load_seq2seq(split: Split, *, seed: int, positive_ratio: float, data_path: str | None) -> list[Sample]:
    """Load reviews: prompt and reference are the two halves; train has the first positive. Raises DataError.

    The shuffle is that of `load`: supervised finetuning sees none of what the others validate on.
    """
    rows = _shuffle_reviews(split, seed, data_path)
    if split == "train":
        positive = [(i, row) for i, row in rows if row["label"] == POSITIVE]
        rows = positive[: math.floor(positive_ratio * len(positive) + 1e-9)]
    return [Sample(f"{split}_{i}", *_pair(row["text"]), {"reference": row["text"]}) for i, row in rows]


def halves(text: str) -> tuple[str, str]:
    """Split the words of a text, apart at single spaces, at the middle."""
    words = text.split(" ")
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


def _pair(text: str) -> tuple[str, list[str]]:
    first, second = halves(text)
    return first, [second]


def _shuffle_reviews(split: Split, seed: int, data_path: str | None) -> list[tuple[int, Row]]:
    """Shuffle a split's reviews, numbered in the order that `datasets.Dataset.shuffle(seed)` gives them."""
    import numpy as np

    rows = list(read_rows(IMDB, "test" if split == "test" else "train", data_path))
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = int(len(rows) * TRAIN_SHARE)
    chosen = {"train": order[:cut], "val": order[cut:], "test": order[:NUM_TEST]}[split]
    return [(number, rows[position]) for number, position in enumerate(chosen)]
