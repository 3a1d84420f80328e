"""Texts that are made now: an extraction for each model, kept and gone on with by the next comparison."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from common.arguments import this_command
from common.identity import IDENTITY, hash_of, open_or_create
from common.run_dir import RunDir
from common.seeding import derive_seed
from rl4lms.compare.sources import Source
from rl4lms.config import ExtractConfig, resolved
from rl4lms.extract import run_extraction
from rl4lms.teacher import identify

logger = logging.getLogger(__name__)
FOLDER = "texts"  # of the results


def make_texts(sources: Sequence[Source], config: ExtractConfig, folder: Path) -> list[Source] | int:
    """Make the texts of each model among the sources; returns sources of files alone, or an exit status.

    config: of an extraction, whose model is replaced; folder: of the results, where the extractions are kept.
    """
    complete = []
    for source in sources:
        if source.kind == "model":
            made = _make(source, config, folder / FOLDER)
            if isinstance(made, int):
                return made
            source = Source(source.label, "extraction", str(made), source.given)
        complete.append(source)
    return complete


def extraction_of(config: ExtractConfig, model: str, identity: str) -> ExtractConfig:
    """The extraction of a model's texts, with its own tokenizer.

    Each model draws by a seed of its own: with the same random numbers, texts of similar models would be the
    same far more often than chance has it. A choice of prompts without a seed is the same for all.
    """
    pool, seed = config.datapool, derive_seed(config.runtime.seed, "comparison", identity) % 2**32
    if pool.train_samples is not None and pool.seed is None:
        pool = pool.model_copy(update={"train_samples_rnd_seed": 0})
    return config.model_copy(
        update={
            "alg": config.alg.model_copy(update={"model_name": model}),
            "datapool": pool,
            "runtime": config.runtime.model_copy(update={"seed": seed}),
            "tokenizer": config.tokenizer.model_copy(update={"model_name": model}),
        }
    )


def _make(source: Source, config: ExtractConfig, folder: Path) -> Path | int:
    """The .pt file of the model's texts, made before or now, or the exit status of what stopped it."""
    model = identify(source.name)
    extraction = extraction_of(config, source.name, model)
    data = resolved(extraction)
    identity = hash_of([json.loads(json.dumps(data, default=str)), model])
    name = source.label.replace("/", "_")
    fields = {"job": "extraction", IDENTITY: identity}
    run, _ = open_or_create(folder, identity, lambda: RunDir.create(folder, name, data, fields))
    with run:
        file = run.path.with_name(f"{run.path.name}.pt")
        if run.manifest["status"] == "finished" and file.is_file():
            logger.info("%s: texts as they are in %s", source.label, file)
            return file
        result = run_extraction(extraction, run, this_command())
    return result if isinstance(result, int) else result.path
