"""Files that are either the old version or the new one, whenever the process or the machine stops.

Only files of JSON rows grow, line by line. A kill may leave their last line torn: it is not read, and is cut
before anything is appended. Numbers that are not finite are written as NaN and Infinity, which Python reads
back but strict JSON lacks: a diverged run is to be seen as such.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError
from common.output import writing

_TEMPORARY = re.compile(r"\.tmp-.+-\d+")


class RunError(UserError):
    """Files of a run that cannot be used as asked; the message is for the user."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written and closed in the block; it then becomes `path` at once.

    The file's content, then its name, are on disk when the block has ended. An exception in the block leaves
    `path` as it was. Raises OutputError.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with writing(path):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, obj: Any) -> None:
    """Write `obj` to `path` atomically, as indented JSON."""
    atomic_write_text(path, json.dumps(obj, indent=2) + "\n")


def atomic_torch_save(path: Path, obj: Any) -> None:
    """Write `obj` to `path` atomically, by torch.save."""
    import torch

    # Given a name, torch.save writes it into the archive: equal states would be different files.
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as file:
        recorder = _Recorder(file)
        try:
            torch.save(obj, recorder)  # type: ignore[arg-type]  # all of IO that it uses
        except RuntimeError:
            if (
                recorder.error is not None
            ):  # which torch hides behind what it then finds wrong with its archive
                raise recorder.error from None
            raise


class _Recorder:
    """A file to write to that remembers why it could not be written."""

    def __init__(self, file: BinaryIO | FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            _write_all(self._file, data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def _write_all(file: BinaryIO | FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def describe_load_error(error: Exception) -> str:
    """Why torch.load(weights_only=True) refused a file: its own words advise to run the code in it."""
    if type(error).__name__ != "UnpicklingError":
        return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
    name = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"Unsupported \w+ (\S+)", str(error))
    what = name[1] if name else "an object of another kind"
    return f"holds more than tensors and plain values, not loaded: {what}, which could run code"


def make_directory(path: Path) -> None:
    """Make `path`, if it is not there, in an existing directory, and its name durable."""
    if not path.is_dir():
        with writing(path):
            path.mkdir(exist_ok=True)
            sync(path.parent)


def remove_temporary_files(directory: Path) -> None:
    """Delete what killed writers left anywhere below `directory`, which nobody may be writing to."""
    for path in directory.rglob(".tmp-*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


Row = dict[str, Any]


class RowLog:
    """A file of rows, open for appending by this process alone. key: what every row has, a number."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key
        self._file: FileIO | None = None

    def read(self) -> list[Row]:
        """The rows so far; see `read_rows`."""
        return read_rows(self.path, self._key)

    def append(self, row: Row) -> None:
        """Add a row, whole or not at all. Raises OutputError.

        It survives the process, but a power cut only after `sync` (an epoch may take 3 ms).
        """
        with writing(self.path):
            if self._file is None:
                drop_torn_line(self.path)
                self._file = self.path.open(
                    "ab", buffering=0
                )  # else a full disk would be met again on closing
                sync(self.path.parent)
            size = os.fstat(self._file.fileno()).st_size
            try:
                _write_all(self._file, json.dumps(row).encode() + b"\n")
            except OSError:
                self._file.truncate(size)
                raise

    def sync(self) -> None:
        """Put the rows so far on disk."""
        if self._file is not None:
            with writing(self.path):
                os.fsync(self._file.fileno())

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop all rows but the wanted ones, and a torn last line, atomically."""
        self.close()
        if self.path.exists():
            kept = [line for line, row in _rows(self.path, self._key) if wanted(row)]
            atomic_write_bytes(self.path, b"".join(kept))

    def close(self) -> None:
        """Close the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_rows(path: Path, key: str) -> list[Row]:
    """The rows of a file, without a torn last line; [] if there is none yet. key: see RowLog.

    Raises RunError if any other line cannot be read.
    """
    return [row for _, row in _rows(path, key)] if path.exists() else []


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last whole line."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _rows(path: Path, key: str) -> Iterator[tuple[bytes, Row]]:
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get(key), int | float):
            raise RunError(
                f"{path} line {number} is not a row with its {key!r}; only the last line may be torn: "
                "repair or delete the line, or start the run anew"
            )
        yield line + b"\n", row
