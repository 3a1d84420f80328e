"""Tables of rewards that somebody has: rows of any library, or an extraction's .pt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rft_diagnose.diagnose import Diagnosis, diagnose
from rft_diagnose.errors import DiagnosisError, hint, needed_for
from rft_diagnose.formats import (
    FORMATS,
    ROW_FORMATS,
    Column,
    Encoded,
    encode,
    file_format,
    numbers,
    read_columns,
    values_at,
)
from rft_diagnose.groups import Floats, Ints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A reward to diagnose: the weighted sum of some columns, less kl_coef x KL (None: no penalty)."""

    name: str
    weights: dict[str, float]
    kl_coef: float | None = None

    def values(self, columns: Mapping[str, Floats]) -> Floats:
        """Add up the columns [M] by weight; a column that is missing adds nothing, all missing give NaN."""
        return weighted_sum([columns[name] for name in self.weights], list(self.weights.values()))


def targets(names: Sequence[str], weights: Sequence[float] | None, kl_coef: float | None) -> list[Target]:
    """List what is optimised, then the sum without penalty, then each reward. Raises DiagnosisError."""
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise DiagnosisError(f"{len(weights)} weights for {len(names)} rewards: {', '.join(names)}")
    terms = [name if w == 1 else f"{w:g} {name}" for name, w in zip(names, weights, strict=True)]
    weight = dict(zip(names, weights, strict=True))
    results = [Target(" + ".join(terms), weight)]
    if kl_coef is not None:
        results.insert(0, Target(f"{results[0].name} - {kl_coef:g} KL", weight, kl_coef))
    return results + [Target(name, {name: 1.0}) for name in names if name != results[-1].name]


def diagnose_table(
    table: RewardTable,
    weights: Sequence[float] | None = None,
    kl_coef: float | None = None,
    reward_range: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[str, Diagnosis]:
    """Diagnose each of the `targets`: name -> diagnosis, in their order.

    weights: of the rewards (1 each); reward_range: of their sum; settings: the others of `diagnose`. A part
    that cannot be diagnosed alone is left out with a warning. Raises DiagnosisError.
    """
    if kl_coef is not None and table.kl is None:
        raise DiagnosisError("a KL coefficient needs the KL of each generation")
    wanted = targets(list(table.rewards), weights, kl_coef)
    results: dict[str, Diagnosis] = {}
    for target in wanted:
        is_sum = target.weights == wanted[0].weights
        try:
            results[target.name] = diagnose(
                target.values(table.rewards),
                table.codes,
                steps=table.steps,
                reward_range=reward_range if is_sum else None,
                kl=None if target.kl_coef is None else table.kl,
                kl_coef=target.kl_coef or 0.0,
                **settings,
            )
        except DiagnosisError as error:
            if not results:
                raise
            logger.warning("%s alone: %s", target.name, error)
    return results


def weighted_sum(columns: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Add up rewards [M] each by weight; one that is missing adds nothing, all missing give NaN."""
    stacked = np.stack(columns) * np.array(weights)[:, None]
    return np.where(np.isnan(stacked).all(0), np.nan, np.nansum(stacked, 0))


OWN_LOG = "*rollout_rewards.jsonl"  # of a training run here, which has other tables beside it
TRL_COLUMNS = {"step", "prompt", "completion", "advantage"}  # of TRL's logged completions, beside the rewards


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None or empty: found by itself, or not there."""

    prompt: str | None = None
    rewards: tuple[str, ...] = ()
    step: str | None = None
    kl: str | None = None
    references: str | None = None


@dataclass(frozen=True)
class RewardTable:
    """M generations of N inputs.

    codes: [M], each one's input; labels, prompts, references: of the N inputs (None: not known); rewards:
    name -> [M], NaN = missing; steps, kl: [M] or None; notes: what was chosen without being asked.
    """

    codes: Ints
    labels: list[str]
    rewards: dict[str, Floats]
    prompts: list[str] | None = None
    references: list[list[str]] | None = None
    steps: Ints | None = None
    kl: Floats | None = None
    notes: tuple[str, ...] = ()


def read_rewards(paths: Sequence[Path], columns: Columns) -> RewardTable:
    """Read the rewards in files, or in all tables of a folder. Raises DiagnosisError: they cannot be used."""
    files = [file for path in paths for file in _files(path)]
    extractions = [file for file in files if file.suffix == ".pt"]
    if not extractions:
        return _read_tables(files, columns)
    if len(files) > 1:
        raise DiagnosisError(f"{extractions[0]}: one extraction at a time, and no other file beside it")
    return _read_extraction(files[0], columns)


def _files(path: Path) -> list[Path]:
    """List the tables in a folder, or the path itself. Raises DiagnosisError: there is none."""
    if path.is_dir():
        # JSON of one object and arrays stand beside tables for other reasons: they are read by name alone.
        files = sorted(path.glob(OWN_LOG)) or sorted(
            f for f in path.iterdir() if file_format(f) in ROW_FORMATS
        )
        if not files:
            raise DiagnosisError(f"{path}: no table in this folder ({', '.join(ROW_FORMATS)})")
        return files
    if not path.is_file():
        raise DiagnosisError(f"{path}: no such file")
    if file_format(path) not in (*FORMATS, ".pt"):
        raise DiagnosisError(f"{path}: expected one of {', '.join(FORMATS)}, or an extraction's .pt file")
    return [path]


def _read_extraction(path: Path, columns: Columns) -> RewardTable:
    with needed_for(f"{path}: an extraction's .pt file"):
        import torch

    try:
        content = torch.load(path, weights_only=True)
        values = {name: tensor.double().numpy() for name, tensor in content["all_metric_values"].items()}
        ids, prompts, references = (content[key] for key in ("ids", "prompts", "references"))
    except Exception as error:
        raise DiagnosisError(f"{path} cannot be read as an extraction file: {error}") from error
    # The first metric is the reward, as everywhere in this repository.
    names = columns.rewards or tuple(values)[:1]
    for name in names:
        if name not in values:
            raise DiagnosisError(f"{path}: {_unknown('reward', name, values)}")
    if columns.kl is not None:
        raise DiagnosisError(f"{path}: an extraction has no column {columns.kl!r} (--kl): give --reference")
    inputs, each = values[names[0]].shape
    return RewardTable(
        codes=np.repeat(np.arange(inputs), each),
        labels=[str(i) for i in ids],
        rewards={name: values[name].ravel() for name in names},
        prompts=list(prompts),
        references=[list(texts) for texts in references],
    )


def _read_tables(files: Sequence[Path], asked: Columns) -> RewardTable:
    parts = [_read_table(file, asked) for file in files]
    _, chosen, notes = parts[-1]
    rewards = list(dict.fromkeys(name for _, columns, _ in parts for name in columns.rewards))
    where = [str(file) for file in files]
    columns = [part for part, _, _ in parts]
    prompts = [_texts(part, str(chosen.prompt), file) for part, file in zip(columns, where, strict=True)]
    codes, labels = _joined(prompts)
    if not len(codes):
        raise DiagnosisError(f"{files[0]}: no rows")
    sizes = [len(part.codes) for part in prompts]
    references = None
    if chosen.references:
        references = [_as_list(value) for value in _first_values(columns, chosen.references, codes, sizes)]
    steps = None
    if chosen.step:
        steps = _numbers(columns, chosen.step, where, sizes)
        if np.isnan(steps).any():
            file, row = _place(int(np.isnan(steps).argmax()), where, sizes)
            raise DiagnosisError(f"{file}: no {chosen.step!r} in row {row:,}")
    return RewardTable(
        codes=codes,
        labels=labels,
        rewards={name: _numbers(columns, name, where, sizes) for name in rewards},
        prompts=labels if chosen.prompt == "prompt" else None,
        references=references,
        steps=None if steps is None else steps.astype(np.int64),
        kl=_numbers(columns, chosen.kl, where, sizes) if chosen.kl else None,
        notes=notes,
    )


def _read_table(path: Path, asked: Columns) -> tuple[dict[str, Column], Columns, tuple[str, ...]]:
    """Read the needed columns of one file; give their names, and what was chosen unasked."""
    chosen: Columns = asked
    notes: tuple[str, ...] = ()

    def choose(names: list[str], holds_numbers: Callable[[str], bool]) -> list[str]:
        nonlocal chosen, notes
        chosen, notes = choose_columns(names, holds_numbers, asked, path)
        every = [chosen.prompt, *chosen.rewards, chosen.step, chosen.kl, chosen.references]
        return list(dict.fromkeys(name for name in every if name is not None))

    return read_columns(path, choose), chosen, notes


def choose_columns(
    names: Sequence[str], holds_numbers: Callable[[str], bool], asked: Columns, path: Path
) -> tuple[Columns, tuple[str, ...]]:
    """Choose columns: those asked for, else by their usual names; say what the reader should know.

    Raises DiagnosisError that names what is missing and what there is.
    """
    for what, name in [
        ("prompt", asked.prompt),
        *(("reward", name) for name in asked.rewards),
        ("step", asked.step),
        ("kl", asked.kl),
        ("references", asked.references),
    ]:
        if name is not None and name not in names:
            raise DiagnosisError(f"{path}: {_unknown(what, name, names)}")
    chosen, notes = asked, []
    if chosen.prompt is None:
        prompt = next((name for name in ("prompt_id", "prompt") if name in names), None)
        if prompt is None:
            raise DiagnosisError(
                f"{path}: which column names the input? give it with --prompt; there are: {', '.join(names)}"
            )
        chosen = replace(chosen, prompt=prompt)
    if not chosen.rewards:
        rewards = ["reward"] if "reward" in names else []
        if names and set(names) >= TRL_COLUMNS:
            rewards = [name for name in names if name not in TRL_COLUMNS and holds_numbers(name)]
            notes.append(f"recognised as completions logged by TRL, with the rewards {', '.join(rewards)}")
        if not rewards:
            raise DiagnosisError(
                f"{path}: which column is the reward? give it with --reward; there are: {', '.join(names)}"
            )
        chosen = replace(chosen, rewards=tuple(rewards))
    if chosen.step is None:
        chosen = replace(chosen, step=next((name for name in ("step", "global_step") if name in names), None))
    return chosen, tuple(notes)


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"no column {name!r} (--{what}); {hint(name, names)}there are: {', '.join(names)}"


def _texts(part: Mapping[str, Column], name: str, where: str) -> Encoded:
    """Read the inputs' names in one file. Raises DiagnosisError: one is missing."""
    texts = encode(part[name]) if name in part else Encoded(np.full(1, -1), [])
    if (texts.codes < 0).any():
        raise DiagnosisError(f"{where}: no {name!r} in row {int((texts.codes < 0).argmax()) + 1:,}")
    return texts


def _joined(parts: Sequence[Encoded]) -> tuple[Ints, list[str]]:
    """Join codes and texts of all files; a text has one code."""
    places: dict[str, int] = {}
    codes = []
    for part in parts:
        known = np.array([places.setdefault(text, len(places)) for text in part.texts], dtype=np.int64)
        codes.append(known[part.codes])
    return np.concatenate(codes), list(places)


def _numbers(
    parts: Sequence[Mapping[str, Column]], name: str, where: Sequence[str], sizes: Sequence[int]
) -> Floats:
    """Read a column of all files as numbers [M], NaN: missing. Raises DiagnosisError naming what is none."""
    columns: list[Floats] = []
    for part, file, size in zip(parts, where, sizes, strict=True):
        try:
            columns.append(numbers(part[name], name, file) if name in part else np.full(size, np.nan))
        except DiagnosisError as error:
            if columns:
                raise DiagnosisError(f"the files' columns do not fit together: {error}") from error
            raise
    values = np.concatenate(columns)
    if np.isinf(values).any():
        file, row = _place(int(np.isinf(values).argmax()), where, sizes)
        raise DiagnosisError(f"{file}: {name!r} is infinite in row {row:,}")
    return values


def _place(row: int, where: Sequence[str], sizes: Sequence[int]) -> tuple[str, int]:
    """Find the file of a row of all files (from 0), and its number there (from 1)."""
    ends = np.cumsum(sizes)
    file = int(np.searchsorted(ends, row, side="right"))
    return where[file], row - int(ends[file]) + sizes[file] + 1


def _first_values(
    parts: Sequence[Mapping[str, Column]], name: str, codes: Ints, sizes: Sequence[int]
) -> list[Any]:
    """Look up the value of a column in the first row of each input."""
    _, first = np.unique(codes, return_index=True)
    values: list[Any] = [None] * len(first)
    for part, end, size in zip(parts, np.cumsum(sizes), sizes, strict=True):
        inside = np.flatnonzero((first >= end - size) & (first < end))
        for i, value in zip(inside, values_at(part[name], first[inside] - (end - size)), strict=True):
            values[i] = value
    return values


def _as_list(value: Any) -> list[str]:
    """List the expected texts in a field that holds one or several, or none."""
    if value is None or value != value:  # NaN is missing, too
        return []
    return [str(text) for text in value] if isinstance(value, list) else [str(value)]
