"""Parquet: columns as arrays where rows are generations, records where they are not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
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
from rft_diagnose.layouts import REWARDS, wide_columns
from rft_diagnose.logs import NotThisLayout
from rft_diagnose.records import LOOKED_AT, Places, find_log, read_records

BATCH = 65_536  # rows


def read_parquet(path: Path, where: str, choose: Choose) -> Part:
    with needed_for(f"{where}: parquet", "tables"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    def column_type(name: str) -> Any:
        return schema.field(schema.get_all_field_indices(name)[0]).type

    def holds_numbers(name: str) -> bool:
        return bool(pa.types.is_integer(column_type(name)) or pa.types.is_floating(column_type(name)))

    try:
        schema = pq.read_schema(path)
        if _may_hold_records(schema):
            places = _places(path, where)
            head = list(itertools.islice(places, LOOKED_AT))
            log = find_log([row for _, row in head])
            if log is not None:
                with contextlib.suppress(NotThisLayout):
                    return read_records(itertools.chain(head, places), log, choose)
        wanted = choose(list(dict.fromkeys(schema.names)), holds_numbers)
        reject_repeated(schema.names, wanted, where)
        if wanted.picked is not None:
            wanted = Wanted(picked=wanted.picked)
        # A text is stored once and referred to, so that long prompts are not copied for each generation.
        chosen = dict.fromkeys((*wanted.texts, *wanted.values))
        texts = {name: _texts_of(path, name) for name in chosen if _is_text(column_type(name))}
        part = Part(
            {name: texts.get(name) or _encoded(_column(path, name)) for name in wanted.texts},
            {name: texts.get(name) or _values(_column(path, name)) for name in wanted.values},
        )
        pa.default_memory_pool().release_unused()  # which Arrow would keep for its next table
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


def _may_hold_records(schema: Any) -> bool:
    """Tell whether some rows may hold several rewards, or hold them inside objects."""
    import pyarrow as pa

    nested = [name for name in schema.names if REWARDS.fullmatch(name)]
    types = [schema.field(place).type for name in nested for place in schema.get_all_field_indices(name)]
    return any(map(pa.types.is_nested, types)) or wide_columns(schema.names) is not None


def _places(path: Path, where: str) -> Places:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(BATCH) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{where}: row {number:,}", row


def _is_text(kind: Any) -> bool:
    """Tell whether a type is that of texts; pandas writes large ones."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(path: Path, name: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[name]).column(name)


def _texts_of(path: Path, name: str) -> Encoded:
    """Read a column of texts, each stored once, batch by batch: of a text a file has a copy for each row."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    places: dict[str, int] = {}
    with pq.ParquetFile(path) as file:
        codes, end = np.empty(file.metadata.num_rows, dtype=np.int64), 0
        for batch in file.iter_batches(BATCH, columns=[name]):
            column = batch.column(0).dictionary_encode()
            known = [places.setdefault(text, len(places)) for text in column.dictionary.to_pylist()]
            start, end = end, end + len(column)
            indices = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
            codes[start:end] = np.array([*known, -1], dtype=np.int64)[indices]
    return Encoded(codes, list(places))


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
    places: dict[str, int] = {}  # different values may have one text: 0.0 and -0.0
    known = [
        -1 if value is None or value != value else places.setdefault(as_text(value), len(places))
        for value in values
    ]
    return Encoded(np.array([*known, -1], dtype=np.int64)[codes], list(places))


def _in_batches(chunk: Any) -> Iterator[Any]:
    for start in range(0, len(chunk), BATCH):
        yield from chunk.slice(start, BATCH).to_pylist()
