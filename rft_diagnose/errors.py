"""What is the user's to mend: rewards that cannot be used, names that were mistyped, missing packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SHOWN = 8  # names in a message


class DiagnosisError(Exception):
    """Rewards that nothing can be said about as they are; the message is for the user."""


class ColumnsError(DiagnosisError):
    """A table without the columns that a diagnosis needs: one that stands beside the data, perhaps."""


class MissingPackageError(DiagnosisError):
    """A package that only some inputs or results need is not installed; the message names it."""


@contextmanager
def needed_for(what: str, extra: str | None = None) -> Iterator[None]:
    """Import optional packages in the block; extra: the one of this distribution that has them.

    Raises MissingPackageError with what needs them, and the command that installs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        target = package if extra is None else f"'rft-diagnose[{extra}]'"
        raise MissingPackageError(f"{what} needs {package}: pip install {target}") from error


def hint(name: str, known: Iterable[str]) -> str:
    """Ask whether a known name was meant, in whatever case; "" if none is near."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"did you mean {folded[near[0]]!r}? " if near else ""


def all_of(names: Iterable[str]) -> str:
    """List all names."""
    return ", ".join(name or "''" for name in names)


def listed(names: Iterable[object]) -> str:
    """List names, but not all of many."""
    texts = [str(name) or "''" for name in names]
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
