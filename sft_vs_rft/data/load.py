"""From a config to the tensors of one experiment."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.seeding import derive_seed
from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data.containers import ControlledData, Inputs, Labels, Pool, RawSplit, TextPairs
from sft_vs_rft.data.docstring_pairs import NUM_GRADES, build_pairs, load_sentences, vocabulary
from sft_vs_rft.data.hub import copied_splits, hub_splits, score_classes
from sft_vs_rft.data.images import digits, normalise, read_npm_digits, read_originals
from sft_vs_rft.data.npz import read_npz
from sft_vs_rft.data.sampling import draw_label_sets, modify_labels, stratified_subset
from sft_vs_rft.data.text import load_tokenizer, read_stsb, tokenise, word_piece
from sft_vs_rft.data_source import SOURCES, DataError, check_data_source, find_copy, find_npz

logger = logging.getLogger(__name__)


def load_data(config: ExperimentConfig) -> ControlledData:
    """The train subset with its final labels, the test subset and the label sets of an experiment.

    All choices follow from `samples_rnd_seed`, each from a generator of its own. Raises DataError.
    """
    pool = read_pool(config.dataset, config.data_dir, config.tokenizer_path)
    if pool.modified is not None:
        return _as_given(pool, config)
    seed = config.samples_rnd_seed if config.samples_rnd_seed >= 0 else secrets.randbits(32)
    num_train, num_test = config.num_train_samples, config.num_test_samples
    if config.dataset == "npz":
        # Used whole where the plan, perhaps written for a larger dataset, asks for more.
        num_train, num_test = min(num_train, len(pool.train.labels)), min(num_test, len(pool.test.labels))
    train = _chosen("num_train_samples", pool.train, num_train, derive_seed(seed, "subset", "train"))
    test = _chosen("num_test_samples", pool.test, num_test, derive_seed(seed, "subset", "test"))
    label_sets = draw_label_sets(
        pool.num_classes, config.num_labels_per_sample, derive_seed(seed, "label sets")
    )
    labels, modified = modify_labels(
        pool.train.labels[train],
        label_sets,
        config.frac_samples_to_modify_labels,
        derive_seed(seed, "modified"),
    )
    return ControlledData(
        train_inputs=pool.encode(pool.train.take(train)),
        train_labels=torch.from_numpy(labels),
        modified=torch.from_numpy(modified),
        test_inputs=pool.encode(pool.test.take(test)),
        test_labels=torch.from_numpy(pool.test.labels[test]),
        label_sets=torch.from_numpy(label_sets) if config.num_labels_per_sample > 1 else None,
        num_classes=pool.num_classes,
    )


def read_pool(dataset: str, data_dir: str = "", tokenizer_path: str = "") -> Pool:
    """All of a dataset: from `data_dir` if given, else installed packages or the hub. Raises DataError."""
    if problem := check_data_source(dataset, data_dir):
        raise DataError(problem)
    if dataset == "digits":
        return digits()
    if dataset == "npz":
        return read_npz(find_npz(data_dir))
    if dataset == "docstring_pairs":
        return _docstring_pool(tokenizer_path)
    return _downloadable_pool(dataset, data_dir, tokenizer_path)


def _downloadable_pool(dataset: str, data_dir: str, tokenizer_path: str) -> Pool:
    source, is_text = SOURCES[dataset], dataset == "stsb"
    copy = find_copy(dataset, data_dir) if data_dir else None
    if copy is None:
        splits = hub_splits(dataset)
    elif copy.kind == "npm":
        splits = read_npm_digits(copy.train)
    elif copy.kind != "original":
        splits = copied_splits(dataset, copy)
    else:
        read = _stsb_split if is_text else partial(_image_split, dataset)
        splits = read(copy.train), read(copy.test)
    for split in splits:
        if not len(split.labels) or split.labels.min() < 0 or split.labels.max() >= source.num_classes:
            raise DataError(
                f"dataset {dataset!r} must have labels 0..{source.num_classes - 1} in both splits"
            )
    encode: Callable[[Any], Inputs] = partial(normalise, mean=source.mean, std=source.std)
    if is_text:
        encode = partial(tokenise, load_tokenizer(tokenizer_path))
    return Pool(*splits, source.num_classes, encode)


def _image_split(dataset: str, files: Sequence[Path]) -> RawSplit:
    images, labels = read_originals(dataset, files)
    return RawSplit(labels, images.__getitem__)


def _stsb_split(files: Sequence[Path]) -> RawSplit:
    pairs, scores = read_stsb(files[0])
    return _text_split(pairs, score_classes(scores))


def _text_split(pairs: TextPairs, labels: Labels) -> RawSplit:
    return RawSplit(labels, lambda index: [pairs[i] for i in index])


def _docstring_pool(tokenizer_path: str) -> Pool:
    sentences = load_sentences()
    train, test = (_text_split(*split) for split in build_pairs(sentences))
    tokenizer = load_tokenizer(tokenizer_path) if tokenizer_path else word_piece(vocabulary(sentences))
    return Pool(train, test, NUM_GRADES, partial(tokenise, tokenizer))


def _chosen(field: str, split: RawSplit, size: int, seed: int) -> NDArray[np.int64]:
    try:
        return stratified_subset(split.labels, size, seed)
    except DataError as error:
        raise DataError(f"{field}: {error}") from None


def _as_given(pool: Pool, config: ExperimentConfig) -> ControlledData:
    """A user's data whose labels are modified already: nothing is drawn, so nothing may be left out."""
    assert pool.modified is not None
    num_train = len(pool.modified)
    if -1 < config.num_train_samples < num_train:
        raise DataError(
            f"num_train_samples is {config.num_train_samples}, but a file with modified_train is used whole "
            f"({num_train} inputs): set it to -1"
        )
    if config.use_multiple_labels_per_sample:
        raise DataError(
            "label sets (use_multiple_labels_per_sample) need original labels: to pretrain, leave "
            "modified_train out of the .npz file"
        )
    tracked = config.frac_samples_to_modify_labels > 0
    if tracked and not pool.modified.any():
        logger.warning("modified_train marks no input: there is no small reward std group to track")
    # A constant seed: what is tested on does not depend on samples_rnd_seed, which has nothing to fix here.
    test = stratified_subset(pool.test.labels, min(config.num_test_samples, len(pool.test.labels)), seed=0)
    everything = np.arange(num_train)
    return ControlledData(
        train_inputs=pool.encode(pool.train.take(everything)),
        train_labels=torch.from_numpy(pool.train.labels),
        modified=torch.from_numpy(pool.modified & tracked),
        test_inputs=pool.encode(pool.test.take(test)),
        test_labels=torch.from_numpy(pool.test.labels[test]),
        label_sets=None,
        num_classes=pool.num_classes,
    )
