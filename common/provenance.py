"""What produced a run: versions, commit, platform."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = ("torch", "numpy", "transformers", "datasets", "scikit-learn", "matplotlib")


def provenance() -> dict[str, Any]:
    """Say what produced a run: `versions`, `commit` and `dirty` (None outside a git checkout), `platform`."""
    commit, dirty = _git_state()
    system = {"system": platform.system(), "release": platform.release(), "machine": platform.machine()}
    return {
        "versions": dict(_versions()),
        "commit": commit,
        "dirty": dirty,
        "platform": {**system, "cpu_count": os.cpu_count()},
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache  # The code that runs is the code that was there when the process started.
def _git_state() -> tuple[str | None, bool | None]:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)


def _git(root: Path, *args: str) -> str:
    command = ["git", "-C", str(root), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
