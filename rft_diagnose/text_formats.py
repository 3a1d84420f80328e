"""Text files of rows, packed or not; CSV and its kin."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import operator
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rft_diagnose.columns import (
    Choose,
    Part,
    collect,
    read_as_numbers,
    reject_repeated,
    shorten,
)
from rft_diagnose.errors import ColumnsError, DiagnosisError, needed_for
from rft_diagnose.logs import NotThisLayout
from rft_diagnose.records import LOOKED_AT, SAMPLE, find_log, read_records

SEPARATORS = (",", "\t", ";", "|")
GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PACKED = (".gz", ".zst")
CHUNK = 1 << 17  # bytes
BYTE_ORDERS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Columns of the tables that a diagnosis leaves, and what texts look like that a spreadsheet would compute.
OWN_COLUMNS = ({"input", "std_ddof0", "looks", "more"}, {"input", "fresh_std", "squared", "norm"})
FORMULA = re.compile(r"'*[=+\-@\t\r]")


@contextlib.contextmanager
def opened(path: Path, where: str) -> Iterator[IO[str]]:
    """Open a text file, packed or not, in UTF-8 or (with a byte order mark) UTF-16.

    What is not UTF-8 becomes lone surrogates, so that it does not matter in a column that is not read.
    Raises DiagnosisError, also for errors inside the block: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            with _unpacked(raw, path.suffix.lower(), where) as binary:
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


def _unpacked(raw: io.BufferedReader, suffix: str, where: str) -> io.BufferedReader | gzip.GzipFile:
    """Unpack what is gzipped or packed with Zstandard, by its first bytes or its name."""
    begin = raw.peek(4)[:4]
    if begin[:2] == GZIP or suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if begin != ZSTANDARD and suffix != ".zst":
        return raw
    with needed_for(f"{where}: packed with Zstandard, it", "zstd"):
        import zstandard
    return io.BufferedReader(_Zstandard(raw, zstandard), CHUNK)


class _Zstandard(io.RawIOBase):
    """What a stream packed with Zstandard holds. Raises EOFError, OSError: it is torn, or no such stream."""

    def __init__(self, raw: io.BufferedReader, package: Any) -> None:
        self.raw, self.package = raw, package
        self.frame = package.ZstdDecompressor().decompressobj()
        self.packed, self.content, self.is_inside = b"", b"", True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.content:
            if self.frame.eof:
                self.packed, self.frame = (
                    self.frame.unused_data,
                    self.package.ZstdDecompressor().decompressobj(),
                )
            self.packed = self.packed or self.raw.read(CHUNK)
            if not self.packed:
                if self.is_inside:
                    raise EOFError("it ends before its packed content does")
                return 0
            try:
                self.content = self.frame.decompress(self.packed)
            except self.package.ZstdError as error:
                raise OSError(f"it is not packed with Zstandard: {error}") from error
            self.packed, self.is_inside = b"", not self.frame.eof
        size = min(len(buffer), len(self.content))
        buffer[:size], self.content = self.content[:size], self.content[size:]
        return size


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
            log = find_log([dict(zip(names, row, strict=True)) for row in first[:LOOKED_AT]])
            if log is not None:
                every = enumerate(itertools.chain(first, rows), start=1)
                records = (
                    (f"{where}: row {number:,}", dict(zip(names, row, strict=True))) for number, row in every
                )
                with contextlib.suppress(NotThisLayout):
                    part = read_records(records, log, choose, _hold_numbers)
                    part.notes.extend(notes)
                    return part
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


def _hold_numbers(values: Iterable[Any]) -> bool:
    """Tell whether values hold numbers, some of which are texts of numbers."""
    known = [value for value in values if value is not None]
    return read_as_numbers(value if type(value) is str else repr(value) for value in known)


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
