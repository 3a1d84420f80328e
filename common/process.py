"""What a process sets for itself first: how it answers Ctrl-C, how threads wait, where freed memory goes.

Imports nothing that takes time: a runner calls `begin` before it imports anything else.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MAPPED = 32 << 20  # bytes; the most that glibc accepts
_KEPT = 1 << 30  # bytes of free memory at the end of the heap


INTERRUPTED_EXIT_CODE = 130
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_just_made: list[Path] = []


def begin() -> None:
    """Answer Ctrl-C and SIGTERM with one line and status 130 from now on, until `stop_request` takes over.

    An exception would not do: imports swallow it, or show it where nobody can catch it.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, exit_at_once)
    sys.excepthook = _say_interrupted


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal: end the process, and remove the folders in which no work has begun."""
    for folder in _just_made:
        with suppress(OSError):
            for name in os.listdir(folder):
                os.unlink(folder / name)
            os.rmdir(folder)
    _end()


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal as Python does Ctrl-C: what is no run, such as drawing, cleans up behind itself."""
    raise KeyboardInterrupt


def just_made(folder: Path) -> None:
    """Remember a folder that is not worth keeping, for a signal that comes before `work_begins`."""
    _just_made.append(folder)


def work_begins() -> None:
    """What was just made is worth keeping from now on."""
    _just_made.clear()


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, trace)


def _end() -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED_EXIT_CODE)


def prepare() -> None:
    """Set up this process and those that it starts; to be called first in `main`, before torch is imported.

    What the user's environment says about either stays as it is.
    """
    # Threads of a small model that wait for each other by spinning are 10 to 40 times slower once anything
    # else runs on the machine (docs/decisions.md). OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed blocks of up to 32 MiB, at most 1 GiB of them; returns whether it does.

    A training step frees and asks for the same blocks again and again. Given back in between, the kernel
    zeroes each page anew, a few per cent of the time of a small model's update. False where the library is
    another than glibc, or where the environment sets one of these thresholds.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_MAPPED) and mallopt(_TRIM_THRESHOLD, _KEPT))
