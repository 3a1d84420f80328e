"""Files that are either the old version or the new one, whenever the process or the machine stops."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.tmp-.+-\d+")


class RunError(Exception):
    """Files of a run that cannot be used as asked; the message is for the user."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written and closed in the block; it then becomes `path` at once.

    The file's content, then its name, are on disk when the block has ended. An exception in the block leaves
    `path` as it was.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
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
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(obj, file)


def make_directory(path: Path) -> None:
    """Make `path`, if it is not there, in an existing directory, and its name durable."""
    if not path.is_dir():
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
