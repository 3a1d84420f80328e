"""Tables of rewards that somebody has: CSV, JSON lines, parquet of any library, an extraction's .pt."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.config import closest
from rft_diagnose.diagnose import Diagnosis, diagnose
from rft_diagnose.groups import DiagnosisError, Floats, Ints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A reward to diagnose: the weighted sum of some columns, less kl_coef x KL (None: no penalty)."""

    name: str
    weights: dict[str, float]
    kl_coef: float | None = None

    def values(self, columns: Mapping[str, Floats]) -> Floats:
        """The weighted sum [M]; a column that is missing adds nothing, all missing give NaN."""
        return weighted_sum([columns[name] for name in self.weights], list(self.weights.values()))


def targets(names: Sequence[str], weights: Sequence[float] | None, kl_coef: float | None) -> list[Target]:
    """First what is optimised, then the sum without penalty, then each reward. Raises DiagnosisError."""
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise DiagnosisError(f"{len(weights)} weights for {len(names)} rewards: {', '.join(names)}")
    terms = [name if w == 1 else f"{w:g} {name}" for name, w in zip(names, weights, strict=True)]
    of_sum = dict(zip(names, weights, strict=True))
    found = [Target(" + ".join(terms), of_sum)]
    if kl_coef is not None:
        found.insert(0, Target(f"{found[0].name} - {kl_coef:g} KL", of_sum, kl_coef))
    return found + [Target(name, {name: 1.0}) for name in names if name != found[-1].name]


def diagnose_table(
    table: RewardTable,
    weights: Sequence[float] | None = None,
    kl_coef: float | None = None,
    reward_range: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[str, Diagnosis]:
    """Name -> diagnosis of each of the `targets`, in their order.

    weights: of the rewards (1 each); reward_range: of their sum; settings: the others of `diagnose`. A part
    that cannot be diagnosed alone is left out with a warning. Raises DiagnosisError.
    """
    if kl_coef is not None and table.kl is None:
        raise DiagnosisError("a KL coefficient needs the KL of each generation")
    wanted = targets(list(table.rewards), weights, kl_coef)
    found: dict[str, Diagnosis] = {}
    for target in wanted:
        of_sum = target.weights == wanted[0].weights
        try:
            found[target.name] = diagnose(
                target.values(table.rewards),
                table.codes,
                steps=table.steps,
                reward_range=reward_range if of_sum else None,
                kl=None if target.kl_coef is None else table.kl,
                kl_coef=target.kl_coef or 0.0,
                **settings,
            )
        except DiagnosisError as error:
            if not found:
                raise
            logger.warning("%s alone: %s", target.name, error)
    return found


def weighted_sum(columns: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of rewards [M] each; one that is missing adds nothing, all missing give NaN."""
    stacked = np.stack(columns) * np.array(weights)[:, None]
    return np.where(np.isnan(stacked).all(0), np.nan, np.nansum(stacked, 0))


SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
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
    """The rewards in the files, or in all tables of a folder. Raises DiagnosisError: they cannot be used."""
    files = [file for path in paths for file in _files(path)]
    extractions = [file for file in files if file.suffix == ".pt"]
    if not extractions:
        return _read_tables(files, columns)
    if len(files) > 1:
        raise DiagnosisError(f"{extractions[0]}: one extraction at a time, and no other file beside it")
    return _read_extraction(files[0], columns)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob(OWN_LOG)) or sorted(f for f in path.iterdir() if f.suffix in SUFFIXES)
        if not found:
            raise DiagnosisError(f"{path}: no table in this folder ({', '.join(SUFFIXES)})")
        return found
    if not path.is_file():
        raise DiagnosisError(f"{path}: no such file")
    if path.suffix not in (*SUFFIXES, ".pt"):
        raise DiagnosisError(f"{path}: expected one of {', '.join(SUFFIXES)}, or an extraction's .pt file")
    return [path]


def _read_extraction(path: Path, columns: Columns) -> RewardTable:
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
    import pyarrow as pa
    import pyarrow.compute as pc

    parts: list[Any] = []
    found = asked
    notes: tuple[str, ...] = ()
    for file in files:
        table, found, notes = _read_table(file, asked)
        parts.append(table.select(_names(found)))
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise DiagnosisError(f"the files' columns do not fit together: {error}") from error
    if not len(table):
        raise DiagnosisError(f"{files[0]}: no rows")
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and the others"

    prompts = table.column(str(found.prompt))
    if prompts.null_count:
        row = int(np.argmax(prompts.is_null().to_numpy()))
        raise DiagnosisError(f"{where}: no {found.prompt!r} in row {row + 1:,}")
    encoded = (
        prompts if pa.types.is_dictionary(prompts.type) else prompts.dictionary_encode()
    ).unify_dictionaries()
    codes = pc.fill_null(pa.chunked_array([chunk.indices for chunk in encoded.chunks]), -1).to_numpy()
    labels = [str(label) for label in encoded.chunk(0).dictionary.to_pylist()]
    references = None
    if found.references:
        _, first = np.unique(codes, return_index=True)
        texts = table.column(found.references).take(first).to_pylist()
        references = [[text] if isinstance(text, str) else list(text or []) for text in texts]
    steps = _numbers(table.column(found.step), found.step, where) if found.step else None
    if steps is not None and np.isnan(steps).any():
        raise DiagnosisError(f"{where}: no {found.step!r} in row {int(np.isnan(steps).argmax()) + 1:,}")
    return RewardTable(
        codes=codes.astype(np.int64),
        labels=labels,
        rewards={name: _numbers(table.column(name), name, where) for name in found.rewards},
        prompts=labels if found.prompt == "prompt" else None,
        references=references,
        steps=None if steps is None else steps.astype(np.int64),
        kl=_numbers(table.column(found.kl), found.kl, where) if found.kl else None,
        notes=notes,
    )


def _read_table(path: Path, asked: Columns) -> tuple[Any, Columns, tuple[str, ...]]:
    """The needed columns of one file as an Arrow table, their names, and what was chosen unasked."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            schema = pa.parquet.read_schema(path)
            found, notes = choose_columns(schema, asked, path)
            texts = pa.types.is_string(schema.field(found.prompt).type)
            # A prompt is stored once and referred to, so that long ones are not copied for each generation.
            table = pa.parquet.read_table(
                path, columns=_names(found), read_dictionary=[found.prompt] if texts else None
            )
        elif path.suffix == ".csv":
            parse = pa.csv.ParseOptions(newlines_in_values=True)
            with pa.csv.open_csv(path, parse_options=parse) as reader:
                found, notes = choose_columns(reader.schema, asked, path)
            types = pa.csv.ConvertOptions(
                include_columns=_names(found), column_types={found.prompt: pa.string()}
            )
            table = pa.csv.read_csv(path, parse_options=parse, convert_options=types)
        else:
            table = _json_table(path)
            if not len(table):
                raise DiagnosisError(f"{path}: no rows")
            found, notes = choose_columns(table.schema, asked, path)
    except (pa.ArrowException, OSError) as error:
        raise DiagnosisError(f"{path} cannot be read: {error}") from error
    column = table.column(found.prompt)
    if pa.types.is_nested(column.type):  # a conversation: a list of messages
        texts = pa.array(
            [None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()]
        )
        table = table.set_column(table.schema.get_field_index(found.prompt), found.prompt, texts)
    return table, found, notes


def _json_table(path: Path) -> Any:
    """JSON lines as an Arrow table; Python's reader, since Arrow's knows no NaN."""
    import pyarrow as pa

    from common.hub import DataError
    from rl4lms.datapools.sources import json_lines

    try:
        with path.open("rb") as lines:
            rows = [row for _, row in json_lines(lines, str(path))]
    except DataError as error:
        raise DiagnosisError(str(error)) from error
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # mixed: as text, so that the odd one can be named
            columns[name] = pa.array(
                [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            )
    return pa.table(columns)


def choose_columns(schema: Any, asked: Columns, path: Path) -> tuple[Columns, tuple[str, ...]]:
    """The columns to read: those asked for, else by their usual names, and what the reader should know.

    Raises DiagnosisError that names what is missing and what there is.
    """
    import pyarrow as pa

    names = list(schema.names)
    for what, name in [
        ("prompt", asked.prompt),
        *(("reward", name) for name in asked.rewards),
        ("step", asked.step),
        ("kl", asked.kl),
        ("references", asked.references),
    ]:
        if name is not None and name not in names:
            raise DiagnosisError(f"{path}: {_unknown(what, name, names)}")
    found, notes = asked, []
    if found.prompt is None:
        prompt = next((name for name in ("prompt_id", "prompt") if name in names), None)
        if prompt is None:
            raise DiagnosisError(
                f"{path}: which column names the input? give it with --prompt; there are: {', '.join(names)}"
            )
        found = replace(found, prompt=prompt)
    if not found.rewards:
        rewards = ["reward"] if "reward" in names else []
        if names and set(names) >= TRL_COLUMNS:
            rewards = [
                field.name
                for field in schema
                if field.name not in TRL_COLUMNS
                and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
            ]
            notes.append(f"recognised as completions logged by TRL, with the rewards {', '.join(rewards)}")
        if not rewards:
            raise DiagnosisError(
                f"{path}: which column is the reward? give it with --reward; there are: {', '.join(names)}"
            )
        found = replace(found, rewards=tuple(rewards))
    if found.step is None:
        found = replace(found, step=next((name for name in ("step", "global_step") if name in names), None))
    return found, tuple(notes)


def _names(columns: Columns) -> list[str]:
    every = [columns.prompt, *columns.rewards, columns.step, columns.kl, columns.references]
    return list(dict.fromkeys(name for name in every if name is not None))


def _unknown(what: str, name: str, names: Iterable[str]) -> str:
    meant = closest(name, names)
    hint = f"did you mean {meant!r}? " if meant else ""
    return f"no column {name!r} (--{what}); {hint}there are: {', '.join(names)}"


def _numbers(column: Any, name: str, where: str) -> Floats:
    """A column as numbers, missing ones NaN. Raises DiagnosisError naming the first that is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_nested(column.type):
            raise DiagnosisError(f"{where}: {name!r} must hold numbers, holds {column.type}")
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        numbers: Floats = pc.cast(column, pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row, value = next(
            ((i, v) for i, v in enumerate(column.to_pylist()) if v is not None and not _is_number(v)),
            (0, column[0].as_py()),
        )
        raise DiagnosisError(
            f"{where}: {name!r} must hold numbers, row {row + 1:,} holds {value!r:.60}"
        ) from error
    if np.isinf(numbers).any():
        raise DiagnosisError(f"{where}: {name!r} is infinite in row {int(np.isinf(numbers).argmax()) + 1:,}")
    return numbers


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
