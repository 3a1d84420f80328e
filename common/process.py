"""What a process sets for itself before it imports torch: how threads wait, where freed memory goes."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MAPPED = 32 << 20  # bytes; the most that glibc accepts
_KEPT = 1 << 30  # bytes of free memory at the end of the heap


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
