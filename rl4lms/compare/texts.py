"""The texts that are compared: read from their files, and put side by side prompt by prompt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rl4lms.compare.outcomes import Floats
from rl4lms.compare.sources import CompareError, Source
from rl4lms.samples import Sample
from rl4lms.teacher import read_texts

Key = tuple[str, int]  # a prompt, and how many prompts before it are the same


@dataclass(frozen=True)
class ModelTexts:
    """G texts of a model for each of N prompts.

    split: of the dataset, as far as the file tells. saved: values [N, G] of metrics saved with the texts.
    """

    label: str
    split: str | None
    ids: list[str]
    prompts: list[str]
    references: list[list[str]]
    texts: list[list[str]]
    saved: dict[str, Floats]


@dataclass(frozen=True)
class Texts:
    """Texts of M models for the same N prompts. meta: what the dataset has besides, of each prompt."""

    labels: list[str]
    splits: list[str]
    ids: list[str]
    prompts: list[str]
    references: list[list[str]]
    meta: list[dict[str, Any]]
    texts: list[list[list[str]]]
    saved: list[dict[str, Floats]]


def read_model(source: Source) -> ModelTexts:
    """Read the texts in a source's file. Raises CompareError, CheckpointError: it has none."""
    path = Path(source.name)
    return (
        _read_extraction(path, source.label)
        if path.suffix == ".pt"
        else _read_predictions(path, source.label)
    )


def _read_extraction(path: Path, label: str) -> ModelTexts:
    sampled = read_texts(path)
    return ModelTexts(
        label, sampled.split, sampled.ids, sampled.prompts, sampled.references, sampled.texts, sampled.gold
    )


def _read_predictions(path: Path, label: str) -> ModelTexts:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(rows, list) or not rows:
        raise CompareError(
            f"{path} is no file of saved predictions: expected a list of objects, one a prompt"
        )
    for number, row in enumerate(rows):
        texts = [row.get(name) for name in ("prompt", "generated_text")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise CompareError(
                f"{path} is no file of saved predictions: object {number} lacks the texts prompt and "
                "generated_text"
            )
    metrics = [row.get("metrics") or {} for row in rows]
    names = [name for name in metrics[0] if all(name in values for values in metrics)]
    return ModelTexts(
        label=label,
        split=rows[0].get("split"),
        ids=[str(row.get("sample_id", number)) for number, row in enumerate(rows)],
        prompts=[row["prompt"] for row in rows],
        references=[row.get("references") or [] for row in rows],
        texts=[[row["generated_text"]] for row in rows],
        saved={name: np.array([[values[name]] for values in metrics], dtype=np.float64) for name in names},
    )


def align(models: Sequence[ModelTexts], samples: Sequence[Sample] = ()) -> Texts:
    """Put the texts of all models in the order of the first one's prompts.

    samples: of the dataset, whose meta data go with their prompts. Raises CompareError: not the same prompts.
    """
    first, *others = models
    keys = _keys(first.prompts)
    for other in others:
        _check_same(first, keys, other)
    ordered = [first, *(_reordered(other, keys) for other in others)]
    meta = dict(
        zip(_keys([s.prompt_or_input_text for s in samples]), (s.meta_data for s in samples), strict=True)
    )
    splits = dict.fromkeys(model.split for model in models if model.split)
    return Texts(
        labels=[model.label for model in models],
        splits=list(splits),
        ids=first.ids,
        prompts=first.prompts,
        references=first.references,
        meta=[dict(meta.get(key, {})) for key in keys],
        texts=[model.texts for model in ordered],
        saved=[model.saved for model in ordered],
    )


def common_metric(texts: Texts) -> str | None:
    """Find the first metric that was saved with the texts of all models."""
    return next((name for name in texts.saved[0] if all(name in saved for saved in texts.saved)), None)


def _keys(prompts: Sequence[str]) -> list[Key]:
    seen: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        keys.append((prompt, seen[prompt]))
        seen[prompt] += 1
    return keys


def _check_same(first: ModelTexts, keys: Sequence[Key], other: ModelTexts) -> None:
    theirs = _keys(other.prompts)
    known, known_there = set(keys), set(theirs)
    if known == known_there:
        return
    parts = [
        _describe_lack(first, [i for i, key in enumerate(keys) if key not in known_there]),
        _describe_lack(other, [i for i, key in enumerate(theirs) if key not in known]),
    ]
    raise CompareError(
        f"{first.label} and {other.label} have texts for different prompts: "
        f"{' and '.join(filter(None, parts))}; compare texts for the same split and number of prompts"
    )


def _describe_lack(model: ModelTexts, only: Sequence[int]) -> str:
    if not only:
        return ""
    prompt = model.prompts[only[0]]
    return f"{len(only):,} of {len(model.prompts):,} only of {model.label} (such as {prompt!r:.60})"


def _reordered(model: ModelTexts, keys: Sequence[Key]) -> ModelTexts:
    places: Mapping[Key, int] = {key: i for i, key in enumerate(_keys(model.prompts))}
    order = [places[key] for key in keys]
    saved = {name: values[order] for name, values in model.saved.items()}
    return replace(model, texts=[model.texts[i] for i in order], saved=saved)
