"""Datasets as `datasets` holds them: the hub at a pinned revision, a saved copy, the hub's parquet files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.hub import damage_reported, load_from_hub, read_parquet
from sft_vs_rft.data.containers import Labels, RawSplit, TextPairs
from sft_vs_rft.data_source import SOURCES, DataError, DataSource, LocalCopy, what_to_put

logger = logging.getLogger(__name__)


def hub_splits(dataset: str) -> tuple[RawSplit, RawSplit]:
    """Train and test split from the hub, or from its cache on this machine. Raises DataError: neither."""
    source = SOURCES[dataset]
    loaded = load_from_hub(dataset, source.repo, source.config, source.revision, what_to_put(dataset))
    return _splits(dataset, loaded)


def copied_splits(dataset: str, copy: LocalCopy) -> tuple[RawSplit, RawSplit]:
    """Train and test split of a saved copy or parquet files. Raises DataError: damaged, another dataset."""
    import datasets

    with damage_reported(f"the copy of dataset {dataset!r} in {copy.train[0]}"):
        if copy.kind == "saved":
            loaded: Any = datasets.load_from_disk(copy.train[0])
        else:
            loaded = {"train": read_parquet(copy.train), SOURCES[dataset].test_split: read_parquet(copy.test)}
    return _splits(dataset, loaded)


def score_classes(scores: Sequence[float]) -> Labels:
    """STS-B's similarity scores 0..5 as classes, rounded half to even as Python's `round` does."""
    return np.array([round(score) for score in scores], dtype=np.int64)


def _splits(dataset: str, loaded: Mapping[str, Any]) -> tuple[RawSplit, RawSplit]:
    source = SOURCES[dataset]
    raw = []
    for split, expected in zip(("train", source.test_split), source.rows, strict=True):
        if split not in loaded:
            raise DataError(
                f"this copy of dataset {dataset!r} has no split {split!r}, only: {', '.join(loaded)}"
            )
        rows = loaded[split]
        lacking = [name for name in (*source.inputs, source.label) if name not in rows.column_names]
        if lacking:
            raise DataError(
                f"split {split!r} is not dataset {dataset!r}: no column {', '.join(lacking)}, "
                f"only: {', '.join(rows.column_names)}"
            )
        if len(rows) != expected:
            logger.warning(
                "%s: %s rows in split %r, the full one has %s", dataset, len(rows), split, expected
            )
        raw.append(_text_split(rows, source) if len(source.inputs) > 1 else _image_split(rows, source))
    return raw[0], raw[1]


def _text_split(rows: Any, source: DataSource) -> RawSplit:
    def take(index: NDArray[np.int64]) -> TextPairs:
        chosen = rows.select(index)
        return list(zip(*(list(chosen[name]) for name in source.inputs), strict=True))

    return RawSplit(score_classes(rows[source.label]), take)


def _image_split(rows: Any, source: DataSource) -> RawSplit:
    import datasets

    column, mode = source.inputs[0], "L" if len(source.mean) == 1 else "RGB"
    rows = rows.cast_column(column, datasets.Image())

    def take(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.stack([np.asarray(image.convert(mode)) for image in rows.select(index)[column]])
        return images[:, None] if mode == "L" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    return RawSplit(np.asarray(rows[source.label], dtype=np.int64), take)
