"""The labels of a user's .npz file, which say how many classes a model has: checked first of all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.hub import DataError
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data_source import find_npz

LABELS = ("y_train", "y_test")
LABELS_PER_ROW = 10  # a label above so many times the number of train rows is no class but, say, an id
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
)


def read_arrays(file: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Those of the arrays that a .npz file has. Raises DataError: it is none, or holds more than numbers."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names if name in archive}
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{', '.join(others)} is no array")  # numpy returns such a member's bytes
        return arrays
    except UNREADABLE as error:
        reason = "it needs more memory than there is" if isinstance(error, MemoryError) else error
        raise DataError(
            f"{file} cannot be read as a .npz file of plain arrays: {reason}; "
            "write it with numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=...)"
        ) from error


def check_labels(file: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """The labels of the splits, [N] integers from 0, as many as rows can tell apart. Raises DataError."""
    labels = {name: _integers(file, name, arrays[name]) for name in LABELS if name in arrays}
    if not all(len(values) for values in labels.values()):
        raise DataError(f"{file}: {' or '.join(name for name, v in labels.items() if not len(v))} is empty")
    train, test = (labels.get(name) for name in LABELS)
    if train is not None and train.max() > LABELS_PER_ROW * len(train):
        raise DataError(
            f"{file}: y_train has labels up to {train.max():,} for {len(train):,} rows ({_largest(train)}); "
            "classes are numbered from 0, without gaps"
        )
    if train is not None and test is not None and test.max() > train.max():
        raise DataError(
            f"{file}: y_test has labels that y_train does not have: its largest are {_largest(test)}, "
            f"those of y_train {_largest(train)}"
        )
    return labels


def check_npz_files(configs: Iterable[ExperimentConfig], readable: bool) -> None:
    """Check the labels of the .npz files of a plan, each once, and sizes against them. Raises DataError.

    Of the inputs only the shape is read.
    readable: also that they can be read; else that is left to their experiments, which fail alone.
    """
    by_file: dict[Path, list[ExperimentConfig]] = {}
    for config in configs:
        if config.dataset == "npz":
            by_file.setdefault(find_npz(config.data_dir), []).append(config)
    for file in sorted(by_file):
        try:
            arrays = read_arrays(file, LABELS)
        except DataError:
            if readable:
                raise
            continue
        _check_sizes(file, check_labels(file, arrays), by_file[file])
        shape = _read_shape(file, "x_train")
        if shape and len(shape) != 4 and any(config.model_type == "resnet18" for config in by_file[file]):
            raise DataError(
                f"{file}: model_type resnet18 needs images, x_train is {list(shape)} and not [N, channels, "
                "height, width]; set model_type: mlp"
            )


def _read_shape(file: Path, name: str) -> tuple[int, ...] | None:
    """The shape of an array of a .npz file, by its header alone; None where that cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0
            return (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(member)[0]
    except UNREADABLE:
        return None


def _check_sizes(
    file: Path, labels: dict[str, NDArray[np.int64]], configs: Iterable[ExperimentConfig]
) -> None:
    """Raises DataError: an experiment asks for more inputs or classes than a file has."""
    classes = max((int(values.max()) + 1 for values in labels.values()), default=0)
    for config in configs:
        asked = {"y_train": ("num_train_samples", config.num_train_samples)}
        asked["y_test"] = ("num_test_samples", config.num_test_samples)
        for name, values in labels.items():
            field, number = asked[name]
            if number > len(values):
                raise DataError(
                    f"{file}: {field} is {number:,}, but {name} has {len(values):,} rows (-1 = all)"
                )
        if labels and config.num_labels_per_sample > classes:
            raise DataError(
                f"{file}: num_labels_per_sample is {config.num_labels_per_sample:,}, but the labels are of "
                f"only {classes:,} classes"
            )


def _integers(file: Path, name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{file}: {name} is {array.dtype} of shape {array.shape}; it must be [N] integers")
    if (array < 0).any():
        raise DataError(f"{file}: {name} has negative labels; classes are numbered from 0")
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise DataError(f"{file}: {name} has labels up to {array.max():,}; classes are numbered from 0")
    return array.astype(np.int64)


def _largest(labels: NDArray[np.int64]) -> str:
    values = np.unique(labels)[-3:]
    return ", ".join(f"{value:,}" for value in values)
