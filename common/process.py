"""What a process sets for itself first: how it answers Ctrl-C, how threads wait, where freed memory goes.

Imports nothing that takes time: a runner calls `begin` before it imports anything else.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TextIO, cast

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MAPPED = 32 << 20  # bytes; the most that glibc accepts
_KEPT = 1 << 30  # bytes of free memory at the end of the heap

CLOSED_PIPE = 141  # the status of a command that the signal of a closed pipe ends
INFORMATIVE = {"--list_fields", "--check", "--dry_run", "--help", "-h"}  # with these nothing is left undone


class PrintError(Exception):
    """What a command prints cannot be written; `__cause__` says why."""


class _Output:
    """Standard output whose errors are told from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise PrintError from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise PrintError from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command's `main` and exit with its status, also where nobody reads what it prints.

    A closed pipe (`| head -1`) ends it without a word: with the status of other commands, or 0 if all that it
    was to do is to print. What cannot be printed for another reason (a full disk) is one line, and status 1.
    """
    stdout = sys.stdout
    if stdout is None:  # closed by who started the command
        sys.exit(main())
    sys.stdout = cast(TextIO, _Output(stdout))
    try:
        try:
            status: Any = main()
        except SystemExit as end:
            status = end.code
        print(end="", flush=True)
    except PrintError as error:
        # Else Python tries once more when it exits, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(0 if INFORMATIVE & set(sys.argv) else CLOSED_PIPE)
        print(f"standard output cannot be written to: {error.__cause__}", file=sys.stderr)
        sys.exit(1)
    # All is done and printed: a signal spares what Python still has to tidy up.
    code = status if isinstance(status, int) else int(status is not None)
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(code))
    sys.exit(status)


INTERRUPTED_EXIT_CODE = 130
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_just_made: list[Path] = []


def begin() -> None:
    """Answer Ctrl-C and SIGTERM with one line and status 130 from now on, until `stop_request` takes over.

    An exception would not do: imports swallow it, or show it where nobody can catch it.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, exit_at_once)
    atexit.register(_ignore_signals)  # the first to be registered, the last to be called: Python's own end
    sys.excepthook = _say_interrupted
    sys.unraisablehook = _interrupt_again


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


def _ignore_signals() -> None:
    """At the very end Python calls no handler any more, and would answer with a status of its own."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, trace)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """An interrupt that came in a destructor, where Python drops what is raised, comes again after it."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(lost)


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
