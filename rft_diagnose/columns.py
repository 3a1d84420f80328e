"""Columns of tables: values as they stand in a file, texts stored once each, and numbers."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.logs import Log

# How spreadsheets and data frames write a number that is missing.
MISSING = frozenset(
    ",None,NULL,null,NA,N/A,n/a,#NA,#N/A,NaN,nan,-NaN,-nan,1.#IND,-1.#IND,1.#QNAN,-1.#QNAN".split(",")
)
TRUTH = {"true": 1.0, "false": 0.0}
EXACT = 2**53  # whole numbers below it are exact as floating-point numbers
MANY = 50  # distinct texts of a column from which on it does not name kinds of rows


@dataclass(frozen=True)
class Encoded:
    """M texts, each stored once: codes [M] are places in `texts`, which differ; -1 = missing."""

    codes: Ints
    texts: list[str]


Column = Sequence[Any] | Floats | Encoded


@dataclass(frozen=True)
class Picked:
    """Texts of a column that are handed to `keep`, each with its row: of the rows [K], ascending, from 0."""

    name: str
    rows: Ints
    keep: Callable[[int, str], None]


@dataclass(frozen=True)
class Wanted:
    """Columns to read, by what is needed of them.

    texts: texts or ids that many rows share; values: as they stand in the file; hashes: of long texts, only
    which rows are equal (0 = missing); kinds: texts if there are at most MANY distinct ones, else nothing;
    picked: of a file that is read again; then nothing else is read.
    """

    texts: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    picked: Picked | None = None

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        if self.picked is not None:
            return [self.picked.name]
        return list(dict.fromkeys((*self.texts, *self.values, *self.hashes, *self.kinds)))


class Choose(Protocol):
    """Chooses, from all names, and from what tells whether a column seems to hold numbers, those wanted.

    log: whose log it is, if that is seen from more than the names.
    """

    def __call__(
        self, names: list[str], holds_numbers: Callable[[str], bool], log: Log | None = None
    ) -> Wanted: ...


@dataclass
class Part:
    """The wanted columns of a file by name, see Wanted; notes: what the reader of the file met."""

    texts: dict[str, Encoded] = field(default_factory=dict)
    values: dict[str, Column] = field(default_factory=dict)
    hashes: dict[str, Ints] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Get = Callable[[Any], Any]


def collect(rows: Iterable[Any], wanted: Wanted, getter: Callable[[str], Get]) -> Part:
    """Take the wanted columns out of rows, none of which is kept; getter: column -> its value in a row."""
    if wanted.picked is not None:
        _pick(rows, wanted.picked, getter(wanted.picked.name))
        return Part()
    codes = {name: array("q") for name in (*wanted.texts, *wanted.kinds)}
    places: dict[str, dict[str, int]] = {name: {} for name in codes}
    values: dict[str, list[Any]] = {name: [] for name in wanted.values}
    hashes = {name: array("q") for name in wanted.hashes}
    seen: dict[str, str] = {}
    texts_todo = [
        (getter(name), codes[name].append, places[name], name not in wanted.texts) for name in codes
    ]
    values_todo = [(getter(name), values[name].append) for name in values]
    hashes_todo = [(getter(name), hashes[name].append) for name in hashes]
    for row in rows:
        for get, append, known, is_kind in texts_todo:
            value = get(row)
            if value is None or value != value or (is_kind and len(known) > MANY):  # NaN is missing, too
                append(-1)
            else:
                append(known.setdefault(value if type(value) is str else as_text(value), len(known)))
        for get, keep in values_todo:
            value = get(row)
            keep(seen.setdefault(value, value) if type(value) is str else value)
        for get, append in hashes_todo:
            value = get(row)
            append(0 if value is None else hash(value if type(value) is str else as_text(value)))
    texts = {name: Encoded(np.array(codes[name], dtype=np.int64), list(places[name])) for name in codes}
    return Part(
        {name: column for name, column in texts.items() if name in wanted.texts or len(column.texts) <= MANY},
        dict(values),
        {name: np.array(column, dtype=np.int64) for name, column in hashes.items()},
    )


def _pick(rows: Iterable[Any], picked: Picked, get: Get) -> None:
    numbers = iter(picked.rows.tolist())
    wanted = next(numbers, None)
    for number, row in enumerate(rows):
        if number == wanted:
            value = get(row)
            if value is not None:
                picked.keep(number, as_text(value))
            wanted = next(numbers, None)
        if wanted is None:
            return


def encode(column: Column) -> Encoded:
    """Store the column's values as texts, each once; a conversation (a list of messages) as its JSON."""
    if isinstance(column, Encoded):
        return column
    return collect(column, Wanted(texts=("",)), lambda name: lambda value: value).texts[""]


def values_at(column: Column, rows: Ints) -> list[Any]:
    """Look up the column's values in some rows, None = missing."""
    if isinstance(column, Encoded):
        return [None if code < 0 else column.texts[code] for code in column.codes[rows]]
    return [column[row] for row in rows]


def numbers(column: Column, name: str, where: str) -> Floats:
    """Read a column as numbers, missing ones NaN, true and false as 1 and 0.

    Raises DiagnosisError naming the first value that is no number.
    """
    if isinstance(column, np.ndarray):
        return column
    if isinstance(column, Encoded):
        # One more at the end, for what is missing: its code is -1.
        known = np.array([read_number(text) for text in column.texts] + [np.nan], dtype=object)
        read = known[column.codes]
        values: Sequence[Any] = column.texts
        wrong = next((row for row, value in enumerate(read) if value is None), None)
        if wrong is not None:
            raise _no_number(values[column.codes[wrong]], name, where, wrong)
        return np.array(read, dtype=float)
    if {type(value) for value in column} <= {int, float, bool, type(None)}:
        with contextlib.suppress(OverflowError):  # named below
            return np.array(column, dtype=float)
    cache: dict[str, float | None] = {}
    numbers_read = []
    for row, value in enumerate(column):
        if type(value) is str:
            if value not in cache:
                cache[value] = read_number(value)
            number = cache[value]
        else:
            number = read_number(value)
        if number is None:
            raise _no_number(value, name, where, row)
        numbers_read.append(number)
    return np.array(numbers_read, dtype=float)


def _no_number(value: Any, name: str, where: str, row: int) -> DiagnosisError:
    if isinstance(value, list | dict):
        return DiagnosisError(f"{where}: {name!r} must hold numbers, holds {type(value).__name__}")
    return DiagnosisError(f"{where}: {name!r} must hold numbers, row {row + 1:,} holds {shorten(value)}")


def shorten(value: Any) -> str:
    """Write the beginning of a value as Python does; of a whole number too long to write, its size."""
    try:
        return f"{value!r:.60}"
    except ValueError:
        return f"a whole number of {value.bit_length():,} bits"


def read_number(value: Any) -> float | None:
    """Read the number that a value stands for, NaN for a missing one, None if it is none."""
    if value is None or (isinstance(value, str) and value.strip() in MISSING):
        return float("nan")
    if isinstance(value, str) and value.strip().lower() in TRUTH:
        return TRUTH[value.strip().lower()]
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def as_text(value: Any) -> str:
    """Write the text that names a value: of a whole number without a point, of a conversation its JSON.

    A floating-point number beyond EXACT, which stands for several whole ones, is written with an exponent.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        if abs(value) >= EXACT:
            return f"{value:.16e}"
        return str(int(value)) if value.is_integer() else repr(float(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    try:
        if isinstance(value, list | dict):
            return json.dumps(value, ensure_ascii=False, default=str)
        return str(value)
    except (ValueError, RecursionError) as error:
        raise DiagnosisError(
            f"a value of {type(value).__name__} is too large to be a name: {error}"
        ) from error


def are_numbers(values: Iterable[Any]) -> bool:
    """Tell whether a column of values holds numbers, truth values not counted."""
    kinds = {type(value) for value in values} - {type(None)}
    return bool(kinds) and kinds <= {int, float}


def read_as_numbers(texts: Iterable[str]) -> bool:
    """Tell whether a CSV column holds numbers, truth values not counted."""
    known = [text.strip() for text in texts if text.strip() not in MISSING]
    return bool(known) and not any(text.lower() in TRUTH or read_number(text) is None for text in known)


def reject_repeated(names: Sequence[str], wanted: Wanted, where: str) -> None:
    """Raise DiagnosisError if a wanted name is that of several columns."""
    for name in wanted.names:
        if names.count(name) > 1:
            raise DiagnosisError(
                f"{where}: {names.count(name)} columns are named {name!r}: rename the others"
            )
