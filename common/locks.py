"""Locks between processes, also of other machines, that say who holds them.

A lock is the operating system's lock of an open file (`flock`, or what Windows has), which ends with its
process. Some network file systems have none; there a second file is the lock, with process and host in it.
That one outlives a crash: on the same host the next process sees that its holder is gone and takes it over,
on others it has to be deleted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout, lock_descriptor, unlock_descriptor

from common.files import RunError
from common.output import writing

MARKER = ".held"  # ends the name of the second file
LOOK = 0.2  # seconds; enough to see that a marker's holder is gone
PATIENCE = 60.0  # seconds to wait for a folder, which nobody needs for more than a moment


class BusyError(RunError):
    """A lock that another process holds. holder: which, and what to do if it is no more."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by another process ({holder}): wait for it, or stop it")
        self.holder = holder


class Lock:
    """A lock that this process holds until `release` or its own end, however it comes."""

    def __init__(self, descriptor: int, marker: SoftFileLock | None) -> None:
        self._descriptor, self._marker = descriptor, marker

    def release(self) -> None:
        """Let go of the lock, once."""
        if self._marker is not None:
            self._marker.release()
        else:  # explicit: a forked child may hold a copy of the descriptor
            unlock_descriptor(self._descriptor)
        os.close(self._descriptor)


def acquire(path: Path) -> Lock:
    """Lock the file `path`, which is made if it is not there. Raises BusyError, OutputError."""
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    lock = None
    try:
        lock = Lock(descriptor, _lock(path, descriptor))
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()}\n{socket.gethostname()}\n".encode())
        return lock
    except BaseException:
        if lock is not None:
            lock.release()
        else:
            os.close(descriptor)
        raise


def _lock(path: Path, descriptor: int) -> SoftFileLock | None:
    """Lock an open file, or else make a marker beside it, which is returned."""
    try:
        is_ours = lock_descriptor(descriptor, blocking=False)
    except OSError:  # of many kinds, where a file system has no locks
        return _make_marker(path, LOOK)
    if not is_ours:
        raise BusyError(path, _read_holder(path))
    return None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """In the block no other process is in such a block for the same folder. Raises BusyError, OutputError."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            lock_descriptor(descriptor)
            stack.callback(unlock_descriptor, descriptor)
        except OSError:  # Windows opens no folders, some network file systems lock none
            stack.callback(_make_marker(folder / ".lock", PATIENCE).release)
        yield


def _make_marker(path: Path, patience: float) -> SoftFileLock:
    """Make the file that is the lock where the operating system has none; wait for it for some seconds."""
    marker = SoftFileLock(f"{path}{MARKER}", timeout=patience)
    try:
        with writing(path):
            marker.acquire()
    except Timeout:
        file = Path(marker.lock_file)
        raise BusyError(path, f"{_read_holder(file)}; if it is no more, delete {file}") from None
    return marker


def _read_holder(path: Path) -> str:
    """The process that a lock's file names: `pid 12 on node7`."""
    words: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        words = path.read_text().split()
    return f"pid {words[0]} on {words[1]}" if len(words) > 1 else "pid unknown"
