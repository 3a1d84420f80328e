"""Files of rows as columns: by their format, and the binary ones (npz, parquet) here."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.columns import (
    EXACT,
    Choose,
    Column,
    Encoded,
    Part,
    Wanted,
    as_text,
    collect,
    reject_repeated,
)
from rft_diagnose.errors import DiagnosisError, needed_for
from rft_diagnose.text_formats import opened, read_json, read_json_lines, read_separated

ROW_FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")
FORMATS = (*ROW_FORMATS, ".json", ".npz")
BATCH = 65_536  # rows


def file_format(path: Path) -> str:
    """Find the suffix that tells a file's format, in small letters and without .gz."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix == ".gz" and inner not in (".npz", ".parquet") else suffix


def is_pipe(path: Path) -> bool:
    """Tell whether the path is something to read from once, such as /dev/stdin or a named pipe."""
    return path.is_fifo() or path.is_socket() or (str(path).startswith("/dev/") and path.is_file())


def read_columns(path: Path, choose: Choose) -> Part:
    """Read the columns of a file that are wanted.

    choose: from all names, and a function that says whether a column seems to hold numbers, those wanted.
    Raises DiagnosisError: the file cannot be read, or has no rows; whatever `choose` raises.
    """
    if not is_pipe(path):
        return _read_as(file_format(path), path, str(path), choose)
    with _copied(path) as copy:
        kind = file_format(path)
        return _read_as(kind if kind in FORMATS else _guess_format(copy, str(path)), copy, str(path), choose)


def _read_as(kind: str, path: Path, where: str, choose: Choose) -> Part:
    if kind == ".parquet":
        return _read_parquet(path, where, choose)
    if kind == ".npz":
        return _read_npz(path, where, choose)
    if kind in (".csv", ".tsv"):
        return read_separated(path, where, "\t" if kind == ".tsv" else ",", choose)
    if kind == ".json":
        return read_json(path, where, choose)
    return read_json_lines(path, where, choose)


@contextmanager
def _copied(pipe: Path) -> Iterator[Path]:
    """Copy what comes out of a pipe into a file that is there in the block: it is read more than once."""
    with tempfile.TemporaryDirectory(prefix="rft-diagnose-") as folder:
        copy = Path(folder) / "rows"
        try:
            with pipe.open("rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise DiagnosisError(f"{pipe} cannot be read: {error}") from error
        yield copy


def _guess_format(path: Path, where: str) -> str:
    """Guess the format of a file without a name from its beginning."""
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == b"PAR1":
        return ".parquet"
    if begin.startswith(b"PK"):
        return ".npz"
    with opened(path, where) as lines:
        first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("["):
        return ".json"
    if not first.startswith("{"):
        return ".csv"
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return ".json"
    return ".jsonl"


def _read_npz(path: Path, where: str, choose: Choose) -> Part:
    """Read arrays of M numbers or texts; or of [N, G], beside which arrays of N have a value a row."""
    try:
        with np.load(path, allow_pickle=False) as file:
            kinds = {name: _array_header(file, name) for name in file.files}
            names = list(kinds)
            # Rows have no names: their places have to do.
            shapes: list[tuple[int, ...]] = [shape for shape, _ in kinds.values()]
            matrix = next((shape for shape in shapes if len(shape) == 2), None)
            if matrix is not None and "prompt" not in kinds and "prompt_id" not in kinds:
                kinds["prompt_id"] = (matrix[:1], "i")
            wanted = choose(list(kinds), lambda name: kinds[name][1] in "iuf")
            reject_repeated(names, wanted, where)
            loaded = {
                name: file[name] if name in names else np.arange(kinds[name][0][0])
                for name in kinds
                if name in wanted.names
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error
    shape: tuple[int, ...] = max((array.shape for array in loaded.values()), key=len, default=())
    if len(shape) == 2:
        rows = {
            name: np.repeat(array, shape[1]) if array.shape == shape[:1] else array
            for name, array in loaded.items()
        }
        loaded = {name: array.ravel() if array.shape == shape else array for name, array in rows.items()}
    sizes = {name: list(array.shape) for name, array in loaded.items()}
    if len({tuple(size) for size in sizes.values()}) > 1 or any(len(size) != 1 for size in sizes.values()):
        text = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DiagnosisError(f"{where}: arrays must have one length, or [inputs, generations]: {text}")
    # Floating-point numbers stay an array; the other columns are taken as those of rows are.
    floats = {name: loaded[name].astype(float) for name in wanted.values if loaded[name].dtype.kind == "f"}
    columns = {name: array.tolist() for name, array in loaded.items() if name not in floats}
    rest = replace(wanted, values=tuple(name for name in wanted.values if name not in floats))
    length = next(iter(loaded.values())).shape[0] if loaded else 0
    part = collect(range(length), rest, lambda name: columns[name].__getitem__)
    part.values.update(floats)
    return part


def _array_header(file: Any, name: str) -> tuple[tuple[int, ...], str]:
    """Read an array's shape and kind of values, and not the array: it may be an unused one of any kind."""
    stored = next(entry for entry in file.zip.namelist() if entry.removesuffix(".npy") == name)
    with file.zip.open(stored) as entry:
        version = np.lib.format.read_magic(entry)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(entry)
    return shape, dtype.kind


def _read_parquet(path: Path, where: str, choose: Choose) -> Part:
    with needed_for(f"{where}: parquet", "tables"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    def column_type(name: str) -> Any:
        return schema.field(schema.get_all_field_indices(name)[0]).type

    def holds_numbers(name: str) -> bool:
        return bool(pa.types.is_integer(column_type(name)) or pa.types.is_floating(column_type(name)))

    try:
        schema = pq.read_schema(path)
        wanted = choose(list(dict.fromkeys(schema.names)), holds_numbers)
        reject_repeated(schema.names, wanted, where)
        # A text is stored once and referred to, so that long prompts are not copied for each generation.
        chosen = list(dict.fromkeys((*wanted.texts, *wanted.values)))
        texts = [name for name in chosen if _is_text(column_type(name))]
        table = pq.read_table(path, columns=chosen, read_dictionary=texts)
        part = Part(
            {name: _encoded(table.column(name)) for name in wanted.texts},
            {name: _values(table.column(name)) for name in wanted.values},
        )
        others = replace(wanted, texts=(), values=())
        if others.names:
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(BATCH, columns=others.names)
                columns = (dict(zip(b.schema.names, b.columns, strict=True)) for b in batches)
                rows = (
                    dict(zip(batch, row, strict=True))
                    for batch in columns
                    for row in zip(*(column.to_pylist() for column in batch.values()), strict=True)
                )
                more = collect(rows, others, lambda name: lambda row: row[name])
            part.texts.update(more.texts)
            part.hashes.update(more.hashes)
        return part
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error


def _is_text(kind: Any) -> bool:
    """Tell whether a type is that of texts; pandas writes large ones."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _values(column: Any) -> Column:
    """Take a column's values: numbers as an array, texts stored once each, others as Python has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if _is_text(kind):
        return _encoded(column)
    column = column.cast(kind) if pa.types.is_dictionary(column.type) else column
    if pa.types.is_floating(kind) or pa.types.is_null(kind):
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=float)
    if pa.types.is_integer(kind) and not column.null_count and len(column):
        whole = column.to_numpy()
        if -EXACT < whole.min() and whole.max() < EXACT:
            return np.asarray(whole, dtype=float)
    values: list[Any] = column.to_pylist()
    return values


def _encoded(column: Any) -> Encoded:
    """Store a column's values as texts, each once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(column.type) or pa.types.is_null(column.type):  # those have no dictionary
        rows = (row for chunk in column.chunks for row in _in_batches(chunk))
        return collect(rows, Wanted(texts=("",)), lambda name: lambda value: value).texts[""]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    if not column.num_chunks:
        return Encoded(np.zeros(0, dtype=np.int64), [])
    codes = pc.fill_null(pa.chunked_array([chunk.indices for chunk in column.chunks]), -1)
    values = column.chunk(0).dictionary.to_pylist()
    codes = codes.to_numpy().astype(np.int64)
    missing = [place for place, value in enumerate(values) if value is None or value != value]
    if missing:
        codes[np.isin(codes, missing)] = -1
    return Encoded(codes, [as_text(value) for value in values])


def _in_batches(chunk: Any) -> Iterator[Any]:
    for start in range(0, len(chunk), BATCH):
        yield from chunk.slice(start, BATCH).to_pylist()
