import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

import rl4lms.datapools.totto as totto
from common.hub import DataError
from rl4lms.datapools import load_datapool
from rl4lms.samples import Sample

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())["totto"]["tables"]


def cell(value: str, header: bool = False, columns: int = 1, rows: int = 1) -> dict[str, Any]:
    return {"value": value, "is_header": header, "column_span": columns, "row_span": rows}


def released(table: dict[str, Any]) -> dict[str, Any]:
    """A golden table as a line of the original release."""
    return {name: value for name, value in table["raw_table"].items() if name != "id"}


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_linearisation_equals_the_golden_one(tmp_path: Path) -> None:
    assert len(GOLDEN) == 3
    write_lines(tmp_path / "totto_dev_data.jsonl", [released(table) for table in GOLDEN])
    samples = load_datapool("totto", "val", {"data_path": str(tmp_path), "representation": "subtable"})
    full = load_datapool("totto", "val", {"data_path": str(tmp_path), "representation": "fulltable"})
    for i, (table, sample, whole) in enumerate(zip(GOLDEN, samples, full, strict=True)):
        expected = Sample(
            f"val_{i}", table["prompt_subtable"], table["references"], {"raw_table": table["raw_table"]}
        )
        assert sample == expected
        assert (
            table["prompt_subtable"]
            == table["linearized_subtable"] + table["linearized_subtable_with_titles"]
        )
        assert whole.prompt_or_input_text == table["linearized_full"] + table["linearized_full_with_titles"]


def test_spans_decide_which_headers_are_above() -> None:
    raw = {
        "table": [
            [cell("wide", True, 3), cell("last", True)],
            [cell("a", True), cell("b c", True, 2), cell("d", True)],
            [cell("row", True), cell("x", columns=2), cell("y")],
            [cell("merged", columns=4)],
        ],
        "highlighted_cells": [[2, 2], [2, 1], [3, 0]],
        "table_page_title": "",
        "table_section_title": "Section",
    }
    assert totto.titles(raw) == "<section_title> Section </section_title> "
    expected = [
        "<table>",
        "<cell> y <col_header> last </col_header> <col_header> d </col_header>",
        "<row_header> row </row_header> </cell>",
        "<cell> x <col_header> wide </col_header> <col_header> b c </col_header>",
        "<row_header> row </row_header> </cell>",
        "<cell> merged <col_header> wide </col_header> <col_header> last </col_header>",
        "<col_header> a </col_header> <col_header> b c </col_header> <col_header> d </col_header>",
        "<col_header> row </col_header> </cell>",
        "</table>",
    ]
    assert totto.linearize(raw, "subtable") == " ".join(expected)


def test_no_highlighted_cells_is_an_empty_table() -> None:
    raw = {"table": [[cell("a")]], "highlighted_cells": []}
    assert totto.linearize(raw, "subtable") == "<table> </table>"
    assert totto.linearize(raw, "fulltable") == "<table> <row> <cell> a </cell> </row> </table>"


def test_the_test_split_has_one_empty_reference(tmp_path: Path) -> None:
    unlabelled = {
        name: value for name, value in released(GOLDEN[0]).items() if name != "sentence_annotations"
    }
    write_lines(tmp_path / "unlabeled_totto_test_data.jsonl", [unlabelled])
    (sample,) = load_datapool("totto", "test", {"data_path": str(tmp_path)})
    assert sample.references == [""] and sample.meta_data["raw_table"]["sentence_annotations"] == []
    assert sample.prompt_or_input_text == GOLDEN[0]["prompt_subtable"]
    write_lines(tmp_path / "totto_train_data.jsonl", [unlabelled])
    with pytest.raises(DataError, match="totto: row 0 has another form: ValueError: no sentence_annotations"):
        load_datapool("totto", "train", {"data_path": str(tmp_path)})


def test_a_highlighted_cell_outside_the_table_is_an_error(tmp_path: Path) -> None:
    broken = copy.deepcopy(released(GOLDEN[2]))
    broken["highlighted_cells"] = [[99, 0]]
    write_lines(tmp_path / "train.jsonl", [released(GOLDEN[0]), broken])
    with pytest.raises(DataError, match="totto: row 1 has another form: IndexError"):
        load_datapool("totto", "train", {"data_path": str(tmp_path)})


def test_the_hub_s_form_of_the_annotations_is_read_too(tmp_path: Path) -> None:
    rows = []
    for table in GOLDEN:
        row = {**released(table), "overlap_subset": str(table["raw_table"]["overlap_subset"])}
        names = row["sentence_annotations"][0]
        row["sentence_annotations"] = {
            name: [annotation[name] for annotation in row["sentence_annotations"]] for name in names
        }
        rows.append(row)
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "copy")
    samples = load_datapool("totto", "val", {"data_path": str(tmp_path / "copy")})
    assert [sample.references for sample in samples] == [table["references"] for table in GOLDEN]
    for sample, table in zip(samples, GOLDEN, strict=True):
        assert sample.meta_data["raw_table"] == table["raw_table"]


def test_the_original_release_is_read_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "totto_data.zip"
    with zipfile.ZipFile(archive, "w") as members:
        lines = "".join(json.dumps(released(table)) + "\n" for table in GOLDEN)
        members.writestr("totto_data/totto_dev_data.jsonl", lines)
    monkeypatch.setattr(totto, "download", lambda dataset, url: archive)
    monkeypatch.setitem(totto.TOTTO.rows, "val", 3)
    samples = load_datapool("totto", "val")
    assert [sample.prompt_or_input_text for sample in samples] == [t["prompt_subtable"] for t in GOLDEN]
    monkeypatch.setitem(totto.TOTTO.rows, "val", 7_700)
    with pytest.raises(DataError, match="totto: 3 rows in split 'val', the full dataset has 7,700"):
        load_datapool("totto", "val")
    with pytest.raises(DataError, match=r"totto_data.zip \(delete it to download it again\) is damaged: "):
        load_datapool("totto", "train")
    archive.write_bytes(b"torn")
    with pytest.raises(DataError, match="is damaged: File is not a zip file"):
        load_datapool("totto", "val")
