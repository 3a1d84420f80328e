"""ToTTo (Parikh et al. 2020): a Wikipedia table with highlighted cells -> a sentence."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Literal

from pydantic import Field

from common.hub import Published, damage_reported
from rl4lms.datapools.sources import (
    DatasetArgs,
    Row,
    as_samples,
    complete,
    download,
    json_lines,
    local_rows,
)
from rl4lms.samples import Sample, Split

URL = "https://storage.googleapis.com/totto-public/totto_data.zip"
TOTTO = Published(
    name="totto",
    columns={
        "table": list,
        "highlighted_cells": list,
        "table_page_title": str,
        "table_section_title": str,
    },
    rows={"train": 120_761, "val": 7_700, "test": 7_700},
    # The hub's repository is a script that reads the original release, which is read here directly.
    repo="google-research-datasets/totto",
    originals={
        "train": ("totto_train_data.jsonl",),
        "val": ("totto_dev_data.jsonl",),
        "test": ("unlabeled_totto_test_data.jsonl",),
    },
    copy=f"totto_train_data.jsonl, totto_dev_data.jsonl, unlabeled_totto_test_data.jsonl from {URL}, "
    "or what save_to_disk of the datasets library wrote of hub dataset 'google-research-datasets/totto'",
)

Cell = dict[str, Any]
Table = list[list[Cell]]
# First and last column (exclusive) of a header cell, and its text.
Header = tuple[int, int, str]


class TottoArgs(DatasetArgs):
    representation: Literal["subtable", "fulltable"] = Field(
        "subtable", description="linearise the highlighted cells only, or the whole table"
    )


def load(
    split: Split, *, representation: Literal["subtable", "fulltable"], data_path: str | None
) -> list[Sample]:
    """Load tables: the prompt is the table without its titles, directly followed by that with them.

    References are the final sentences; in test, where they are secret, one empty string. Raises DataError.
    """

    def sample(number: int, row: Row) -> Sample:
        raw = raw_table(row, number)
        text = linearize(raw, representation)
        references = [annotation["final_sentence"] for annotation in raw["sentence_annotations"]]
        if split == "test":
            references = [""]
        elif not references:
            raise ValueError("no sentence_annotations")
        return Sample(f"{split}_{number}", text + titles(raw) + text, references, {"raw_table": raw})

    rows = local_rows(TOTTO, split, data_path) if data_path is not None else _published_rows(split)
    return as_samples(TOTTO, rows, sample)


def raw_table(row: Row, number: int) -> dict[str, Any]:
    """Bring a row into the form of the original release, whichever it came in, with its number as `id`."""
    annotations = row.get("sentence_annotations") or []
    if isinstance(annotations, dict):  # the hub's form of a list of mappings
        names, columns = annotations.keys(), annotations.values()
        annotations = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    raw = {**row, "id": number, "sentence_annotations": annotations}
    if isinstance(overlap := row.get("overlap_subset"), str):
        raw["overlap_subset"] = {"true": True, "false": False}.get(overlap.lower())
    return raw


def titles(raw: dict[str, Any]) -> str:
    """Write page and section title, each followed by a space; "" for one that is empty."""
    page, section = raw["table_page_title"], raw["table_section_title"]
    return (f"<page_title> {page} </page_title> " if page else "") + (
        f"<section_title> {section} </section_title> " if section else ""
    )


def linearize(raw: dict[str, Any], representation: Literal["subtable", "fulltable"]) -> str:
    """Write the table without its titles: the highlighted cells only, or all rows with the cells highlighted.

    Raises IndexError: a highlighted cell that the table does not have.
    """
    table: Table = raw["table"]
    highlighted = [(row, column) for row, column in raw["highlighted_cells"]]
    spans = [_spans(row) for row in table]
    headers = [
        [(*span, cell["value"]) for span, cell in zip(row_spans, row, strict=True) if cell["is_header"]]
        for row_spans, row in zip(spans, table, strict=True)
    ]

    def cell_text(row: int, column: int, tag: str) -> str:
        start, end = spans[row][column]
        above = [text for line in headers[:row] for (s, e, text) in line if s < end and e > start]
        left = [cell["value"] for cell in table[row][:column] if cell["is_header"]]
        parts = [table[row][column]["value"]]
        parts += [f"<col_header> {text} </col_header>" for text in above]
        parts += [f"<row_header> {text} </row_header>" for text in left]
        return f"<{tag}> {' '.join(parts)} </{tag}>"

    if representation == "subtable":
        cells = [cell_text(row, column, "cell") for row, column in highlighted]
    else:
        marked = set(highlighted)
        cells = [
            " ".join(
                [
                    "<row>",
                    *(
                        cell_text(i, j, "highlighted_cell" if (i, j) in marked else "cell")
                        for j in range(len(row))
                    ),
                    "</row>",
                ]
            )
            for i, row in enumerate(table)
        ]
    return " ".join(["<table>", *cells, "</table>"])


def _spans(row: list[Cell]) -> list[tuple[int, int]]:
    """First and last column (exclusive) of each cell. Cells reaching down from rows above are not counted."""
    ends = list(accumulate(cell["column_span"] for cell in row))
    return list(zip([0, *ends], ends, strict=False))


def _published_rows(split: Split) -> Iterator[Row]:
    archive = download(TOTTO, URL)
    name = f"totto_data/{TOTTO.originals[split][0]}"
    with (
        damage_reported(f"{archive} (delete it to download it again)"),
        zipfile.ZipFile(archive) as members,
        members.open(name) as lines,
    ):
        yield from complete(TOTTO, split, json_lines(lines, name))
