"""The files of a diagnosis: tables in a folder, or in the folders of its steps; steps in the files' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rft_diagnose.errors import DiagnosisError
from rft_diagnose.formats import FORMATS, ROW_FORMATS, file_format, is_pipe

OWN_LOG = "*rollout_rewards.jsonl"  # of a training run here, which has other tables beside it
DEEPEST = 2  # folders below the given one
STEP = re.compile(
    r"(?:^|[^a-z])(?:steps?|iter|iteration|epoch|update|checkpoint|ckpt|completions)[^a-z0-9]*(\d+)(?![a-z0-9])",
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
    """List its tables, and those in folders named after a step; without any, those in all folders below."""
    logs = sorted(folder.glob(OWN_LOG))
    if logs:
        return logs
    # JSON of one object and arrays stand beside tables for other reasons: they are read by name alone.
    tables = [
        path
        for depth in range(DEEPEST + 1)
        for path in sorted(folder.glob("*/" * depth + "*"))
        if file_format(path) in ROW_FORMATS
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    direct = [path for path in tables if path.parent == folder]
    below = [path for path in tables if path.parent != folder]
    if not direct:
        return below
    return direct + [path for path in below if any(map(STEP.search, path.relative_to(folder).parent.parts))]


def steps_in_names(files: Sequence[Path]) -> list[int] | None:
    """Read the step of each file in its name, or in those of its folders; None: they do not tell.

    A name that is a number is that of a step, too, but for the numbers of parts ("part-3", "00001-of-00008").
    """
    steps = [_step_in(path) for path in files]
    return [step for step in steps if step is not None] if None not in steps and len(set(steps)) > 1 else None


def _step_in(path: Path) -> int | None:
    stem = path.name.partition(".")[0]
    if stem.isdecimal():
        return int(stem)
    for name in (stem, *(parent.name for parent in list(path.parents)[:DEEPEST])):
        if match := STEP.search(name):
            return int(match.group(1))
    return None
