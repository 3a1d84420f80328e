"""Published datasets: pinned on the hub, or the user's copy on disk; errors say what to do instead."""

from __future__ import annotations

import logging
import socket
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import UserError

logger = logging.getLogger(__name__)


class DataError(UserError):
    """The user's data is missing, damaged or does not fit the config; the message says what to do."""

    is_refusal = True


# What a split is called in files and folders; the hub's name comes first.
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Published:
    """A published dataset; splits are named as in SPLIT_NAMES.

    name: how the user knows it; repo, config: on the hub; revision: the commit that is read;
    rows: of each split of the full dataset; columns: those that are read, with their types, where rows are
    checked; files: where in the repository the parquet files of a `{split}` are, if it does not say so;
    originals: file names of the original release; folders: where in a copy these may lie too;
    copy: what a copy consists of, where it is not the usual.
    """

    name: str
    repo: str
    rows: Mapping[str, int]
    revision: str = ""
    config: str | None = None
    columns: Mapping[str, type] = field(default_factory=dict)
    files: str | None = None
    originals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    copy: str = ""


def load_from_hub(dataset: Published, advice: str, **options: Any) -> Any:
    """Calls `datasets.load_dataset` at the pinned revision: the network, or this machine's cache.

    advice: completes "Without network, ..."; options: for load_dataset.
    Raises DataError: not reachable and not in the cache.
    """
    spare_retries_without_network()
    import datasets

    try:
        return datasets.load_dataset(dataset.repo, dataset.config, revision=dataset.revision, **options)
    except Exception as error:  # network, hub, disk and cache errors share no base class
        raise DataError(
            f"dataset {dataset.name!r} could not be read from hub dataset {dataset.repo!r} "
            f"({type(error).__name__}: {first_line(error)}). Without network, {advice}"
        ) from error


def find_split_files(dataset: Published, split: str, folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Lists the files of a split in a copy's folder, or where the hub and original releases have them in it.

    Patterns with a `{split}` stand for each of its names. Those of the first that fits, sorted; [] if none.
    """
    patterns = list(patterns)
    names = [pattern.format(split=name) for name in SPLIT_NAMES[split] for pattern in patterns]
    for place in (".", dataset.config or "default", "data", f"{dataset.name}_data"):
        for name in names:
            if files := sorted((folder / place).glob(name)):
                return files
    return []


def read_saved(folder: Path, what: str) -> Any:
    """Reads what `save_to_disk` wrote. Raises DataError that says that `what` is damaged."""
    import datasets

    with damage_reported(what):
        return datasets.load_from_disk(folder)


def choose_split(loaded: Mapping[str, Any], split: str, what: str) -> Any:
    """Takes a split out of several, by any of its names. Raises DataError: `what` has none such."""
    for name in SPLIT_NAMES[split]:
        if name in loaded:
            return loaded[name]
    raise DataError(f"{what} has no split {SPLIT_NAMES[split][0]!r}, only: {', '.join(loaded)}")


def read_parquet(files: Sequence[Path]) -> Any:
    """Reads parquet files, one after the other, as a `datasets.Dataset`."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    return datasets.Dataset(pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files]))


@contextmanager
def damage_reported(what: str) -> Iterator[None]:
    """Turns what reading a damaged copy raises in the block into a DataError that says `what` is damaged."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise DataError(f"{what} is damaged: {first_line(error)}") from error


def spare_retries_without_network() -> None:
    """Puts the hub client into its offline mode if the hub's name does not resolve.

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


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
