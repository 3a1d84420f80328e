"""The prompts of a file, with what else their rows have: JSON lines, JSON, CSV, TSV, parquet, plain text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from rft_diagnose.endpoint import Prompt
from rft_diagnose.errors import DiagnosisError, all_of, hint, needed_for
from rft_diagnose.names import TEXTS, find_name

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
NAMES = (*TEXTS, "messages")
IDS = ("prompt_id", "id")


@dataclass(frozen=True)
class PromptRow:
    """A prompt, a text or a conversation; id: its name in results; columns: what else its row has."""

    id: str
    prompt: Prompt
    columns: dict[str, Any]


def read_prompts(path: Path, column: str | None = None) -> list[PromptRow]:
    """Read a file's prompts, from the column or the first with a usual name.

    Raises DiagnosisError: they cannot be read, or a row has none.
    """
    rows = read_rows(path)
    if not rows:
        raise DiagnosisError(f"{path}: no prompts")
    names = list(rows[0])
    name = column or find_name(names, NAMES)
    if name is None or name not in names:
        problem = "which column is the prompt? name it with --prompt; "
        if name is not None:
            problem = f"no column {name!r} (--prompt); {hint(name, names)}"
        raise DiagnosisError(f"{path}: {problem}there are: {all_of(names)}")
    id_name = next((known for known in IDS if known in names and known != name), None)
    prompts = []
    for number, row in enumerate(rows, 1):
        prompt = row.get(name)
        if not _is_prompt(prompt):
            raise DiagnosisError(
                f"{path}: {name!r} in row {number:,} is {prompt!r:.60}; expected a text, or a "
                "conversation: a list of messages with role and content"
            )
        columns = {key: value for key, value in row.items() if key != name}
        prompts.append(PromptRow(str(number if id_name is None else row.get(id_name)), prompt, columns))
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DiagnosisError(
            f"{path}: {id_name!r} names several rows alike: give each prompt an id of its own"
        )
    return prompts


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file's rows as they are. Raises DiagnosisError: they cannot be read."""
    try:
        return _read_rows(path)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DiagnosisError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read rows as they are. Raises DiagnosisError, OSError, ValueError."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        with needed_for("a parquet file", "tables"):
            import pyarrow.parquet
        return list(pyarrow.parquet.read_table(path).to_pylist())
    if kind not in FORMATS:
        raise DiagnosisError(f"{path}: prompts are read from {', '.join(FORMATS)}")
    text = path.read_text(encoding="utf-8-sig")
    if kind in (".csv", ".tsv"):
        csv.field_size_limit(2**31 - 1)
        return _csv_rows(text, "\t" if kind == ".tsv" else ",")
    if kind == ".txt":
        return [{"prompt": line} for line in text.split("\n") if line.strip()]
    rows = json.loads(text) if kind == ".json" else _json_lines(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected objects with a prompt each")
    return rows


def _csv_rows(text: str, delimiter: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number:,} has more or fewer values than the first line has names")
    return rows


def _json_lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number:,} is no JSON ({error})") from error
    return rows


def _is_prompt(value: Any) -> TypeGuard[Prompt]:
    if isinstance(value, str):
        return bool(value)
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in value)
    )
