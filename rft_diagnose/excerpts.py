"""Texts of some generations, read from the files anew: while rewards are read, no text of these is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rft_diagnose.columns import Picked, Wanted
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.files import is_pipe
from rft_diagnose.formats import read_columns
from rft_diagnose.groups import Ints
from rft_diagnose.logs import Log
from rft_diagnose.names import Columns, choose_columns
from rft_diagnose.rows import Bools
from rft_diagnose.sources import Source

Keep = Callable[[int, str], None]  # takes a row and its text


@dataclass(frozen=True)
class TextFile:
    """A file of texts: where, of how many rows, and what stood for each text when its rewards were read."""

    path: Path
    size: int
    hashes: Ints


@dataclass(frozen=True)
class Texts:
    """Reads the texts of M generations; or why they are not known.

    read: hands the texts of generations [K], ascending, to a function. Raises DiagnosisError.
    """

    read: Callable[[Ints, Keep], None] | None = None
    reason: str = "they are not known"


def find_texts(sources: Sequence[Source], asked: Columns, kept: Bools | None) -> Texts:
    """Tell where the texts of the generations are; kept: [rows of all files], which are generations."""
    files = []
    for source in sources:
        if is_pipe(source.path):
            return Texts(reason="they came through a pipe, which is read once: give a file instead")
        hashes = source.part.hashes.get(source.chosen.shown or "")
        if hashes is None:
            return Texts(reason="the table has no column of them")
        files.append(TextFile(source.path, source.size, hashes))
    return Texts(functools.partial(_read_files, files, asked, kept))


def _read_files(
    files: Sequence[TextFile], asked: Columns, kept: Bools | None, rows: Ints, keep: Keep
) -> None:
    places = rows if kept is None else np.flatnonzero(kept)[rows]
    start = 0
    for file in files:
        inside = (places >= start) & (places < start + file.size)
        if inside.any():
            _read_file(file, asked, places[inside] - start, rows[inside], keep)
        start += file.size


def _read_file(file: TextFile, asked: Columns, places: Ints, rows: Ints, keep: Keep) -> None:
    """Hand over the texts at these places of a file. Raises DiagnosisError: they are not as they were."""
    changed = DiagnosisError(f"{file.path} has changed since its rewards were read")
    row_at = dict(zip(places.tolist(), rows.tolist(), strict=True))
    read = 0

    def check(place: int, text: str) -> None:
        nonlocal read
        if hash(text) != file.hashes[place]:
            raise changed
        read += 1
        keep(row_at[place], text)

    def choose(names: list[str], holds_numbers: Callable[[str], bool], log: Log | None = None) -> Wanted:
        chosen = choose_columns(names, holds_numbers, asked, str(file.path), log)
        if chosen.shown is None:
            raise changed
        return replace(chosen.wanted(), picked=Picked(chosen.shown, places, check))

    read_columns(file.path, choose)
    if read < np.count_nonzero(file.hashes[places]):
        raise changed
