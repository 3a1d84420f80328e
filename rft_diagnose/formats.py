"""Files of rows as columns, by their format."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft_diagnose.archives import read_archive
from rft_diagnose.array_formats import read_npy, read_npz
from rft_diagnose.columns import Choose, Part
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.json_formats import read_json, read_json_lines
from rft_diagnose.parquet_formats import read_parquet
from rft_diagnose.text_formats import PACKED, opened, read_separated

ROW_FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv", ".eval")
FORMATS = (*ROW_FORMATS, ".json", ".npz", ".npy")
BINARY = (".eval", ".npy", ".npz", ".parquet")


def file_format(path: Path) -> str:
    """Find the suffix that tells a file's format, in small letters and without .gz or .zst."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix in PACKED and inner not in BINARY else suffix


def is_pipe(path: Path) -> bool:
    """Tell whether the path is something to read from once, such as /dev/stdin or a named pipe."""
    return path.is_fifo() or path.is_socket() or (str(path).startswith("/dev/") and path.is_file())


def read_columns(path: Path, choose: Choose) -> Part:
    """Read the columns of a file that are wanted.

    Raises DiagnosisError: the file cannot be read, or has no rows; whatever `choose` raises.
    """
    if not is_pipe(path):
        return _read_as(file_format(path), path, str(path), choose)
    with _copied(path) as copy:
        kind = file_format(path)
        return _read_as(kind if kind in FORMATS else _guess_format(copy, str(path)), copy, str(path), choose)


def _read_as(kind: str, path: Path, where: str, choose: Choose) -> Part:
    binary = {".parquet": read_parquet, ".npz": read_npz, ".npy": read_npy, ".eval": read_archive}
    if kind in binary:
        return binary[kind](path, where, choose)
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
        begin = file.read(6)
    if begin.startswith(b"PAR1"):
        return ".parquet"
    if begin == b"\x93NUMPY":
        return ".npy"
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
