"""The rewards in an extraction's .pt file, of a clone's rl4lms_extract_samples_from_model_runner.py."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.columns import as_text
from rft_diagnose.errors import DiagnosisError, listed, needed_for
from rft_diagnose.excerpts import Keep, Texts
from rft_diagnose.groups import Floats, Ints
from rft_diagnose.names import Columns, unknown
from rft_diagnose.reading import RewardTable
from rft_diagnose.sources import broken_text, first_broken
from rft_diagnose.texts import warn_of_equal_texts

KEYS = ("all_metric_values", "ids", "prompts", "references")


def read_extraction(path: Path, columns: Columns) -> RewardTable:
    """Read an extraction's rewards, first metric or those asked for. Raises DiagnosisError: it is none."""
    content = _load(path)
    values = _read_metrics(path, content["all_metric_values"])
    # The first metric is the reward, as everywhere in this repository.
    names = columns.rewards or tuple(values)[:1]
    for name in names:
        if name not in values:
            raise DiagnosisError(f"{path}: {unknown('reward', name, values)}")
    if columns.kl is not None:
        raise DiagnosisError(f"{path}: an extraction has no column {columns.kl!r} (--kl): give --reference")
    inputs, each = values[names[0]].shape
    for key in ("ids", "prompts", "references"):
        if not isinstance(content[key], list) or len(content[key]) != inputs:
            raise _malformed(path, f"{key!r} is not a list of a value for each of the {inputs:,} inputs")
    labels, prompts = [as_text(i) for i in content["ids"]], [as_text(text) for text in content["prompts"]]
    if len(set(labels)) < len(labels):
        raise _malformed(path, "its ids are not those of different inputs")
    references = [[as_text(text) for text in as_list(texts)] for texts in content["references"]]
    for texts in (labels, prompts, *references):
        if (wrong := first_broken(texts)) is not None:
            raise DiagnosisError(f"{path}: a text {broken_text(texts[wrong])}")
    return RewardTable(
        codes=np.repeat(np.arange(inputs), each),
        labels=labels,
        rewards={name: values[name].ravel() for name in names},
        prompts=prompts,
        references=references,
        texts=_texts(path, content, inputs, each),
        warnings=_warnings(content.get("all_generated_texts"), inputs, each),
    )


def _texts(path: Path, content: Mapping[str, Any], inputs: int, each: int) -> Texts:
    """Tell how the texts are read that the rewards are of."""
    if not _are_texts(content.get("all_generated_texts"), inputs, each):
        return Texts(reason="the extraction has none of them")

    def read(rows: Ints, keep: Keep) -> None:
        again: Any = _load(path).get("all_generated_texts")
        if not _are_texts(again, inputs, each):
            raise DiagnosisError(f"{path} has changed since its rewards were read")
        for row in rows.tolist():
            keep(row, as_text(as_list(again[row // each])[row % each]))

    return Texts(read)


def _are_texts(texts: Any, inputs: int, each: int) -> bool:
    """Tell whether these are texts [inputs][generations]."""
    return isinstance(texts, list) and [len(as_list(row)) for row in texts] == [each] * inputs


def _warnings(texts: Any, inputs: int, each: int) -> tuple[str, ...]:
    """Say of how many inputs all texts are the same; texts: [inputs][generations], if they are known."""
    if not _are_texts(texts, inputs, each):
        return ()
    hashes = np.array([hash(as_text(text)) for row in texts for text in as_list(row)], dtype=np.int64)
    warning = warn_of_equal_texts(np.repeat(np.arange(inputs), each), hashes, None)
    return () if warning is None else (warning,)


def check_is_extraction(path: Path, otherwise: str) -> None:
    """Raises DiagnosisError: the path is not of an extraction's file; otherwise: what is wrong then."""
    if path.suffix != ".pt":
        raise DiagnosisError(f"{path}: {otherwise}")


def find_extraction(path: Path) -> Path:
    """Find the .pt file of an extraction by its own path, its run directory's or its folder's.

    Raises DiagnosisError: there is none, or several.
    """
    if not path.is_dir():
        if not path.is_file():
            raise DiagnosisError(f"{path}: no such file")
        if path.suffix != ".pt":
            raise DiagnosisError(f"{path} is no extraction's .pt file, which has the texts")
        return path
    beside = path.with_name(f"{path.name}.pt")
    files = [beside] if beside.is_file() else sorted(path.glob("*.pt"))
    if len(files) != 1:
        what = f"several: {listed(file.name for file in files)}" if files else "none"
        raise DiagnosisError(f"{path}: name the .pt file of one extraction; in this folder there are {what}")
    return files[0]


def as_list(value: Any) -> list[Any]:
    """List the texts in a field that holds several or one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _load(path: Path) -> Mapping[str, Any]:
    with needed_for(f"{path}: an extraction's .pt file"):
        import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise _malformed(path, "it holds more than numbers and texts, and could run code") from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _malformed(path, reason) from error
    if not isinstance(content, Mapping):
        raise _malformed(path, f"it holds {type(content).__name__}")
    if missing := [key for key in KEYS if key not in content]:
        raise _malformed(path, f"it lacks {', '.join(missing)}")
    return content


def _read_metrics(path: Path, content: Any) -> dict[str, Floats]:
    """Read the rewards [inputs, generations] of each metric. Raises DiagnosisError."""
    import torch

    if not isinstance(content, Mapping) or not content:
        raise _malformed(path, "'all_metric_values' holds no metric")
    values: dict[str, Floats] = {}
    for name, rewards in content.items():
        if not isinstance(rewards, torch.Tensor) or rewards.is_complex() or rewards.ndim != 2:
            raise _malformed(path, f"metric {name!r} is no tensor of numbers [inputs, generations]")
        values[str(name)] = rewards.detach().to_dense().double().numpy()
        if np.isinf(values[str(name)]).any():
            raise _malformed(path, f"metric {name!r} is infinite somewhere")
    if len({rewards.shape for rewards in values.values()}) > 1:
        raise _malformed(path, "its metrics are of different shapes")
    return values


def _malformed(path: Path, reason: str) -> DiagnosisError:
    return DiagnosisError(f"{path} cannot be read as an extraction file: {reason}")
