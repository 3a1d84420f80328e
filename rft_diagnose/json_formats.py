"""JSON lines, and JSON in the forms that tables take in it."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rft_diagnose.columns import Choose, Part, Wanted, are_numbers, collect, reject_repeated, shorten
from rft_diagnose.errors import ColumnsError, DiagnosisError
from rft_diagnose.layouts import REWARDS
from rft_diagnose.logs import NotThisLayout
from rft_diagnose.records import LOOKED_AT, SAMPLE, Places, find_log, read_records
from rft_diagnose.text_formats import opened


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
    head = list(itertools.islice(_json_lines(path, where, []), LOOKED_AT))
    log = find_log(head)
    if log is not None:
        with contextlib.suppress(NotThisLayout):
            part = read_records(_places(path, where, notes), log, choose)
            part.notes.extend(notes)
            return part
        notes.clear()
    first = list(itertools.islice(_json_lines(path, where, notes), SAMPLE))
    if not first:
        raise ColumnsError(f"{where}: no rows{''.join(f' ({note})' for note in notes)}")
    names = dict.fromkeys(name for row in first for name in row)

    def ask() -> Wanted:
        return choose(list(names), lambda name: are_numbers(row.get(name) for row in first))

    if len(first) == SAMPLE:
        try:
            ask()
        except DiagnosisError:  # a column may begin later
            names.update(dict.fromkeys(n for row in _json_lines(path, where, []) for n in row))
    wanted = ask()
    if wanted.picked is not None:  # the other rows need not be parsed
        with opened(path, where) as lines:
            texts = (line for line in lines if line.strip())
            return collect(texts, wanted, lambda name: lambda line: _get(parse(line), name, where))
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
    return (row for _, row in _numbered_lines(path, where, notes))


def _places(path: Path, where: str, notes: list[str]) -> Places:
    return ((f"{where} line {number:,}", row) for number, row in _numbered_lines(path, where, notes))


def _numbered_lines(path: Path, where: str, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects in JSON lines, and the numbers of these. Raises DiagnosisError that names the line."""
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
                kind = ColumnsError if number == 1 else DiagnosisError
                raise kind(
                    f"{where} line {number}: expected a JSON object with a field for each column, "
                    f"got {shorten(row)}"
                )
            yield number, row


def read_json(path: Path, where: str, choose: Choose) -> Part:
    """Read a JSON file: rows, or columns, in the forms that `_as_rows` lists; or JSON lines after all."""
    with opened(path, where) as file:
        text = file.read()
    try:
        content = parse(text)
    except ValueError as error:
        if "Extra data" in str(error):
            return read_json_lines(path, where, choose)
        raise DiagnosisError(f"{where} is not JSON: {error}") from error
    log = find_log([content]) if isinstance(content, dict) else None
    if log is not None and log.library is not None:  # a batch of one of its logs
        rows = [content]
    else:
        rows = _as_rows(content, where)
    if not rows:
        raise DiagnosisError(f"{where}: no rows")
    log = find_log(rows[:LOOKED_AT])
    if log is not None:
        places = ((f"{where}: record {number:,}", row) for number, row in enumerate(rows, start=1))
        with contextlib.suppress(NotThisLayout):
            return read_records(places, log, choose)
    names = list(dict.fromkeys(name for row in rows for name in row))
    wanted = choose(names, lambda name: are_numbers(row.get(name) for row in rows[:SAMPLE]))
    return collect(rows, wanted, lambda name: lambda row: _get(row, name, where))


def _as_rows(content: Any, where: str) -> list[dict[str, Any]]:
    """Make rows of a list of objects, or of lists of numbers (a matrix of rewards); of an object of lists; or
    of what pandas, a W&B table and inspect-ai write. Raises DiagnosisError.
    """
    if isinstance(content, dict) and isinstance(content.get("samples"), list) and "eval" in content:
        content = content["samples"]
    elif isinstance(content, dict) and {"columns", "data"} <= content.keys() <= {"columns", "index", "data"}:
        content = _split(content, where)
    elif isinstance(content, dict) and {"schema", "data"} == content.keys():
        content = content["data"]
    if isinstance(content, list) and all(isinstance(row, dict) for row in content):
        return content
    if isinstance(content, list) and content and all(isinstance(row, list) for row in content):
        return [{"prompt_id": place, "reward": row} for place, row in enumerate(content)]
    if isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values()):
        return _of_lists(content, where)
    if isinstance(content, dict) and content and all(isinstance(v, dict) for v in content.values()):
        columns = list(content.values())
        if any(column.keys() != columns[0].keys() for column in columns):
            raise ColumnsError(f"{where}: its objects have different fields")
        if not any(map(REWARDS.fullmatch, content)) and not all(map(str.isdecimal, columns[0])):
            return columns  # rows by name
        return [{name: column[place] for name, column in content.items()} for place in columns[0]]
    raise ColumnsError(f"{where}: expected a list of objects, one a row, or an object of lists")


def _split(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Make rows of names in one list and rows in another."""
    names, data = content["columns"], content["data"]
    if not isinstance(names, list) or not isinstance(data, list):
        raise DiagnosisError(f"{where}: expected lists under 'columns' and 'data'")
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            raise DiagnosisError(f"{where}: row {number:,} of 'data' has not the {len(names)} 'columns'")
    return [dict(zip(map(str, names), row, strict=True)) for row in data]


def _of_lists(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Make rows of an object of columns."""
    if len({len(values) for values in content.values()}) > 1:
        raise DiagnosisError(f"{where}: its lists differ in length")
    if type(content) is _Repeated:
        repeated = next(name for name in content.names if content.names.count(name) > 1)
        reject_repeated(content.names, Wanted(values=(repeated,)), where)
    return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
