"""The user's own samples: JSON lines with a prompt, references and anything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from common.config import Config, Problem, closest
from common.hub import SPLIT_NAMES, DataError
from rl4lms.datapools.sources import existing_path, json_lines
from rl4lms.samples import Sample, Split

logger = logging.getLogger(__name__)


class JsonlArgs(Config):
    data_path: str = Field(
        description="a folder with train.jsonl, val.jsonl and test.jsonl, or one file (whose rows serve as "
        "every split, unless they name theirs)"
    )
    prompt_field: str = Field("prompt", description="field of the input text")
    references_field: str = Field("references", description="field of the expected text, or a list of them")
    id_field: str = Field("id", description="field of the samples' ids, if there is one; else line numbers")
    split_field: str = Field("split", description="field that names a row's split, if there is one")

    def check(self) -> list[Problem]:
        return existing_path(self.data_path)


def load(
    split: Split,
    *,
    data_path: str,
    prompt_field: str,
    references_field: str,
    id_field: str,
    split_field: str,
) -> list[Sample]:
    """Read a sample per line; fields that are neither prompt, references, id nor split are its meta_data.

    Raises DataError that names the line.
    """
    fields = (prompt_field, references_field, id_field, split_field)
    places: dict[str | int, str] = {}
    samples = []
    for number, (where, row) in enumerate(_read_rows(split, Path(data_path).expanduser(), split_field)):
        sample = Sample(
            _read_id(row, id_field, where, f"{split}_{number}"),
            _read_prompt(row, prompt_field, where),
            _read_references(row, references_field, where),
            {name: value for name, value in row.items() if name not in fields},
        )
        if sample.id in places:
            raise DataError(f"{where}: id {sample.id!r} is also that of {places[sample.id]}")
        places[sample.id] = where
        samples.append(sample)
    return samples


def _read_rows(split: Split, path: Path, split_field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a split's rows: its own file's in a folder, or those that name it, or all if none names any."""
    if path.is_dir():
        names = [f"{name}.jsonl" for name in SPLIT_NAMES[split]]
        path = next((path / name for name in names if (path / name).is_file()), path)
        if path.is_dir():
            raise DataError(f"{str(path)!r} has no {' or '.join(names)}")
        with path.open("rb") as lines:
            yield from json_lines(lines, str(path))
        return
    try:
        with path.open("rb") as lines:
            rows = list(json_lines(lines, str(path)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    row_splits = [row.get(split_field) for _, row in rows]
    if not any(row_splits):
        if split != "train":
            logger.warning(
                "%s is one file without a field %r: its rows serve as split %r too", path, split_field, split
            )
        yield from rows
        return
    known = {name for names in SPLIT_NAMES.values() for name in names}
    for (where, row), name in zip(rows, row_splits, strict=True):
        if name not in known:
            raise DataError(f"{where}: {split_field!r} must be one of train, val, test, is {name!r}")
        if name in SPLIT_NAMES[split]:
            yield where, row


def _read_id(row: dict[str, Any], name: str, where: str, default: str) -> str | int:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}: {name!r} must be a string or a whole number, is {value!r:.60}")
    return value


def _read_prompt(row: dict[str, Any], name: str, where: str) -> str:
    value = _read_value(row, name, "prompt_field", where)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be a string, is {value!r:.60}")
    return value


def _read_references(row: dict[str, Any], name: str, where: str) -> list[str]:
    value = _read_value(row, name, "references_field", where)
    references = [value] if isinstance(value, str) else value
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(f"{where}: {name!r} must be a string or a list of strings, is {value!r:.60}")
    return references


def _read_value(row: dict[str, Any], name: str, argument: str, where: str) -> Any:
    if name not in row:
        suggestion = closest(name, row)
        hint = f"did you mean {suggestion!r}? " if suggestion else ""
        raise DataError(
            f"{where}: no {name!r}; {hint}there are: {', '.join(row) or 'none'}; "
            f"say which it is with --set datapool.args.{argument}=NAME"
        )
    return row[name]
