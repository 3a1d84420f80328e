"""What a diagnosis leaves on disk beside its page: rows per input, and the inputs to finetune on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rft_diagnose.compare import Comparison
from rft_diagnose.diagnose import Diagnosis
from rft_diagnose.errors import DiagnosisError
from rft_diagnose.reading import RewardTable
from rft_diagnose.teacher import Teacher
from rft_diagnose.text_formats import defuse

Table = Mapping[str, NDArray[Any]]  # columns of one length
ROWS_AT_A_TIME = 50_000

# Of an earlier check all go, also those that this one has no use for.
PICTURES = (
    *("mean_and_std", "signal_by_group_size", "std_histogram", "over_time", "before_and_after"),
    *("gradients", "teacher_std", "best_of_n"),
)
RESULTS = (
    *("inputs.csv", "dead_low.jsonl", "keep.jsonl", "control.jsonl", "summary.json"),
    *("report.html", "explorer.html"),
    *(f"{stem}.{suffix}" for stem in PICTURES for suffix in ("png", "pdf", "csv", "json")),
)


@contextmanager
def results_together(folder: Path) -> Iterator[Path]:
    """Give a temporary folder for results in the block; they then take the place of earlier ones in `folder`.

    Either all do, or after an error `folder` is as before. Raises DiagnosisError: it cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    staging: Path | None = None
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".tmp-results-", dir=folder))
        yield staging
        _exchange(staging, folder)
        done = True
    except OSError as error:
        reason = f"{error.strerror or error}{_free_space(folder)}"
        raise DiagnosisError(
            f"{folder} (--output_path) cannot be written: {reason}; what was there is as before"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for path in [] if done else missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _exchange(staging: Path, folder: Path) -> None:
    """Move the new results into the folder and earlier ones out of it; after an error all the way back."""
    new = [path.name for path in staging.iterdir()]
    earlier = staging / "earlier"
    earlier.mkdir()
    moves = [(folder / name, earlier / name) for name in {*RESULTS, *new} if os.path.lexists(folder / name)]
    moves += [(staging / name, folder / name) for name in new]
    moved = []
    try:
        for source, target in moves:
            os.replace(source, target)
            moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            os.replace(target, source)
        raise


def _free_space(folder: Path) -> str:
    """Say how much is free where the folder is, or would be."""
    for path in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            return f", {shutil.disk_usage(path).free / 1e6:,.0f} MB free"
    return ""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, to be written in the block; it then becomes `path` at once."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    write_parts(path, [text])


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """Write texts one after the other to `path` atomically, in UTF-8."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # A path may hold bytes that are no text.
        file.writelines(part.encode("utf-8", "backslashreplace") for part in parts)


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def input_columns(
    table: RewardTable,
    diagnosis: Diagnosis,
    others: dict[str, Diagnosis],
    before: Diagnosis | None,
    comparison: Comparison | None,
    teacher: Teacher | None = None,
) -> dict[str, NDArray[Any]]:
    """Make inputs.csv's columns: label, prompt where it is not the label, and statistics, one row an input.

    Of the other rewards mean, std and class; of the inputs before, where there are some, too; of a reward
    model mean and std of its normalised rewards. What is missing is NaN among numbers and None among texts.
    """
    labels = diagnosis.labels.astype(np.int64)
    columns: dict[str, NDArray[Any]] = {"input": _texts([table.labels[i] for i in labels])}
    if table.prompts is not None and table.prompts is not table.labels:
        columns["prompt"] = _texts([table.prompts[i] for i in labels])
    columns |= diagnosis.inputs.columns()
    columns["noise_groups"] = diagnosis.noise_groups
    for name, other in others.items():
        _, here, there = np.intersect1d(labels, other.labels, assume_unique=True, return_indices=True)
        for key in ("mean", "std", "label"):
            columns[f"{name}: {key}"] = _placed(getattr(other.inputs, key)[there], here, len(labels))
    if teacher is not None:
        columns |= {"normalised_mean": teacher.mean[labels], "normalised_std": teacher.std[labels]}
    if before is not None and comparison is not None:
        for key in ("mean", "std", "label"):
            values = getattr(before.inputs, key)[comparison.before]
            columns[f"{key}_before"] = _placed(values, comparison.after, len(labels))
        columns["change"] = _placed(comparison.change, comparison.after, len(labels))
    return columns


def _texts(values: Sequence[str]) -> NDArray[Any]:
    """Make an array that refers to texts: of fixed width it would take the room of the longest for each."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _placed(values: NDArray[Any], places: NDArray[Any], size: int) -> NDArray[Any]:
    """Put values at places of a column that is missing elsewhere."""
    texts = values.dtype.kind in "UO"
    column = np.full(size, None, dtype=object) if texts else np.full(size, np.nan)
    column[places] = values
    return column


def write_inputs(columns: Table, path: Path) -> None:
    """Write inputs.csv atomically: texts in quotes, whole numbers without a point, missing values empty.

    What a spreadsheet would take for a formula is defused. But for that the bytes are those of Arrow's
    writer, which wrote this file before, so that files can be compared.
    """
    write_parts(path, _csv_lines(columns))


def _csv_lines(columns: Table) -> Iterator[str]:
    """Write header and rows, some rows at a time: as texts they take several times the columns' memory."""
    yield ",".join(map(_quoted, columns)) + "\n"
    size = len(next(iter(columns.values())))
    for start in range(0, size, ROWS_AT_A_TIME):
        cells = [_cells(column[start : start + ROWS_AT_A_TIME]) for column in columns.values()]
        yield from (",".join(row) + "\n" for row in zip(*cells, strict=True))


def _cells(column: NDArray[Any]) -> list[str]:
    """Write a column's values, each different one once."""
    if column.dtype.kind == "O":
        return ["" if value is None else _quoted(value) for value in column]
    if column.dtype.kind == "f":  # by their bits: -0 is not 0
        bits, places = np.unique(column.astype(np.float64).view(np.int64), return_inverse=True)
        values = bits.view(np.float64)
    else:
        values, places = np.unique(column, return_inverse=True)
    writers: dict[str, Callable[[Any], str]] = {"f": shortest, "U": _quoted}
    write = writers.get(column.dtype.kind, str)
    cells = [write(value) for value in values.tolist()]
    return [cells[place] for place in places.ravel()]


def _quoted(text: str) -> str:
    return '"' + defuse(text).replace('"', '""') + '"'


def shortest(value: float) -> str:
    """Write a number with the fewest digits that read back as it, "" for NaN."""
    if value != value:
        return ""
    text = repr(value)
    if 1e-4 <= abs(value) < 1e10 or value == 0:
        return text.removesuffix(".0")
    number = Decimal(text).normalize()
    if -6 <= number.adjusted() < 10:
        return f"{number:f}"
    sign, digits, _ = number.as_tuple()
    first, *rest = map(str, digits)
    point = "." if rest else ""
    return f"{'-' * sign}{first}{point}{''.join(rest)}e{number.adjusted():+d}"


def numbers_csv(columns: Table) -> str:
    """Write a picture's numbers as CSV, quoted where needed, missing values empty; formulas are defused."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([defuse(name) for name in columns])
    values = [column.tolist() for column in columns.values()]
    writer.writerows([_cell(value) for value in row] for row in zip(*values, strict=True))
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return defuse(value)
    return "" if value is None or value != value else value
