"""The columns of several files as those of one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.columns import Encoded, Part, Wanted, numbers, values_at
from rft_diagnose.errors import ColumnsError, DiagnosisError, listed
from rft_diagnose.formats import read_columns
from rft_diagnose.groups import LARGEST, Floats, Ints
from rft_diagnose.logs import Log
from rft_diagnose.names import Chosen, Columns, choose_columns


@dataclass(frozen=True)
class Source:
    """A file's wanted columns, what they were chosen as, and their number of rows."""

    path: Path
    part: Part
    chosen: Chosen
    size: int

    @property
    def where(self) -> str:
        """What messages call the file."""
        return str(self.path)


def read_sources(
    files: Sequence[Path], asked: Columns, from_folders: set[Path]
) -> tuple[list[Source], list[str]]:
    """Read the files; those of folders that hold no rewards are left out, and said.

    Raises DiagnosisError: one cannot be read, or they do not fit together.
    """
    sources: list[Source] = []
    left_out: list[Path] = []
    first_error: DiagnosisError | None = None
    for path in files:
        try:
            if path in from_folders and len(files) > 1 and not path.stat().st_size:
                raise ColumnsError(f"{path} cannot be read: it is empty")
            sources.append(_read_source(path, asked))
        except ColumnsError as error:
            if path not in from_folders:
                raise
            first_error = first_error or error
            left_out.append(path)
    if first_error is not None:
        read = {_kind_of_name(source.path) for source in sources}
        if not sources or any(_kind_of_name(path) in read and path.stat().st_size for path in left_out):
            raise first_error
    _check_fit(sources)
    notes = [note for source in sources for note in source.part.notes]
    if left_out:
        notes.append(f"left out, as without the columns of rewards: {listed(path.name for path in left_out)}")
    return sources, notes


def _kind_of_name(path: Path) -> str:
    """Give a file's name without its numbers."""
    return re.sub(r"\d+", "", path.name)


def _read_source(path: Path, asked: Columns) -> Source:
    chosen: list[Chosen] = []

    def choose(names: list[str], holds_numbers: Callable[[str], bool], log: Log | None = None) -> Wanted:
        chosen.append(choose_columns(names, holds_numbers, asked, str(path), log))
        return chosen[-1].wanted()

    part = read_columns(path, choose)
    return Source(path, part, chosen[-1], len(part.texts[chosen[-1].prompt].codes))


def _check_fit(sources: Sequence[Source]) -> None:
    """Raise DiagnosisError if files were read in different ways."""
    first = sources[0]
    for source in sources[1:]:
        if _model(source) != _model(first):
            raise DiagnosisError(
                f"{first.where} is of the model {_model(first)}, {source.where} of {_model(source)}: give "
                "the files of one model"
            )
        for what in ("prompt", "rewards", "step"):
            ours, theirs = (_as_text(getattr(s.chosen, what)) for s in (first, source))
            if ours != theirs:
                raise DiagnosisError(
                    f"the files' columns do not fit together: the {what} of {first.where} is {ours}, of "
                    f"{source.where} it is {theirs}; give them apart, or name the columns"
                )


def _model(source: Source) -> str | None:
    """Tell whose generations a log of evaluation has: by itself, or by the name of its folder."""
    log, folder = source.chosen.log, source.path.parent
    if log.library == "lm-eval":
        return folder.name
    if log.library == "verifiers" and "--" in folder.parent.name:
        return folder.parent.name.partition("--")[2]
    return log.model


def _as_text(value: str | tuple[str, ...] | None) -> str:
    if value is None:
        return "not there"
    return value if isinstance(value, str) else ", ".join(sorted(value))


def join_whole_texts(sources: Sequence[Source], name: str) -> Encoded:
    """Join a column of all files, see `join_texts`. Raises DiagnosisError: one is no whole text."""
    joined = join_texts(sources, name)
    if (wrong := first_broken(joined.texts)) is not None:
        where, row = place(int((joined.codes == wrong).argmax()), sources)
        raise DiagnosisError(f"{where}: {name!r} in row {row:,} {broken_text(joined.texts[wrong])}")
    return joined


def join_texts(sources: Sequence[Source], name: str) -> Encoded:
    """Join a column of all files; a text has one code."""
    if len(sources) == 1:
        return sources[0].part.texts[name]
    places: dict[str, int] = {}
    codes = []
    for source in sources:
        column = source.part.texts[name]
        known = [places.setdefault(text, len(places)) for text in column.texts]
        codes.append(np.array([*known, -1], dtype=np.int64)[column.codes])  # at the end, of what is missing
    return Encoded(np.concatenate(codes), list(places))


def first_broken(texts: Sequence[str]) -> int | None:
    """Find the first text that UTF-8 cannot write."""
    for number, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return number
    return None


def broken_text(text: str) -> str:
    """Say what is wrong with a text that UTF-8 cannot write."""
    code = next(ord(c) for c in text if 0xD800 <= ord(c) <= 0xDFFF)
    if 0xDC80 <= code <= 0xDCFF:
        byte = f"0x{code - 0xDC00:02x}"
        return f"is not UTF-8 (byte {byte}): convert the file, such as with iconv -f latin1 -t utf-8"
    return f"has half of a character (the surrogate \\u{code:04x}): write the text anew, or leave it out"


def join_numbers(sources: Sequence[Source], name: str) -> Floats:
    """Join a column as numbers [M], NaN: missing. Raises DiagnosisError naming what is none."""
    columns: list[Floats] = []
    for source in sources:
        try:
            columns.append(numbers(source.part.values[name], name, source.where))
        except DiagnosisError as error:
            if columns:
                raise DiagnosisError(f"the files' columns do not fit together: {error}") from error
            raise
    values = np.concatenate(columns)
    values += 0.0  # -0 is 0
    too_large = (values > LARGEST) | (values < -LARGEST)
    if too_large.any():
        number = int(too_large.argmax())
        where, row = place(number, sources)
        if np.isinf(values[number]):
            raise DiagnosisError(f"{where}: {name!r} is infinite in row {row:,}")
        raise DiagnosisError(f"{where}: {name!r} in row {row:,} is too large: {values[number]:g}")
    return values


def join_first(sources: Sequence[Source], name: str, codes: Ints) -> list[Any]:
    """Look up the value of a column in the first row of each input."""
    _, first = np.unique(codes, return_index=True)
    values: list[Any] = [None] * len(first)
    sizes = [source.size for source in sources]
    for source, end, size in zip(sources, np.cumsum(sizes), sizes, strict=True):
        inside = np.flatnonzero((first >= end - size) & (first < end))
        looked_up = values_at(source.part.values[name], first[inside] - (end - size))
        for i, value in zip(inside, looked_up, strict=True):
            values[i] = value
    return values


def place(row: int, sources: Sequence[Source]) -> tuple[str, int]:
    """Find the file of a row of all files (from 0), and its number there (from 1)."""
    sizes = [source.size for source in sources]
    ends = np.cumsum(sizes)
    file = int(np.searchsorted(ends, row, side="right"))
    return sources[file].where, row - int(ends[file]) + sizes[file] + 1
