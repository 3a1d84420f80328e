"""Rows of the published datasets: from the user's own copy, else from where they are published."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from common import limits
from common.config import Config, Problem
from common.files import atomic_path
from common.hub import (
    SPLIT_NAMES,
    DataError,
    Published,
    choose_split,
    damage_reported,
    find_split_files,
    first_line,
    load_from_hub,
    read_parquet,
    read_saved,
)
from common.limits import at_most
from common.python_docs import default_cache_dir
from rl4lms.samples import Sample, Split, describe_broken_text

logger = logging.getLogger(__name__)

Row = dict[str, Any]
_CHUNK = 1 << 20


PromptPrefix = Annotated[str, Field(description="text before each input")]
PromptSuffix = Annotated[str, Field(description="text after each input")]
Size = Annotated[
    int | None,
    Field(ge=1, description="only so many samples of the split; null: all"),
    at_most(limits.SAMPLES, "samples"),
]


class DatasetArgs(Config):
    """Arguments that every published dataset takes."""

    data_path: str | None = Field(
        None,
        description="local file or folder with the dataset; null: the hub, or this machine's cache of it",
    )

    def check(self) -> list[Problem]:
        return existing_path(self.data_path)


def existing_path(data_path: str | None) -> list[Problem]:
    """Reports a problem if there is no such file or folder."""
    if data_path is None or Path(data_path).expanduser().exists():
        return []
    return [Problem("data_path", f"no such file or folder: {data_path!r}")]


def read_rows(dataset: Published, split: Split, data_path: str | None) -> Iterator[Row]:
    """Reads the rows of a split, from `data_path` if given, else from the hub. Raises DataError."""
    return local_rows(dataset, split, data_path) if data_path is not None else hub_rows(dataset, split)


def as_samples(dataset: Published, rows: Iterable[Row], sample: Callable[[int, Row], Sample]) -> list[Sample]:
    """Makes a sample of each row and its number. Raises DataError: a row has another form."""
    samples = []
    for number, row in enumerate(rows):
        try:
            samples.append(sample(number, row))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{dataset.name}: row {number} has another form: {type(error).__name__}: {error}"
            ) from error
    return samples


def hub_rows(dataset: Published, split: Split) -> Iterator[Row]:
    """Reads the pinned revision from the hub. Raises DataError: unreachable, or not the rows expected."""
    name = SPLIT_NAMES[split][0]
    options: dict[str, Any] = {"split": name}
    if dataset.files:
        options["data_files"] = {name: dataset.files.format(split=name)}
    rows = load_from_hub(dataset, what_to_put(dataset), **options)
    yield from complete(dataset, split, _numbered(rows, f"hub dataset {dataset.repo!r}, split {name!r}"))


def complete(dataset: Published, split: Split, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Checks a download's rows. Raises DataError, after the last, if they are not as many as published."""
    count = 0
    for count, row in enumerate(_checked(dataset, rows), start=1):  # noqa: B007
        yield row
    if count != dataset.rows[split]:
        raise DataError(
            f"{_other_count(dataset, split, count)}: what is published has changed; {what_to_put(dataset)}"
        )


def local_rows(dataset: Published, split: Split, data_path: str) -> Iterator[Row]:
    """Reads the user's copy: JSON lines, parquet files, or what `save_to_disk` wrote. Raises DataError."""
    path = Path(data_path).expanduser()
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        rows = _saved_rows(dataset, split, path)
    else:
        patterns = [
            "{split}.jsonl",
            "{split}.json",
            "{split}.parquet",
            "{split}-*.parquet",
            "{split}/*.parquet",
        ]
        rows = _file_rows(find_files(dataset, split, path, patterns))
    count = 0
    for count, row in enumerate(_checked(dataset, rows), start=1):  # noqa: B007
        yield row
    if count != dataset.rows[split]:
        logger.warning("%s", _other_count(dataset, split, count))


def find_files(dataset: Published, split: Split, path: Path, patterns: Iterable[str]) -> list[Path]:
    """Finds the file `path`, or the files of a split in that folder, by the original or usual names.

    Raises DataError: nothing there.
    """
    if path.is_file():
        if split != "train":
            logger.warning("%s is one file: its rows serve as split %r too", path, split)
        return [path]
    if not path.is_dir():
        raise DataError(f"datapool.args.data_path: no such file or folder: {str(path)!r}")
    if files := find_split_files(dataset, split, path, [*dataset.originals.get(split, ()), *patterns]):
        return files
    raise DataError(f"{str(path)!r} has no file of split {split!r}; {what_to_put(dataset)}")


def json_lines(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Row]]:
    """Reads the objects in JSON lines, each with its place. Raises DataError that names the line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{name} line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from error
            except RecursionError:
                raise DataError(
                    f"{where} is nested too deeply: a value is text, numbers, or lists of them"
                ) from None
            if not isinstance(row, dict):
                raise DataError(
                    f"{where}: expected a JSON object with a field for each column, got {row!r:.60}"
                )
            # Only such lines can hold a surrogate: escaped, or as UTF-8 would write it.
            for field, value in row.items() if b"\\u" in line or b"\xed" in line else ():
                if broken := describe_broken_text([field, value]):
                    raise DataError(f"{where}: {field!r} {broken}")
            yield where, row


def download(dataset: Published, url: str, sha256: str | None = None) -> Path:
    """Downloads a file into the cache, once. Raises DataError: not reachable, or not the file expected."""
    target = default_cache_dir() / "downloads" / dataset.name / url.rpartition("/")[2]
    if target.is_file():
        return target
    try:
        _fetch(url, target, sha256)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"dataset {dataset.name!r} could not be downloaded from {url} "
            f"({type(error).__name__}: {first_line(error)}). Without network, {what_to_put(dataset)}"
        ) from error
    return target


def what_to_put(dataset: Published) -> str:
    """Advises a machine without network: which files to put where."""
    files = dataset.files or f"{dataset.config or 'data'}/{{split}}-*.parquet"
    copy = dataset.copy or (
        f"one of: (a) train.jsonl, validation.jsonl, test.jsonl, with {', '.join(dataset.columns)} in each "
        f"line; (b) the files {files} of hub dataset {dataset.repo!r} at revision {dataset.revision}; "
        "(c) what save_to_disk of the datasets library wrote of it"
    )
    return f"name a folder with --set datapool.args.data_path=FOLDER that holds {copy}"


def _fetch(url: str, target: Path, sha256: str | None) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("offline mode (HF_HUB_OFFLINE)")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with (
        atomic_path(target) as temporary,
        urllib.request.urlopen(url, timeout=60) as response,
        temporary.open("wb") as file,
    ):
        expected = int(response.headers.get("Content-Length", 0))
        logger.info("downloading %s (%.0f MB)", url, expected / 1e6)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if expected and size != expected:
            raise OSError(f"{size:,} of {expected:,} bytes came")
        if sha256 not in (None, digest.hexdigest()):
            raise OSError(f"SHA-256 is {digest.hexdigest()}, must be {sha256}")


def _saved_rows(dataset: Published, split: Split, folder: Path) -> Iterator[tuple[str, Row]]:
    what = f"the copy of dataset {dataset.name!r} in {str(folder)!r}"
    saved = read_saved(folder, what)
    if isinstance(saved, dict):
        saved = choose_split(saved, split, what)
    elif split != "train":
        logger.warning("%s is one split: its rows serve as split %r too", folder, split)
    yield from _numbered(saved, str(folder))


def _file_rows(files: list[Path]) -> Iterator[tuple[str, Row]]:
    suffixes = {file.suffix for file in files}
    if suffixes == {".parquet"}:
        with damage_reported(str(files[0])):
            rows = read_parquet(files)
        yield from _numbered(rows, str(files[0]))
    elif suffixes <= {".jsonl", ".json"}:
        for file in files:
            with file.open("rb") as lines:
                yield from json_lines(lines, str(file))
    else:
        raise DataError(f"{files[0]}: must be .jsonl (JSON lines) or .parquet")


def _numbered(rows: Iterable[Row], name: str) -> Iterator[tuple[str, Row]]:
    number = -1
    try:
        for number, row in enumerate(rows):
            yield f"{name}, row {number}", row
    except UnicodeDecodeError as error:
        raise DataError(f"{name}, row {number + 1}: a text is not UTF-8 ({error})") from error


def _checked(dataset: Published, rows: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Passes rows on. Raises DataError for one that lacks a column, or has another type of value there."""
    for where, row in rows:
        for column, kind in dataset.columns.items():
            if column not in row:
                raise DataError(
                    f"{where}: no {column!r}, which dataset {dataset.name!r} has; there are: {', '.join(row)}"
                )
            if not isinstance(row[column], kind):
                raise DataError(
                    f"{where}: {column!r} must be of type {kind.__name__}, is {row[column]!r:.60}"
                )
        yield row


def _other_count(dataset: Published, split: Split, count: int) -> str:
    expected = dataset.rows[split]
    return f"{dataset.name}: {count:,} rows in split {split!r}, the full dataset has {expected:,}"
