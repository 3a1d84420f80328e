"""Files of rows as columns: CSV, TSV, JSON, JSON lines (each also gzipped), npz, parquet.

A column is a list of values as they stand in the file (text from CSV), an array of numbers (NaN: missing), or
`Encoded` texts, which a file may store once each.
"""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rft_diagnose.errors import DiagnosisError, needed_for
from rft_diagnose.groups import Floats, Ints

ROW_FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")
FORMATS = (*ROW_FORMATS, ".json", ".npz")
# How spreadsheets and data frames write a number that is missing.
MISSING = frozenset(
    ",None,NULL,null,NA,N/A,n/a,#NA,#N/A,NaN,nan,-NaN,-nan,1.#IND,-1.#IND,1.#QNAN,-1.#QNAN".split(",")
)
TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Encoded:
    """M texts, each stored once: codes [M] are places in `texts`, -1 = missing."""

    codes: Ints
    texts: list[str]


Column = Sequence[Any] | Floats | Encoded


Choose = Callable[[list[str], Callable[[str], bool]], list[str]]


def file_format(path: Path) -> str:
    """Find the suffix that tells a file's format, without .gz."""
    suffix = path.suffix
    if suffix == ".gz" and Path(path.stem).suffix not in (".npz", ".parquet"):
        return Path(path.stem).suffix
    return suffix


def read_columns(path: Path, choose: Choose) -> dict[str, Column]:
    """Read the chosen columns of a file: name -> column.

    choose: from all names, and a function that says whether a column holds numbers, those that are wanted.
    Raises DiagnosisError: the file cannot be read, or has no rows; whatever `choose` raises.
    """
    kind = file_format(path)
    if kind == ".parquet":
        return _read_parquet(path, choose)
    if kind == ".npz":
        return _read_npz(path, choose)
    if kind in (".csv", ".tsv"):
        return _read_separated(path, "\t" if kind == ".tsv" else ",", choose)
    rows = _json_rows(path) if kind == ".json" else list(_json_lines(path))
    if not rows:
        raise DiagnosisError(f"{path}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    wanted = choose(names, lambda name: _are_numbers(row.get(name) for row in rows))
    return {name: [row.get(name) for row in rows] for name in wanted}


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a text file, gzipped or not. Raises DiagnosisError if it cannot be read."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                yield file
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield file
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DiagnosisError(f"{path} cannot be read: {error}") from error


def _read_separated(path: Path, delimiter: str, choose: Choose) -> dict[str, Column]:
    with _opened(path) as file:
        limit = csv.field_size_limit(2**31 - 1)  # a conversation is longer than the 128 KiB that csv expects
        try:
            reader = csv.reader(file, delimiter=delimiter)
            names = next(reader, None)
            if not names:
                raise DiagnosisError(f"{path} cannot be read: it is empty")
            rows = []
            for row in reader:
                if len(row) == len(names):
                    rows.append(row)
                elif row:
                    raise DiagnosisError(
                        f"{path} cannot be read: {len(row)} columns where the header has {len(names)} "
                        f"(line {reader.line_num:,})"
                    )
        finally:
            csv.field_size_limit(limit)
    places = {name: place for place, name in enumerate(names)}
    wanted = choose(names, lambda name: _reads_as_numbers(row[places[name]] for row in rows))
    return {name: [row[places[name]] for row in rows] for name in wanted}


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the objects in JSON lines. Raises DiagnosisError that names the line."""
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DiagnosisError(f"{path} line {number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise DiagnosisError(
                        f"{path} line {number}: expected a JSON object with a field for each column, "
                        f"got {row!r:.60}"
                    )
                yield row


def _json_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON file: a list of objects, or an object of equally long lists."""
    with _opened(path) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise DiagnosisError(f"{path} is not JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return content
    if isinstance(content, dict) and all(isinstance(values, list) for values in content.values()):
        if len({len(values) for values in content.values()}) <= 1:
            return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
        raise DiagnosisError(f"{path}: its lists differ in length")
    raise DiagnosisError(f"{path}: expected a list of objects, one a row, or an object of lists")


def _read_npz(path: Path, choose: Choose) -> dict[str, Column]:
    """Read arrays of M numbers or texts; or of [N, G], beside which arrays of N have a value a row."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DiagnosisError(f"{path} cannot be read: {error}") from error
    shape: tuple[int, ...] = max((array.shape for array in arrays.values()), key=len, default=())
    if len(shape) == 2:
        if "prompt" not in arrays and "prompt_id" not in arrays:
            arrays["prompt_id"] = np.arange(shape[0])
        rows = {
            name: np.repeat(array, shape[1]) if array.shape == shape[:1] else array
            for name, array in arrays.items()
        }
        arrays = {name: array.ravel() if array.shape == shape else array for name, array in rows.items()}
    sizes = {name: list(array.shape) for name, array in arrays.items()}
    if len({tuple(size) for size in sizes.values()}) > 1 or any(len(size) != 1 for size in sizes.values()):
        shapes = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DiagnosisError(f"{path}: arrays must have one length, or [inputs, generations]: {shapes}")
    wanted = choose(list(arrays), lambda name: arrays[name].dtype.kind in "iuf")
    return {
        name: arrays[name].astype(float) if arrays[name].dtype.kind == "f" else arrays[name].tolist()
        for name in wanted
    }


def _read_parquet(path: Path, choose: Choose) -> dict[str, Column]:
    with needed_for(f"{path}: parquet", "tables"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    def holds_numbers(name: str) -> bool:
        column = schema.field(name).type
        return bool(pa.types.is_integer(column) or pa.types.is_floating(column))

    try:
        schema = pq.read_schema(path)
        wanted = choose(list(schema.names), holds_numbers)
        # A text is stored once and referred to, so that long prompts are not copied for each generation.
        texts = [name for name in wanted if pa.types.is_string(schema.field(name).type)]
        table = pq.read_table(path, columns=wanted, read_dictionary=texts)
        return {name: _arrow_column(table.column(name)) for name in wanted}
    except (pa.ArrowException, OSError) as error:
        raise DiagnosisError(f"{path} cannot be read: {error}") from error


def _arrow_column(column: Any) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type) and not pa.types.is_string(column.type.value_type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if not pa.types.is_dictionary(kind):
            column = column.dictionary_encode()
        column = column.unify_dictionaries()
        if not column.num_chunks:
            return []
        codes = pc.fill_null(pa.chunked_array([chunk.indices for chunk in column.chunks]), -1)
        return Encoded(codes.to_numpy().astype(np.int64), column.chunk(0).dictionary.to_pylist())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=float)
    values: list[Any] = column.to_pylist()
    return values


def encode(column: Column) -> Encoded:
    """Store the column's values as texts, each once; a conversation (a list of messages) as its JSON."""
    if isinstance(column, Encoded):
        return column
    places: dict[str, int] = {}
    codes = np.full(len(column), -1, dtype=np.int64)
    for row, value in enumerate(column):
        if value is not None and value == value:  # NaN is missing, too
            codes[row] = places.setdefault(_text(value), len(places))
    return Encoded(codes, list(places))


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
        known = np.array([_number(text) for text in column.texts] + [np.nan], dtype=object)
        values = known[column.codes]
        wrong = next((row for row, value in enumerate(values) if value is None), None)
        if wrong is not None:
            raise _no_number(column.texts[column.codes[wrong]], name, where, wrong)
        return np.array(values, dtype=float)
    if {type(value) for value in column} <= {int, float, bool, type(None)}:
        return np.array(column, dtype=float)
    read = [_number(value) for value in column]
    if None in read:
        wrong = read.index(None)
        raise _no_number(column[wrong], name, where, wrong)
    return np.array(read, dtype=float)


def _no_number(value: Any, name: str, where: str, row: int) -> DiagnosisError:
    if isinstance(value, list | dict):
        return DiagnosisError(f"{where}: {name!r} must hold numbers, holds {type(value).__name__}")
    return DiagnosisError(f"{where}: {name!r} must hold numbers, row {row + 1:,} holds {value!r:.60}")


def _number(value: Any) -> float | None:
    """Read the number that a value stands for, NaN for a missing one, None if it is none."""
    if value is None or (isinstance(value, str) and value.strip() in MISSING):
        return float("nan")
    if isinstance(value, str) and value.strip().lower() in TRUTH:
        return TRUTH[value.strip().lower()]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _are_numbers(values: Iterable[Any]) -> bool:
    kinds = {type(value) for value in values} - {type(None)}
    return bool(kinds) and kinds <= {int, float}


def _reads_as_numbers(texts: Iterable[str]) -> bool:
    """Tell whether a CSV column holds numbers, truth values not counted."""
    known = [text for text in texts if text not in MISSING]
    return bool(known) and not any(text.lower() in TRUTH or _number(text) is None for text in known)
