"""Datasets as `datasets` holds them: the hub at a pinned revision, a saved copy, the hub's parquet files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.hub import SPLIT_NAMES, choose_split, damage_reported, load_from_hub, read_parquet, read_saved
from sft_vs_rft.data.containers import Labels, RawSplit, TextPairs
from sft_vs_rft.data_source import SOURCES, DataError, DataSource, LocalCopy, what_to_put

logger = logging.getLogger(__name__)


def hub_splits(dataset: str) -> tuple[RawSplit, RawSplit]:
    """Reads train and test split from the hub, or its cache on this machine. Raises DataError: neither."""
    return _splits(dataset, load_from_hub(SOURCES[dataset].published, what_to_put(dataset)))


def copied_splits(dataset: str, copy: LocalCopy) -> tuple[RawSplit, RawSplit]:
    """Reads both splits of a saved copy or parquet files. Raises DataError: damaged, another dataset."""
    what = f"the copy of dataset {dataset!r} in {copy.train[0]}"
    if copy.kind == "saved":
        return _splits(dataset, read_saved(copy.train[0], what))
    with damage_reported(what):
        tables = [read_parquet(files) for files in (copy.train, copy.test)]
    return _splits(dataset, dict(zip(SOURCES[dataset].splits, tables, strict=True)))


def score_classes(scores: Sequence[float]) -> Labels:
    """Turns STS-B's similarity scores 0..5 into classes, rounded half to even as Python's `round` does."""
    return np.array([round(score) for score in scores], dtype=np.int64)


def _splits(dataset: str, loaded: Mapping[str, Any]) -> tuple[RawSplit, RawSplit]:
    source = SOURCES[dataset]
    raw = []
    for name in source.splits:
        rows = choose_split(loaded, name, f"this copy of dataset {dataset!r}")
        split, expected = SPLIT_NAMES[name][0], source.published.rows[name]
        missing = [column for column in (*source.inputs, source.label) if column not in rows.column_names]
        if missing:
            raise DataError(
                f"split {split!r} is not dataset {dataset!r}: no column {', '.join(missing)}, "
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
