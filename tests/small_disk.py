"""A disk of its own that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def resize(folder: Path, size: int) -> None:
    """Give a small disk another size, in bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of `size` bytes on a new folder; skips the test where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def fill(folder: Path, keep_free: int = 0) -> Path:
    """Write a file that leaves only `keep_free` bytes of a small disk; returns it."""
    path = folder / "filler"
    free = os.statvfs(folder)
    size = free.f_bavail * free.f_frsize - keep_free
    path.write_bytes(b"x" * max(size, 0))
    return path
