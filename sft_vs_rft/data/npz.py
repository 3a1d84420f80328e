"""The user's own arrays: x_train, y_train, x_test, y_test and, optionally, modified_train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sft_vs_rft.data.containers import Pool, RawSplit
from sft_vs_rft.data_source import DataError
from sft_vs_rft.npz_labels import check_labels, read_arrays

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
MODIFIED = "modified_train"


def read_npz(file: Path) -> Pool:
    """The arrays of a .npz file, used as given: inputs already normalised, classes 0 to the largest label.

    x: [N, D] or [N, C, H, W], floating point, finite; y: [N] integers; modified_train: [N] bool.
    Raises DataError that names the file, the array and what it must be.
    """
    arrays = read_arrays(file, (*REQUIRED, MODIFIED))
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise DataError(f"{file}: no array {', '.join(lacking)}; it must hold {', '.join(REQUIRED)}")
    y = check_labels(file, arrays)
    splits = []
    for split in ("train", "test"):
        inputs, labels = _inputs(file, f"x_{split}", arrays), y[f"y_{split}"]
        if len(inputs) != len(labels):
            raise DataError(f"{file}: x_{split} has {len(inputs)} rows, y_{split} has {len(labels)}")
        splits.append((inputs, labels))
    (x_train, y_train), (x_test, y_test) = splits
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{file}: an input of x_train has shape {x_train.shape[1:]}, of x_test {x_test.shape[1:]}"
        )
    num_classes = int(max(y_train.max(), y_test.max())) + 1
    if num_classes < 2:
        raise DataError(f"{file}: y_train and y_test hold only class 0; at least 2 classes are needed")
    return Pool(
        RawSplit(y_train, x_train.__getitem__),
        RawSplit(y_test, x_test.__getitem__),
        num_classes,
        torch.from_numpy,
        _modified(file, arrays, len(y_train)),
    )


def _inputs(file: Path, name: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    array = arrays[name]
    if array.dtype.kind != "f":
        raise DataError(f"{file}: {name} is {array.dtype}; it must be floating point, already normalised")
    if array.ndim not in (2, 4) or 0 in array.shape:
        raise DataError(
            f"{file}: {name} has shape {array.shape}; must be [N, features] or [N, channels, height, width]"
        )
    array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(bad):
        raise DataError(f"{file}: {name} has NaN or infinite values (as float32), first in row {bad[0]}")
    return array


def _modified(file: Path, arrays: dict[str, NDArray[Any]], num_train: int) -> NDArray[np.bool_] | None:
    array = arrays.get(MODIFIED)
    if array is not None and (array.dtype != bool or array.shape != (num_train,)):
        raise DataError(
            f"{file}: {MODIFIED} is {array.dtype} of shape {array.shape}; must be bool [{num_train}]"
        )
    return array
