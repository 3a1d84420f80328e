"""NarrativeQA (Kocisky et al. 2018) as UnifiedQA's TSV: question and summary -> answers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from common.hub import DataError, Published
from rl4lms.datapools.sources import download, find_files
from rl4lms.samples import Sample, Split

URL = "https://storage.googleapis.com/unifiedqa/data/narrativeqa/"
NARRATIVE_QA = Published(
    name="narrative_qa",
    rows={},
    repo="deepmind/narrativeqa",  # the questions, but with whole books (16 GB) and in another form
    originals={"train": ("train.tsv",), "val": ("dev.tsv",), "test": ("test.tsv",)},
    copy=f"train.tsv, dev.tsv, test.tsv from {URL}: hub dataset 'deepmind/narrativeqa' as UnifiedQA writes "
    "it, one input TAB answer in each line, no header",
)
SHA256: dict[Split, str] = {
    "train": "dd1220e0225947d57e25192a1e10ed0f34b1e123c3775588a8d6bec5b41e3005",
    "val": "c7f70a0bc92f1ef9fc660fd84d65420302d86a08e39de3c029e5e266b79680dd",
    "test": "991e2fb05bd18b5379b0936cd61345e222d5a1eed115ea07bea043fd51994da5",
}


def load(split: Split, *, data_path: str | None) -> list[Sample]:
    """Load one sample per distinct input, in the file's order, with all its answers. Raises DataError."""
    if data_path is None:
        file = download(NARRATIVE_QA, URL + NARRATIVE_QA.originals[split][0], SHA256[split])
    else:
        (file,) = find_files(NARRATIVE_QA, split, Path(data_path).expanduser(), ["{split}.tsv"])
    answers: dict[str, list[str]] = {}
    for text, answer in read_tsv(file):
        answers.setdefault(text, []).append(answer.lower().strip())
    return [Sample(f"{split}_{i}", text.lower(), group) for i, (text, group) in enumerate(answers.items())]


def read_tsv(file: Path) -> Iterator[tuple[str, str]]:
    """Read rows of input and answer: tabs between, CSV quoting, no header. Raises DataError with the line."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t")
            for row in reader:
                if len(row) == 2:
                    yield row[0], row[1]
                elif row:
                    raise DataError(
                        f"{file} line {reader.line_num}: {len(row)} fields, must be 2 (input TAB answer)"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)
