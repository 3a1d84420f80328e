"""Datasets of the hub and copies of them on disk, with errors that say what to do instead."""

from __future__ import annotations

import logging
import socket
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.errors import UserError

logger = logging.getLogger(__name__)


class DataError(UserError):
    """The user's data is missing, damaged or does not fit the config; the message says what to do."""


def load_from_hub(
    name: str, repo: str, config: str | None, revision: str, advice: str, **options: Any
) -> Any:
    """What `datasets.load_dataset` gives at a revision, from the network or from this machine's cache.

    name: how the user knows the dataset; advice: completes "Without network, ..."; options: for load_dataset.
    Raises DataError: not reachable and not in the cache.
    """
    spare_retries_without_network()
    import datasets

    try:
        return datasets.load_dataset(repo, config, revision=revision, **options)
    except Exception as error:  # network, hub, disk and cache errors share no base class
        raise DataError(
            f"dataset {name!r} could not be read from hub dataset {repo!r} "
            f"({type(error).__name__}: {first_line(error)}). Without network, {advice}"
        ) from error


def read_parquet(files: Sequence[Path]) -> Any:
    """The rows of parquet files, one file after the other, as a `datasets.Dataset`."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    return datasets.Dataset(pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files]))


@contextmanager
def damage_reported(what: str) -> Iterator[None]:
    """What reading a damaged copy raises in the block becomes a DataError that says `what` is damaged."""
    import pyarrow

    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise DataError(f"{what} is damaged: {first_line(error)}") from error


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [""])[0]
