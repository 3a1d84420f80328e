"""Which run directory is an experiment's: found by what decides its numbers, not by its name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

from common.run_dir import CONFIG, LOCK, MANIFEST, RunInfo, find_runs
from sft_vs_rft.config import COSMETIC_FIELDS
from sft_vs_rft.data_source import find_npz
from sft_vs_rft.plan import Experiment
from sft_vs_rft.pretraining import start_checkpoint


def identity(experiment: Experiment) -> str:
    """Hash of all that decides an experiment's numbers: its fields, its repetition and the files it reads."""
    config = experiment.config
    fields = {name: value for name, value in config.model_dump().items() if name not in COSMETIC_FIELDS}
    files = [find_npz(config.data_dir)] if config.dataset == "npz" else []
    if config.load_model_from_checkpoint:
        files.append(start_checkpoint(Path(config.load_model_from_checkpoint)))
    if config.trainer_checkpoint:
        files.append(Path(config.trainer_checkpoint))
    text = json.dumps([fields, experiment.repetition, [_digest(path) for path in files]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stillborn(base: Path) -> None:
    """Delete the folders below `base` of runs that were killed before they had a manifest.

    They hold no more than a config, and nothing will ever open them. A maker that is alive has the lock
    from before it writes its number there.
    """
    for path in base.iterdir() if base.is_dir() else ():
        if not path.is_dir() or (path / MANIFEST).exists():
            continue
        with suppress(FileNotFoundError, BlockingIOError), (path / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = {file.name for file in path.iterdir() if not file.name.startswith(".tmp-")}
            if lock.read() and names <= {LOCK, CONFIG}:
                shutil.rmtree(path)


def earlier_run(experiment: Experiment) -> RunInfo | None:
    """The newest run of the same identity under `outputs_dir`, a finished one first."""
    wanted = identity(experiment)
    runs = [
        run
        for run in find_runs(Path(experiment.config.outputs_dir))
        if run.manifest.get("identity") == wanted
    ]
    runs.sort(key=lambda run: run.manifest.get("status") == "finished")
    return runs[-1] if runs else None
