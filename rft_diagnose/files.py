"""The files of a diagnosis: tables in a folder, or in the folders of its steps; steps in the files' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.formats import FORMATS, ROW_FORMATS, file_format, is_pipe

OWN_LOG = "*rollout_rewards.jsonl"  # of a training run here, which has other tables beside it
TRL_LOG = "completions/completions_*.parquet"  # in a trainer's output_dir, among checkpoints and other logs
DEEPEST = 3  # folders below the given one
STEP_FOLDERS = 2  # above a file, in whose names its step is looked for
_EVALUATION = "val|valid|validation|eval|evals|evaluation|dev|test"
EVALUATION = re.compile(rf"(^|[^a-z])({_EVALUATION})([^a-z]|$)", re.IGNORECASE)
COUNTED = (  # the finest first
    *("step", "steps", "iteration", "iter", "update", "checkpoint", "ckpt", "completions", "epoch"),
)
STEP = re.compile(
    rf"(?:^|[^a-z])({'|'.join(sorted(COUNTED, reverse=True))})[^a-z0-9]*(\d+)(?![a-z0-9])", re.IGNORECASE
)
# A number, the word before it, and what makes it one of several parts.
NUMBER = re.compile(r"([a-z]*)[^a-z0-9]*(\d+)(?=([-_ ]*of[-_ ]*\d)?)", re.IGNORECASE)
PART = re.compile(
    r"part|parts|shard|rank|worker|proc|process|gpu|cuda|device|node|host|chunk|split|seed|replica|thread|job|"
    r"task|fold|model|run|client|actor|server|of|temp|temperature|lr|v|version|dp|tp|pp|local",
    re.IGNORECASE,
)


def list_files(path: Path) -> list[Path]:
    """List the tables in a folder, or the path itself. Raises DiagnosisError: there is none."""
    try:
        return _list_files(path)
    except OSError as error:
        raise DiagnosisError(f"{path} cannot be read: {error.strerror or error}") from error


def _list_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = _tables_in(path)
        if not files:
            raise DiagnosisError(f"{path}: no table in this folder ({', '.join(ROW_FORMATS)})")
        return files
    if is_pipe(path):
        return [path]
    if not path.is_file():
        problem = "neither a file nor a pipe" if path.exists() else "no such file"
        raise DiagnosisError(f"{path}: {problem}")
    if file_format(path) not in (*FORMATS, ".pt"):
        raise DiagnosisError(f"{path}: expected one of {', '.join(FORMATS)}, or an extraction's .pt file")
    return [path]


def _tables_in(folder: Path) -> list[Path]:
    """List its tables, and those in folders named after a step; without any, those in all folders below.

    JSON, arrays and extractions often stand beside tables for other reasons: they count where there are none.
    """
    for log in (OWN_LOG, TRL_LOG):
        if logs := sorted(folder.glob(log)):
            return logs
    every = [
        path
        for depth in range(DEEPEST + 1)
        for path in sorted(folder.glob("*/" * depth + "*"))
        if path.is_file() and not any(p.startswith((".", "_")) for p in path.relative_to(folder).parts)
    ]
    tables = [path for path in every if file_format(path) in ROW_FORMATS]
    if not tables:
        others = [path for path in every if path.parent == folder]
        return _extraction(folder, others) or [path for path in others if file_format(path) in FORMATS]
    direct = [path for path in tables if path.parent == folder]
    below = [path for path in tables if path.parent != folder]
    if not direct:
        return below
    return direct + [path for path in below if any(map(STEP.search, path.relative_to(folder).parent.parts))]


def _extraction(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Give the extraction whose run's folder this is, beside it or in it."""
    beside = folder.with_name(f"{folder.name}.pt")
    if beside.is_file():
        return [beside]
    return [path for path in files if path.suffix == ".pt"]


def without_evaluation(folder: Path, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Take apart a folder's tables of training and those of evaluation, by their names, if there are both.

    A path that is no folder has its one file.
    """
    inside = {path: path.relative_to(folder).parts for path in files if path.is_relative_to(folder)}
    evaluation = [path for path, parts in inside.items() if any(map(EVALUATION.search, parts))]
    training = [path for path in files if path not in set(evaluation)]
    return (training, evaluation) if training else (list(files), [])


def steps_in_names(files: Sequence[Path]) -> list[int] | None:
    """Read the step of each file in its name, or in those of its folders; None: they do not tell.

    A name that is a number is that of a step, too, and so is the one number in which names of one form
    differ, but for the numbers of parts ("part-3", "00001-of-00008"). Steps that begin anew in each epoch are
    counted.
    """
    steps = [_step_in(path) for path in files]
    if None in steps:
        steps = _differing_numbers(files)
    known = [step for step in steps if step is not None]
    epochs = [_number_in(path, ("epoch",)) for path in files]
    if None not in epochs and _begin_anew(known, epochs):
        visits = list(zip(epochs, known, strict=True))
        known = [sorted(set(visits)).index(visit) for visit in visits]
    return known if None not in steps and len(set(known)) > 1 else None


def _begin_anew(steps: Sequence[int], epochs: Sequence[int | None]) -> bool:
    return len(set(zip(epochs, steps, strict=True))) > max(len(set(steps)), len(set(epochs)))


def _step_in(path: Path) -> int | None:
    stem = path.name.partition(".")[0]
    return int(stem) if stem.isdecimal() else _number_in(path, COUNTED)


def _number_in(path: Path, words: Sequence[str]) -> int | None:
    """Read the number behind the first of the words that stands in the file's name, or in its folders'."""
    for name in (path.name.partition(".")[0], *(parent.name for parent in list(path.parents)[:STEP_FOLDERS])):
        numbers = {match.group(1).lower(): int(match.group(2)) for match in STEP.finditer(name)}
        for word in words:
            if word in numbers:
                return numbers[word]
    return None


def _differing_numbers(files: Sequence[Path]) -> list[int | None]:
    """Read the number in which the names differ; all None if they differ in more, or it is that of a part."""
    names = [path.name.removesuffix("".join(path.suffixes[-1:])) for path in files]
    if len({re.sub(r"\d+", "0", name) for name in names}) == 1:
        rows = [list(NUMBER.finditer(name)) for name in names]
        columns = [
            [int(match.group(2)) for match in column]
            for column in zip(*rows, strict=True)
            if not PART.fullmatch(column[0].group(1)) and not column[0].group(3)
        ]
        differing = [column for column in columns if len(set(column)) > 1]
        if len(differing) == 1:
            return list(differing[0])
    return [None] * len(files)
