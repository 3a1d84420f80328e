"""Datasets as `datasets` holds them: the hub at a pinned revision, a saved copy, the hub's parquet files."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from sft_vs_rft.data.containers import Labels, RawSplit, TextPairs
from sft_vs_rft.data_source import SOURCES, DataError, DataSource, LocalCopy, what_to_put

logger = logging.getLogger(__name__)


def hub_splits(dataset: str) -> tuple[RawSplit, RawSplit]:
    """Train and test split from the hub, or from its cache on this machine. Raises DataError: neither."""
    source = SOURCES[dataset]
    spare_retries_without_network()
    import datasets

    try:
        loaded = datasets.load_dataset(source.repo, source.config, revision=source.revision)
    except Exception as error:  # network, hub, disk and cache errors share no base class
        raise DataError(
            f"dataset {dataset!r} could not be read from hub dataset {source.repo!r} "
            f"({type(error).__name__}: {_first_line(error)}). Without network, {what_to_put(dataset)}"
        ) from error
    return _splits(dataset, loaded)


def copied_splits(dataset: str, copy: LocalCopy) -> tuple[RawSplit, RawSplit]:
    """Train and test split of a saved copy or parquet files. Raises DataError: damaged, another dataset."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    def read(files: Sequence[Path]) -> datasets.Dataset:
        return datasets.Dataset(pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files]))

    try:
        if copy.kind == "saved":
            loaded: Any = datasets.load_from_disk(copy.train[0])
        else:
            loaded = {"train": read(copy.train), SOURCES[dataset].test_split: read(copy.test)}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(
            f"the copy of dataset {dataset!r} in {copy.train[0]} is damaged: {_first_line(error)}"
        ) from error
    return _splits(dataset, loaded)


def score_classes(scores: Sequence[float]) -> Labels:
    """STS-B's similarity scores 0..5 as classes, rounded half to even as Python's `round` does."""
    return np.array([round(score) for score in scores], dtype=np.int64)


def spare_retries_without_network() -> None:
    """Put the hub client into its offline mode if the hub's name does not resolve.

    It would retry for half a minute before it looks at its cache, or says that there is nothing.
    Behind a proxy, names need not resolve here.
    """
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        logger.info("the hub cannot be reached: using what is cached on this machine")
        constants.HF_HUB_OFFLINE = True


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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
