"""The rows of the dataset that prompts are from, by the input that each is of; written as they are."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.columns import as_text
from rft_diagnose.errors import DiagnosisError, all_of, hint, listed
from rft_diagnose.groups import Ints, inputs_text
from rft_diagnose.names import IDS, TEXTS
from rft_diagnose.prompt_files import read_rows
from rft_diagnose.reading import RewardTable, read_messages

Row = Mapping[str, Any]
PROMPT_NAMES = (*TEXTS, "messages")


@dataclass(frozen=True)
class DatasetRows:
    """R rows of a dataset, each of an input of a table.

    owners: [R], the number of that input; rows: [R]; notes: how they were matched, and what was not.
    """

    path: Path
    owners: Ints
    rows: Sequence[Row]
    notes: tuple[str, ...]

    def write(self, chosen: NDArray[np.intp]) -> list[str]:
        """Write rows as JSON. Raises DiagnosisError: one holds what JSON cannot."""
        return [self._line(self.rows[i]) for i in chosen.tolist()]

    def _line(self, row: Row) -> str:
        try:
            return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)
        except TypeError as error:
            raise DiagnosisError(f"{self.path} (--dataset): {error}: leave that column out") from error


def read_dataset(path: Path, column: str | None, table: RewardTable, judged: Ints) -> DatasetRows:
    """Read a dataset's rows, and match them to the inputs of a table by id or prompt.

    column: that to match by, None: the one that most inputs are in; judged: numbers of the inputs that were
    diagnosed. Raises DiagnosisError: it cannot be read, or no row is of one of these.
    """
    rows = read_rows(path)
    if not rows:
        raise DiagnosisError(f"{path} (--dataset): no rows")
    names = list(rows[0])
    if column is not None and column not in names:
        raise DiagnosisError(
            f"{path} (--dataset): no column {column!r} (--join); {hint(column, names)}there are: "
            f"{all_of(names)}"
        )
    candidates = [column] if column is not None else _candidates(names)
    if not candidates:
        raise DiagnosisError(
            f"{path} (--dataset): which column has the ids or the prompts? name it with --join; there are: "
            f"{all_of(names)}"
        )
    owners, name = np.full(len(rows), -1), candidates[0]
    most = 0
    for known in _known_names(table, judged):
        for candidate in candidates:
            places = np.array([known.get(_key(row.get(candidate)), -1) for row in rows])
            count = len(np.unique(places[places >= 0]))
            if count > most:
                owners, name, most = places, candidate, count
    if not most:
        raise DiagnosisError(
            f"{path} (--dataset): no row is of an input that was judged. Its first {name!r} is "
            f"{as_text(rows[0].get(name))!r:.60}, the first input {table.labels[int(judged[0])]!r:.60}: name "
            "the column of ids or prompts with --join"
        )
    matched = owners >= 0
    return DatasetRows(
        path,
        owners[matched],
        [row for row, is_there in zip(rows, matched.tolist(), strict=True) if is_there],
        _notes(path, name, table, judged, owners),
    )


def _candidates(names: Sequence[str]) -> list[str]:
    """List the columns that may name an input, prompts first."""
    texts = [name for known in PROMPT_NAMES for name in names if name.casefold() == known]
    return list(dict.fromkeys([*texts, *(name for name in names if IDS.fullmatch(name))]))


def _known_names(table: RewardTable, judged: Ints) -> list[dict[str | None, int]]:
    """Map what inputs are called, prompts first, to their numbers."""
    sources = [table.labels]
    if table.prompts is not None and table.prompts is not table.labels:
        sources.insert(0, table.prompts)
    return [{_key(names[i]): i for i in judged.tolist()} for names in sources]


def _key(value: Any) -> str | None:
    """Write what names an input alike however it is stored: a conversation, a number, a text."""
    if value is None or value != value:
        return None
    text = as_text(value).strip()
    messages = read_messages(text)
    return text if messages is None else json.dumps(messages, sort_keys=True, default=str)


def _notes(path: Path, name: str, table: RewardTable, judged: Ints, owners: Ints) -> tuple[str, ...]:
    """Say by what the rows were matched, and how much was not."""
    matched = np.isin(judged, owners)
    missing = [f"{table.labels[i]:.60}" for i in judged[~matched].tolist()]
    notes = [f"{path.name}: {inputs_text(int(matched.sum()))} found by {name!r}"]
    if missing:
        notes.append(f"{inputs_text(len(missing))} without a row in {path.name}: {listed(missing)}")
    others = int((owners < 0).sum())
    if others:
        notes.append(f"{others:,} rows of {path.name} are of no input that was judged, and in no file")
    return tuple(notes)


def _plain(value: Any) -> Any:
    """Turn a value into one that JSON has: NaN into null, dates and decimals into texts. Raises TypeError."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__} is none that JSON has")
