"""Text files of rows: CSV and its kin, JSON lines, JSON; each also gzipped."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import operator
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rft_diagnose.columns import (
    Choose,
    Part,
    Wanted,
    are_numbers,
    collect,
    read_as_numbers,
    reject_repeated,
    shorten,
)
from rft_diagnose.errors import ColumnsError, DiagnosisError

SAMPLE = 1_000  # rows that are looked at before the columns are chosen
SEPARATORS = (",", "\t", ";", "|")
GZIP = b"\x1f\x8b"
BYTE_ORDERS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Columns of the tables that a diagnosis leaves, and what texts look like that a spreadsheet would compute.
OWN_COLUMNS = ({"input", "std_ddof0", "looks", "more"}, {"input", "fresh_std", "squared", "norm"})
FORMULA = re.compile(r"'*[=+\-@\t\r]")


@contextmanager
def opened(path: Path, where: str) -> Iterator[IO[str]]:
    """Open a text file, gzipped or not, in UTF-8 or (with a byte order mark) UTF-16.

    What is not UTF-8 becomes lone surrogates, so that it does not matter in a column that is not read.
    Raises DiagnosisError, also for errors inside the block: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = path.suffix.lower() == ".gz" or raw.peek(2)[:2] == GZIP
            with gzip.GzipFile(fileobj=raw) if packed else raw as binary:
                mark, begin = binary.peek(4)[:2], binary.peek(4)[:4]
                if begin.count(0) > (1 if mark in BYTE_ORDERS else 0):
                    raise UnicodeError(
                        "it is UTF-16 without a byte order mark, or UTF-32, or no text: convert it to UTF-8, "
                        "such as with iconv -f utf-16le -t utf-8"
                    )
                encoding = BYTE_ORDERS.get(mark, "utf-8-sig")
                errors = "strict" if mark in BYTE_ORDERS else "surrogateescape"
                with io.TextIOWrapper(binary, encoding=encoding, errors=errors, newline="") as file:
                    yield file
    except (OSError, EOFError, UnicodeError, csv.Error, zlib.error) as error:
        raise DiagnosisError(f"{where} cannot be read: {error}") from error


# CSV


def read_separated(path: Path, where: str, separator: str, choose: Choose) -> Part:
    """Read CSV and its kin: with another separator than usual, or spaces around it, if the header has these.

    A last row that was not written to its end is left out, with a note. Raises DiagnosisError; whatever
    `choose` raises.
    """
    notes: list[str] = []
    limit = csv.field_size_limit(2**31 - 1)  # a conversation is longer than the 128 KiB that csv expects
    try:
        with opened(path, where) as file:
            head = list(itertools.islice(file, 2))
            separator, spaced = _find_separator(head, separator)
            lines = itertools.chain(head, file)
            names, rows = _separated_rows(lines, where, separator, spaced, notes)
            first = list(itertools.islice(rows, SAMPLE))
            places = {name: place for place, name in reversed(list(enumerate(names)))}
            distinct = list(dict.fromkeys(names))
            wanted = choose(distinct, lambda name: read_as_numbers(row[places[name]] for row in first))
            reject_repeated(names, wanted, where)
            is_defused = is_own(names)

            def getter(name: str) -> Callable[[list[str]], str]:
                get = operator.itemgetter(places[name])
                return (lambda row: _restore(get(row))) if is_defused else get

            part = collect(itertools.chain(first, rows), wanted, getter)
    finally:
        csv.field_size_limit(limit)
    part.notes.extend(notes)
    return part


def _find_separator(head: list[str], usual: str) -> tuple[str, bool]:
    """Find the separator from the first two lines, and whether spaces follow it."""
    separator = usual
    for candidate in (usual, *SEPARATORS):
        sizes = [len(row) for row in csv.reader(head, delimiter=candidate)]
        if sizes and sizes[0] > 1 and (len(sizes) < 2 or sizes[0] == sizes[1]):
            separator = candidate
            break
    names = next(csv.reader(head, delimiter=separator), [])
    return separator, any(name.startswith(" ") for name in names[1:])


def _separated_rows(
    lines: Iterator[str], where: str, separator: str, spaced: bool, notes: list[str]
) -> tuple[list[str], Iterator[list[str]]]:
    """Read the names in the header; the rows follow. Raises DiagnosisError."""
    record: list[str] = []  # the lines of the row that is being read

    def recorded() -> Iterator[str]:
        for line in lines:
            record.append(line)
            yield line

    reader = csv.reader(recorded(), delimiter=separator, skipinitialspace=spaced)
    header = next(reader, None)
    if not header:
        raise DiagnosisError(f"{where} cannot be read: it is empty")
    names = [name.strip() for name in header]
    if len(names) == 1:
        raise ColumnsError(
            f"{where}: its first line is one column, {shorten(names[0])}, where input and reward are two: "
            f"the names of columns stand first, separated by commas, tabs, semicolons or bars (|)"
        )
    if is_own(names):
        names = [_restore(name) for name in names]

    def rows() -> Iterator[list[str]]:
        record.clear()
        previous: list[str] = []
        line = 0
        for row in reader:
            if len(previous) == len(names):
                yield previous
            elif previous:
                problem = _wrong_size(previous, names)
                raise DiagnosisError(f"{where} cannot be read: {problem} (line {line:,})")
            previous, line, last = row, reader.line_num, record[:]
            record.clear()
        if not previous:
            return
        # An open quote takes in all that follows: only the last row can be wrong in that way, or torn.
        is_open = _ends_in_quote(last, separator, spaced)
        if not is_open and len(previous) == len(names):
            yield previous
        elif (
            last[-1][-1] not in "\r\n"
            and not _has_rows(last[1:], len(names), separator, spaced)
            and (is_open or len(previous) < len(names))
        ):
            notes.append(f"{where}: the last row (line {line:,}) is torn and left out")
        else:
            problem = "a quote is not closed" if is_open else _wrong_size(previous, names)
            raise DiagnosisError(f"{where} cannot be read: {problem} (line {line:,})")

    return names, rows()


def _wrong_size(row: list[str], names: list[str]) -> str:
    return f"{len(row)} columns where the header has {len(names)}"


def _ends_in_quote(record: list[str], separator: str, spaced: bool) -> bool:
    """Tell whether a row's lines end within quotes."""
    try:
        list(csv.reader(record, delimiter=separator, skipinitialspace=spaced, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _has_rows(lines: list[str], columns: int, separator: str, spaced: bool) -> bool:
    """Tell whether some of the lines are rows themselves: then a quote before them was meant literally."""
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=spaced)
    return columns > 1 and any(len(row) == columns for row in rows)


def is_own(names: Sequence[str]) -> bool:
    """Tell whether a table with these columns is one that a diagnosis left."""
    return any(set(names) >= columns for columns in OWN_COLUMNS)


def defuse(text: str) -> str:
    """Keep a spreadsheet from computing a text: an apostrophe stands before what looks like a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def _restore(text: str) -> str:
    """Undo `defuse`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


# JSON


class _Repeated(dict[str, Any]):
    """An object in which some names stand twice; names: with their repetitions."""

    names: tuple[str, ...] = ()


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeated = _Repeated(row)
    repeated.names = tuple(name for name, _ in pairs)
    return repeated


def _read_integer(digits: str) -> int | str:
    """Read a whole number; one of more digits than Python reads stays a text."""
    return int(digits) if len(digits) < 4_000 else digits


DECODER = json.JSONDecoder(object_pairs_hook=_make_object)
# Only where the first fails: it takes longer.
PATIENT = json.JSONDecoder(object_pairs_hook=_make_object, parse_int=_read_integer)


def parse(text: str) -> Any:
    """Parse JSON. Raises ValueError, also if it is nested too deeply."""
    try:
        try:
            return DECODER.decode(text)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return PATIENT.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_lines(path: Path, where: str, choose: Choose) -> Part:
    """Read JSON lines, an object each, row by row: only what is wanted is kept.

    A last line that was not written to its end is left out, with a note. Raises DiagnosisError; whatever
    `choose` raises.
    """
    notes: list[str] = []
    first = list(itertools.islice(_json_lines(path, where, notes), SAMPLE))
    if not first:
        raise DiagnosisError(f"{where}: no rows{''.join(f' ({note})' for note in notes)}")
    names = dict.fromkeys(name for row in first for name in row)

    def ask() -> Wanted:
        return choose(list(names), lambda name: are_numbers(row.get(name) for row in first))

    if len(first) == SAMPLE:
        try:
            ask()
        except DiagnosisError:  # a column may begin later
            names.update(dict.fromkeys(n for row in _json_lines(path, where, []) for n in row))
    wanted = ask()
    while True:
        notes.clear()
        later: dict[str, None] = {}

        def rows() -> Iterator[dict[str, Any]]:
            for row in _json_lines(path, where, notes):
                if not row.keys() <= names.keys():
                    later.update(dict.fromkeys(row))  # noqa: B023
                yield row

        part = collect(rows(), wanted, lambda name: lambda row: _get(row, name, where))
        names.update(later)
        before, wanted = wanted, ask() if later else wanted
        if wanted == before:
            part.notes.extend(notes)
            return part


def _get(row: dict[str, Any], name: str, where: str) -> Any:
    if type(row) is _Repeated:
        reject_repeated(row.names, Wanted(values=(name,)), where)
    return row.get(name)


def _json_lines(path: Path, where: str, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Read the objects in JSON lines. Raises DiagnosisError that names the line."""
    with opened(path, where) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parse(line)
            except ValueError as error:
                if line[-1] not in "\r\n":
                    notes.append(f"{where}: the last line ({number:,}) is torn and left out")
                    continue
                raise DiagnosisError(f"{where} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DiagnosisError(
                    f"{where} line {number}: expected a JSON object with a field for each column, "
                    f"got {shorten(row)}"
                )
            yield row


def read_json(path: Path, where: str, choose: Choose) -> Part:
    """Read a JSON file: a list of objects, an object of equally long lists, or JSON lines after all."""
    with opened(path, where) as file:
        text = file.read()
    try:
        content = parse(text)
    except ValueError as error:
        if "Extra data" in str(error):
            return read_json_lines(path, where, choose)
        raise DiagnosisError(f"{where} is not JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        rows = content
    elif isinstance(content, dict) and all(isinstance(values, list) for values in content.values()):
        if len({len(values) for values in content.values()}) > 1:
            raise DiagnosisError(f"{where}: its lists differ in length")
        if type(content) is _Repeated:
            repeated = next(name for name in content.names if content.names.count(name) > 1)
            reject_repeated(content.names, Wanted(values=(repeated,)), where)
        rows = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    else:
        raise DiagnosisError(f"{where}: expected a list of objects, one a row, or an object of lists")
    if not rows:
        raise DiagnosisError(f"{where}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    wanted = choose(names, lambda name: are_numbers(row.get(name) for row in rows[:SAMPLE]))
    return collect(rows, wanted, lambda name: lambda row: _get(row, name, where))
