"""A file of people's choices between two texts for the same prompt, such as the page of pairs saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError

VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a choice, as the outcome of text a against text b
_FIELDS = ("prompt", "a", "b", "choice")


class ChoicesError(UserError):
    """A file of choices that cannot be used; the message is for the user."""


@dataclass(frozen=True)
class Choice:
    """Two texts for a prompt, and the outcome of `a` against `b`: 1, 1/2 or 0."""

    prompt: str
    a: str
    b: str
    value: float


def read_choices(path: Path) -> list[Choice]:
    """Read a JSON list, or JSON lines, of objects with prompt, a, b (texts) and choice (a, b or tie).

    Raises ChoicesError that names the first object that is none.
    """
    rows = [_parse(row, f"{path}, {where}") for where, row in _rows(path)]
    if not rows:
        raise ChoicesError(f"{path} holds no choice: judge some pairs on the page first, then save them")
    return rows


def _rows(path: Path) -> list[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ChoicesError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        content = json.loads(text)
    except ValueError:
        return _lines(path, text)
    rows = content if isinstance(content, list) else [content]
    return [(f"choice {number}", row) for number, row in enumerate(rows, start=1)]


def _lines(path: Path, text: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", json.loads(line)))
        except ValueError as error:
            raise ChoicesError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def _parse(row: Any, where: str) -> Choice:
    if not isinstance(row, dict):
        raise ChoicesError(f"{where}: expected an object with {', '.join(_FIELDS)}, got {row!r:.60}")
    if lacking := [name for name in _FIELDS if name not in row]:
        raise ChoicesError(f"{where}: lacks {', '.join(lacking)}; a choice has {', '.join(_FIELDS)}")
    for name in _FIELDS[:3]:
        if not isinstance(row[name], str):
            raise ChoicesError(f"{where}: {name} must be a text, is {row[name]!r:.60}")
    if row["choice"] not in VALUES:
        raise ChoicesError(f"{where}: choice must be a, b or tie, is {row['choice']!r:.60}")
    return Choice(row["prompt"], row["a"], row["b"], VALUES[row["choice"]])
