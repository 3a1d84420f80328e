"""Which run directory is an experiment's: found by what decides its numbers."""

from __future__ import annotations

from pathlib import Path

from common.identity import content_digest, hash_of
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
    return hash_of([fields, experiment.repetition, [content_digest(path) for path in files]])
