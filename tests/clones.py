"""Folders that look like a clone of the repository in which nothing was run yet."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def link_clone(folder: Path) -> Path:
    """Links in `folder` to all that is in the repository, but its outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in REPO.iterdir():
        if path.name not in ("outputs", ".git"):
            (folder / path.name).symlink_to(path)
    return folder


def start_smoke(clone: Path, printed: Path, *more: str) -> subprocess.Popen[bytes]:
    """`reproduce_paper.py --scale smoke --report` in a clone, with its own cache and process group.

    printed: the file of what it prints; more: other arguments.
    """
    with printed.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "reproduce_paper.py", "--scale", "smoke", "--jobs", "2", "--report", *more],
            cwd=clone,
            env=os.environ | {"VANISHING_GRADIENTS_RFT_CACHE": str(clone / "cache")},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def run_smoke(clone: Path, *more: str, timeout: float = 900) -> str:
    """The same to its end; returns what it printed."""
    printed = clone / "printed.txt"
    status = start_smoke(clone, printed, *more).wait(timeout)
    assert status == 0, printed.read_text()
    return printed.read_text()
