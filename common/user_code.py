"""Users' own functions, named in configs by `module:function`: what they may not change, where they fail."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(
    str(_ROOT / package) + "/"
    for package in ("common", "figures", "paper", "rft_diagnose", "rl4lms", "sft_vs_rft")
)
_LIBRARIES = tuple(
    path.rstrip("/") + "/"
    for path in {*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), sys.base_prefix}
)


def describe_place(error: BaseException) -> str | None:
    """`file:line` in the user's code where an error comes from; None if it comes from none.

    The innermost place outside Python, the installed packages and this project; a user's package that is
    itself installed is where this project's code went out of itself.
    """
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    outside = [place for place in places if not place[0].startswith((*_OURS, "<frozen "))]
    theirs = [place for place in outside if not place[0].startswith(_LIBRARIES)]
    if not outside:
        return None
    file, line = theirs[-1] if theirs else outside[0]
    return f"{file}:{line}"


def explain_failure(error: BaseException) -> str:
    """What an error says and where it comes from, to follow its type: `: division by zero, at own.py:3`."""
    place = describe_place(error)
    parts = [str(error), f"at {place}" if place else ""]
    return ": " + ", ".join(part for part in parts if part) if any(parts) else ""


@contextmanager
def directory_kept(name: str) -> Iterator[None]:
    """Go back to the working directory after a block that changes it, and say so once for each `name`.

    name: of the user's code, for the log. Relative paths of configs are read long after it was called.
    """
    before = _working_directory()
    try:
        yield
    finally:
        after = _working_directory()
        if before is not None and after != before:
            os.chdir(before)
            if name not in _told:
                _told.add(name)
                where = after or "one that is gone"
                logger.warning("%s changed the working directory to %s: back to %s", name, where, before)


_told: set[str] = set()


def keep_directory(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function; after each call the working directory is what it was, see `directory_kept`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with directory_kept(name):
            return function(*args, **kwargs)

    return call


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted meanwhile
        return None
