"""Rows of preference data and the splits they are in: JSON lines, parquet, saved datasets and the hub."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from common.hub import DataError, Published, damage_reported, load_from_hub, read_parquet, read_saved
from rl4lms.datapools.preferences.args import PreferencesArgs
from rl4lms.datapools.sources import Row, json_lines
from rl4lms.samples import Split

logger = logging.getLogger(__name__)

# What published preference data call their splits, besides the names of common.hub: summarize has two for
# validation, UltraFeedback binarized has splits of other kinds of rows, RewardBench has one that counts.
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "train_prefs"),
    "val": ("validation", "val", "dev", "valid", "valid1"),
    "test": ("test", "test_prefs", "valid2", "filtered"),
}
_SPLIT_OF: dict[str, Split] = {name: split for split, names in SPLITS.items() for name in names}
_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
Placed = tuple[str, Split | None, Row]


def read_rows(args: PreferencesArgs, most: int | None = None) -> Iterator[Placed]:
    """Yield rows, each with its place and its split, None where nothing says it; only the first of each file.

    A row's own split counts more than its file's. Raises DataError.
    """
    for where, split, row in _file_rows(args, most):
        name = row.get(args.split_field) if args.split_field is not None else None
        if name is None:
            yield where, split, row
        elif name in _SPLIT_OF:
            yield where, _SPLIT_OF[name], row
        else:
            raise DataError(
                f"{where}: {args.split_field!r} must be one of {', '.join(_SPLIT_OF)}, is {name!r:.60}; if "
                "it means something else, set datapool.args.split_field to null"
            )


def _file_rows(args: PreferencesArgs, most: int | None) -> Iterator[Placed]:
    if args.data_path is None:
        yield from _hub_rows(args)
        return
    path = Path(args.data_path).expanduser()
    if is_saved(path):
        saved = read_saved(path, f"the dataset in {str(path)!r}")
        yield from _dataset_rows(saved, str(path))
        return
    for split, file in find_files(path):
        yield from ((where, split, row) for where, row in islice(_read_file(file), most))


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def find_files(path: Path) -> list[tuple[Split | None, Path]]:
    """The files of each split; or a folder's other files, or a single one, which are of no split.

    Raises DataError: there are none.
    """
    if path.is_file():
        return [(None, path)]
    files = [(split, file) for split in SPLITS for file in _split_files(path, split)]
    if files:
        return list(files)
    others = sorted(file for file in path.glob("*") if file.name.endswith(_ENDINGS))
    if not others:
        raise DataError(
            f"{str(path)!r} has no files of rows; it must hold train.jsonl, val.jsonl and test.jsonl, or "
            f"files of all rows, with names that end in one of {', '.join(_ENDINGS)}"
        )
    return [(None, file) for file in others]


def _split_files(folder: Path, split: Split) -> list[Path]:
    """The files of a split: those of the first of its names, in the first of the usual forms."""
    patterns = [f"{{name}}{ending}" for ending in _ENDINGS]
    patterns += [f"{{name}}-*{ending}" for ending in _ENDINGS] + [
        f"{{name}}/*{ending}" for ending in _ENDINGS
    ]
    for place in (folder, folder / "data"):
        for name in SPLITS[split]:
            for pattern in patterns:
                if files := sorted(place.glob(pattern.format(name=name))):
                    return files
    return []


def _read_file(file: Path) -> Iterator[tuple[str, Row]]:
    if file.suffix == ".parquet":
        with damage_reported(str(file)):
            rows = read_parquet([file])
        for number, row in enumerate(rows):
            yield f"{file}, row {number}", row
        return
    if not file.name.endswith(_ENDINGS):
        raise DataError(f"{file}: the name must end in one of {', '.join(_ENDINGS)}")
    try:
        lines = gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")
        with lines:
            yield from json_lines(cast("IO[bytes]", lines), str(file))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _hub_rows(args: PreferencesArgs) -> Iterator[Placed]:
    assert args.hub_dataset is not None  # PreferencesArgs.check
    dataset = Published(
        name=args.hub_dataset,
        repo=args.hub_dataset,
        rows={},
        revision=args.hub_revision or "",
        config=args.hub_config,
    )
    advice = (
        "set datapool.args.data_path to a folder with its files at that revision, or with what save_to_disk "
        "of the datasets library wrote of it, and hub_dataset to null"
    )
    yield from _dataset_rows(load_from_hub(dataset, advice), f"hub dataset {args.hub_dataset!r}")


def _dataset_rows(data: Any, what: str) -> Iterator[Placed]:
    """Yield the rows of a `Dataset`, or of those splits of a `DatasetDict` whose names say what they are."""
    if not isinstance(data, Mapping):
        for number, row in enumerate(data):
            yield f"{what}, row {number}", None, row
        return
    names = [name for name in data if name in _SPLIT_OF]
    if not names:
        raise DataError(
            f"{what} has no split that can be told, only: {', '.join(data)}; save the one to use with "
            f"save_to_disk, alone or named as one of {', '.join(_SPLIT_OF)}"
        )
    if others := [name for name in data if name not in names]:
        logger.info("%s: splits that are not read: %s", what, ", ".join(others))
    for name in names:
        for number, row in enumerate(data[name]):
            yield f"{what}, split {name!r}, row {number}", _SPLIT_OF[name], row
