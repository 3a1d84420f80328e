"""Which run directory is whose: found by what decides a run's numbers, not by its name or place."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.locks import BusyError, acquire, alone_in
from common.run_dir import (
    CONFIG,
    LOCK,
    RunBusyError,
    RunDir,
    RunError,
    RunInfo,
    age,
    find_runs,
    read_run,
)

IDENTITY = "identity"  # of the manifest
LOCK_PATIENCE = 5.0  # seconds; a worker of a killed runner ends well within them


def hash_of(content: Any) -> str:
    """Sixteen hexadecimal digits for a value that JSON can hold, whatever the order of its mappings."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def content_digest(path: Path) -> str:
    """Hash of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        return _file_digest(path, path.stat().st_mtime_ns, path.stat().st_size)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hash_of([(str(file.relative_to(path)), content_digest(file)) for file in files])


@functools.cache  # Many runs of a plan read the same files, and these may be gigabytes.
def _file_digest(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def earlier_runs(folder: Path) -> dict[str, RunInfo]:
    """Identity -> its newest run directly below `folder`, a finished one before any other."""
    runs = [run for run in find_runs(folder) if IDENTITY in run.manifest]
    runs.sort(key=lambda run: run.manifest.get("status") == "finished")
    return {run.manifest[IDENTITY]: run for run in runs}


def finished_runs(folder: Path) -> dict[str, Path]:
    """Identity -> its newest finished run directly below `folder`."""
    runs = earlier_runs(folder).items()
    return {identity: run.path for identity, run in runs if run.manifest.get("status") == "finished"}


class RunIndex:
    """The runs directly below a folder by identity, each manifest read once, however often it is asked.

    A plan asks for each of its experiments. The identity of a run never changes; its status does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identities: dict[str, str | None] = {}  # by the directory's name; None: a run of no plan

    def find(self, identity: str) -> RunInfo | None:
        """The newest run of an identity, a finished one before any other; as it is now."""
        names = {entry.name for entry in os.scandir(self._folder) if entry.is_dir()}
        for gone in self._identities.keys() - names:
            del self._identities[gone]
        for name in names - self._identities.keys():
            with suppress(RunError):  # not yet a run, or none
                self._identities[name] = read_run(self._folder / name).manifest.get(IDENTITY)
        runs = []
        for name in [name for name, known in self._identities.items() if known == identity]:
            with suppress(RunError):
                runs.append(read_run(self._folder / name))
        runs.sort(key=lambda run: (run.manifest.get("status") == "finished", *age(run)))
        return runs[-1] if runs else None


def open_or_create(
    folder: Path,
    identity: str,
    create: Callable[[], RunDir],
    fresh: bool = False,
    index: RunIndex | None = None,
) -> tuple[RunDir, bool]:
    """The run of this identity, locked to go on with it; if there is none, or `fresh`, what `create` makes.

    index: of the folder, of somebody who asks for many. Returns it and whether it is an earlier one. Of
    several processes that come at once, one creates it. Raises RunBusyError if a live process holds it.
    """
    with alone_in(folder):
        earlier = None if fresh else (index or RunIndex(folder)).find(identity)
        if earlier is None:
            return create(), False
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return RunDir.open(earlier.path), True
        except RunBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def remove_incomplete_runs(base: Path) -> None:
    """Delete the folders below `base` of runs that were killed before they had a manifest.

    They hold no more than a config, and nothing will ever open them. A maker that is alive has the lock
    from before it writes its number there.
    """
    for path in base.iterdir() if base.is_dir() else ():
        with suppress(FileNotFoundError, BusyError):
            if not path.is_dir() or not _is_incomplete(path):
                continue
            lock = acquire(path / LOCK)
            try:
                if _is_incomplete(path):
                    shutil.rmtree(path)
            finally:
                lock.release()


def _is_incomplete(path: Path) -> bool:
    """Whether a folder that somebody has locked once holds no more than a config."""
    names = {file.name for file in path.iterdir() if not file.name.startswith((".tmp-", LOCK))}
    return all(name.endswith(CONFIG) for name in names) and (path / LOCK).stat().st_size > 0
