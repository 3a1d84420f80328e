"""What a function of the user's own may not change for the rest of the process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

logger = logging.getLogger(__name__)


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
