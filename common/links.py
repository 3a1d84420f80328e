"""A fixed name for the newest result of a kind: a link beside the runs that make it."""

from __future__ import annotations

import os
from pathlib import Path

from common.files import RunError


def link_problem(link: Path, what: str = "model") -> str | None:
    """Why a link to a result cannot be put there; None if it can: there is nothing, or a link."""
    if link.is_symlink() or not link.exists():
        return None
    return (
        f"{link} is in the way: it is no link to a {what} made here; move it, or give the {what} another name"
    )


def publish(result: Path, link: Path, what: str = "model") -> None:
    """Let `link` lead to a result's folder, whatever it led to before. Raises RunError: it is no link."""
    if problem := link_problem(link, what):
        raise RunError(problem)
    temporary = link.with_name(f".tmp-{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(result, link.parent))
    os.replace(temporary, link)
