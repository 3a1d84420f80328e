"""The directory that a run leaves behind: manifest with what produced it, config, metrics and checkpoints.

A run may be killed between any two system calls: what is on disk then is complete and readable, and the run
can be opened again. Only files of rows (`metrics.jsonl`) grow in place; see `common.files`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.files import (
    RowLog,
    RunError,
    atomic_torch_save,
    atomic_write_json,
    describe_load_error,
    drop_torn_line,
    make_directory,
    read_rows,
    remove_temporary_files,
    sync,
)
from common.locks import BusyError, Lock, acquire
from common.output import OutputError, writing
from common.process import just_made
from common.provenance import provenance

MANIFEST, CONFIG, METRICS = "manifest.json", "config.json", "metrics.jsonl"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
_CHECKPOINT = re.compile(r"epoch_(\d+)\.pt")

logger = logging.getLogger(__name__)


class RunBusyError(RunError):
    """A run directory that a live process is writing to."""


class CheckpointError(RunError):
    """A checkpoint that is missing or cannot be read."""


@dataclass(frozen=True)
class RunInfo:
    """A run found on disk: its directory and what its manifest.json and config.json hold."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]


class RunDir:
    """A run directory open for writing, by this process alone; see `create` and `open`.

    Leaving it as a context manager closes it; the status is for the caller to set.
    """

    def __init__(self, path: Path, lock: Lock, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.path = path.absolute()  # whatever becomes the working directory while the run is written to
        self.prefix: str = manifest.get("prefix", "")
        self.config = config
        self._lock: Lock | None = lock
        self._manifest = manifest
        self._rows: dict[str, RowLog] = {}

    @classmethod
    def create(
        cls, base: Path, name: str, config: dict[str, Any], manifest: dict[str, Any], prefix: str = ""
    ) -> RunDir:
        """Make `<base>/<name>_<UTC time>/` with config.json and manifest.json, and lock it.

        manifest: fields of the caller, over those every run has (status "running", argv, created, updated,
        versions, commit, dirty, platform). prefix: begins the names of the config's file and the checkpoints'
        folder; recorded in the manifest. Raises RunError if `name` cannot be the name of a directory, or the
        prefix begin one.
        """
        if not name or Path(name).name != name or "\0" in name:
            raise RunError(f"{name!r} cannot name a run directory: it must not be empty or hold '/'")
        if Path(prefix + CONFIG).name != prefix + CONFIG:
            raise RunError(f"{prefix!r} cannot begin the names of a run's files: it must not hold '/'")
        path = _make_run_directory(Path(base), name)
        lock = _acquire(path)
        try:
            now = _now()
            fields = {"status": "running", "argv": sys.argv, "created": now, "updated": now, **provenance()}
            fields |= manifest | ({"prefix": prefix} if prefix else {})
            # The manifest is what makes the directory a run: it comes last.
            atomic_write_json(path / (prefix + CONFIG), config)
            atomic_write_json(path / MANIFEST, fields)
        except BaseException:
            lock.release()
            raise
        return cls(path, lock, config, fields)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Lock an existing run directory to go on writing to it, and remove what was left half written.

        The manifest stays as it is. Raises RunBusyError if a live process holds the directory, RunError if
        there is no run in it.
        """
        path = Path(path)
        read_run(path)
        lock = _acquire(path)
        try:
            with writing(path):
                remove_temporary_files(path)
                for file in path.glob("*.jsonl"):
                    drop_torn_line(file)
            run = read_run(path)  # Again: it may have changed before the lock was ours.
        except BaseException:
            lock.release()
            raise
        return cls(path, lock, run.config, run.manifest)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files and the lock; may be called twice."""
        for log in self._rows.values():
            log.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def manifest(self) -> dict[str, Any]:
        """The fields of manifest.json, to read."""
        return dict(self._manifest)

    def update_manifest(self, **fields: Any) -> None:
        """Write `fields` over those of the manifest, atomically, after the rows so far are on disk."""
        self.sync_rows()
        manifest = {**self._manifest, **fields, "updated": _now()}
        atomic_write_json(self.path / MANIFEST, manifest)
        self._manifest = manifest

    def rows(self, name: str, key: str) -> RowLog:
        """The file of rows `name` of the run, open until the run is closed. key: see RowLog."""
        return self._rows.setdefault(name, RowLog(self.path / name, key))

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one row to metrics.jsonl, with its "epoch"."""
        self.rows(METRICS, "epoch").append(row)

    def truncate_metrics(self, last_epoch: int) -> None:
        """Drop the rows of epochs after `last_epoch`, and a torn last line, atomically."""
        self.rows(METRICS, "epoch").keep(lambda row: row["epoch"] <= last_epoch)

    @property
    def checkpoints_path(self) -> Path:
        """The folder of the run's checkpoints, which the first of them makes."""
        return self.path / (self.prefix + CHECKPOINTS)

    def save_checkpoint(self, state: dict[str, Any], epoch: int) -> Path:
        """Write checkpoints/epoch_<epoch, 6 digits>.pt atomically, after the rows so far are on disk.

        state: tensors and plain values, so that it loads with weights_only=True.
        """
        self.sync_rows()
        make_directory(self.checkpoints_path)
        path = self.checkpoints_path / checkpoint_name(epoch)
        atomic_torch_save(path, state)
        return path

    def checkpoints(self) -> list[Path]:
        """The checkpoints of the run, oldest epoch first."""
        return checkpoints_in(self.checkpoints_path)

    def delete_checkpoints(self, keep: Iterable[Path]) -> None:
        """Delete all checkpoints but `keep`, the oldest first."""
        kept = {path.name for path in keep}
        for path in self.checkpoints():
            if path.name not in kept:
                path.unlink()

    def sync_rows(self) -> None:
        """Put the rows so far on disk."""
        for log in self._rows.values():
            log.sync()


def read_metrics(run_path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, without a torn last line; [] if there is none yet.

    Raises RunError if any other line cannot be read.
    """
    return read_rows(Path(run_path) / METRICS, "epoch")


def find_runs(base: Path) -> list[RunInfo]:
    """All runs directly below `base`, oldest first; directories without a readable manifest are no runs."""
    runs = []
    for path in Path(base).iterdir() if Path(base).is_dir() else ():
        try:
            runs.append(read_run(path))
        except RunError as error:
            logger.debug("skipped %s: %s", path, error)
    return sorted(runs, key=age)


def age(run: RunInfo) -> tuple[str, str]:
    """Sort key of runs, oldest first."""
    return str(run.manifest.get("created", "")), run.path.name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _make_run_directory(base: Path, name: str) -> Path:
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
    stem = f"{name}_{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}"
    path, n = base / stem, 1
    while True:
        try:
            with writing(path):
                path.mkdir()
            break
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
            n += 1
            path = base / f"{stem}_{n}"
    just_made(path)
    sync(base)
    return path


def _acquire(path: Path) -> Lock:
    """Lock a run directory until the lock's release or the end of the process, however it ends."""
    try:
        return acquire(path / LOCK)
    except BusyError as error:
        message = (
            f"run directory {path} is in use by a running process ({error.holder}): wait for it, or stop it"
        )
        raise RunBusyError(message) from None


def read_run(path: Path) -> RunInfo:
    """The run in directory `path`. Raises RunError if there is none."""
    manifest = _read_object(path, MANIFEST)
    return RunInfo(path, manifest, _read_object(path, f"{manifest.get('prefix', '')}{CONFIG}"))


def _read_object(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((path / name).read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not JSON ({error})"
        raise RunError(f"{path} is not a run directory: {name}: {why}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a run directory: {name} does not hold an object")
    return content


def checkpoint_name(epoch: int) -> str:
    """The file name of the checkpoint after `epoch`."""
    return f"epoch_{epoch:06d}.pt"


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The dict in a checkpoint file, read with weights_only=True.

    Raises CheckpointError if the file is missing, damaged (every checksum in it is verified) or no such
    checkpoint; the message about a run's checkpoint names the older one to use.
    """
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        others = ", ".join(p.name for p in checkpoints_in(path.parent))
        raise CheckpointError(f"no checkpoint {path}" + (f"; its folder holds: {others}" if others else ""))
    if damage := archive_damage(path):
        raise CheckpointError(f"corrupt checkpoint {path}: {damage}{_older_hint(path)}")
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} {describe_load_error(error)}") from None
    except Exception as error:  # torch answers what it cannot read with errors of many kinds
        reason = describe_load_error(error)
        if "PytorchStreamReader" in reason:
            raise CheckpointError(f"corrupt checkpoint {path}: {reason}{_older_hint(path)}") from None
        raise CheckpointError(f"{path} cannot be loaded: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is no checkpoint: it holds a {type(state).__name__}, not a dict")
    return state


@contextmanager
def fitting(path: Path, is_over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint's content is taken over into an error about its file.

    is_over: whether it has been taken over, and later errors in the block are not the file's.
    """
    try:
        yield
    except KeyError as error:
        if is_over():
            raise
        raise CheckpointError(f"{path} is no checkpoint to go on from: it has no {error}") from error
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        if is_over():
            raise
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise CheckpointError(f"{path} does not fit this run: {reason}") from error


def check_optimizer(optimizer: Any) -> None:
    """Raises ValueError: what a torch optimizer has loaded is not of the shapes of its weights."""
    for group in optimizer.param_groups:
        for number, parameter in enumerate(group["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                shape, wanted = list(getattr(value, "shape", [])), list(parameter.shape)
                if name.startswith("exp_avg") and "_sq_" not in name and shape != wanted:
                    raise ValueError(
                        f"the optimizer's {name} of weight {number} is {shape}, must be {wanted}"
                    )


def checkpoints_in(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest epoch first."""
    matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in directory.glob("epoch_*.pt")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def archive_damage(path: Path) -> str | None:
    """What is wrong with an archive that torch.save wrote (torch.load does not verify its checksums)."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
        except Exception as error:  # zipfile answers damage with errors of many kinds.
            return f"cut off, overwritten, or not written by torch.save ({size} bytes; {error})"
    return None if bad is None else f"wrong checksum of {bad}"


def _older_hint(path: Path) -> str:
    """What to do about the damaged checkpoint `path`, if it is one of a run's."""
    siblings = checkpoints_in(path.parent)
    if path not in siblings:
        return ""
    older = siblings[: siblings.index(path)]
    intact = next((p for p in reversed(older) if archive_damage(p) is None), None)
    if intact is None:
        return ". There is no intact older checkpoint beside it: run that experiment anew"
    return f". {intact} is older and intact: delete the corrupt file to continue from there"
