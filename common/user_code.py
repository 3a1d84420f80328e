"""Where users' own functions fail: rewards, metrics and datasets that a config names by `module:function`."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path

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
