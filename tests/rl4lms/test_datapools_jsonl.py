import json
import logging
from pathlib import Path
from typing import Any

import pytest

from common.hub import DataError
from rl4lms.datapools import load_datapool
from rl4lms.samples import Sample


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_prompt_references_and_everything_else_as_meta(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"prompt": "Größe?", "references": ["1 m", "100 cm"], "source": {"page": 3}, "difficulty": 0.5},
        {"prompt": "", "references": "one", "id": "second"},
        {"prompt": "no references", "references": [], "id": 7},
    )
    assert load_datapool("jsonl", "train", {"data_path": path}) == [
        Sample("train_0", "Größe?", ["1 m", "100 cm"], {"source": {"page": 3}, "difficulty": 0.5}),
        Sample("second", "", ["one"], {}),
        Sample(7, "no references", [], {}),
    ]


def test_field_names_are_the_user_s(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "q", "answer": "a", "prompt": "meta", "key": "k"})
    args = {"prompt_field": "question", "references_field": "answer", "id_field": "key"}
    assert load_datapool("jsonl", "train", {"data_path": path, **args}) == [
        Sample("k", "q", ["a"], {"prompt": "meta"})
    ]


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    for name, prompt in (("train", "a"), ("dev", "b"), ("test", "c")):
        write(tmp_path / f"{name}.jsonl", {"prompt": prompt, "references": "r"})
    args = {"data_path": str(tmp_path)}
    assert [load_datapool("jsonl", split, args)[0] for split in ("train", "val", "test")] == [
        Sample("train_0", "a", ["r"]),
        Sample("val_0", "b", ["r"]),
        Sample("test_0", "c", ["r"]),
    ]
    (tmp_path / "dev.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no validation.jsonl or val.jsonl or dev.jsonl"):
        load_datapool("jsonl", "val", args)


def test_rows_of_one_file_may_name_their_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = ("train", "val", "validation", "test", "train")
    rows = [{"prompt": f"{i}", "references": "r", "split": split} for i, split in enumerate(splits)]
    args = {"data_path": write(tmp_path / "mine.jsonl", *rows)}
    with caplog.at_level(logging.WARNING):
        prompts = {
            split: [s.prompt_or_input_text for s in load_datapool("jsonl", split, args)]
            for split in ("train", "val", "test")
        }
    assert prompts == {"train": ["0", "4"], "val": ["1", "2"], "test": ["3"]}
    assert caplog.text == ""
    write(tmp_path / "mine.jsonl", *rows, {"prompt": "5", "references": "r"})
    with pytest.raises(DataError, match=r"line 6: 'split' must be one of train, val, test, is None"):
        load_datapool("jsonl", "train", args)


def test_rows_of_one_file_without_splits_serve_as_every_split_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = {"data_path": write(tmp_path / "mine.jsonl", {"prompt": "p", "references": "r"})}
    assert len(load_datapool("jsonl", "train", args)) == 1 and caplog.text == ""
    assert len(load_datapool("jsonl", "val", args)) == 1
    assert "mine.jsonl is one file without a field 'split': its rows serve as split 'val' too" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "p", "references": "r"', "line 3 is not JSON: "),
        ('["p", "r"]', "line 3: expected a JSON object"),
        (
            '{"promt": "p", "references": "r"}',
            "line 3: no 'prompt'; did you mean 'promt'? there are: promt, references; say which it is with "
            "--set datapool.args.prompt_field=NAME",
        ),
        (
            '{"prompt": "p", "answer": "r"}',
            "line 3: no 'references'; there are: prompt, answer; say which it is with "
            "--set datapool.args.references_field=NAME",
        ),
        ('{"prompt": 3, "references": "r"}', "line 3: 'prompt' must be a string, is 3"),
        (
            '{"prompt": "p", "references": ["r", null]}',
            "line 3: 'references' must be a string or a list of strings, is ['r', None]",
        ),
        (
            '{"prompt": "p", "references": "r", "id": 1.5}',
            "line 3: 'id' must be a string or a whole number, is 1.5",
        ),
        ('{"prompt": "p", "references": "r", "id": "a"}', "line 3: id 'a' is also that of "),
    ],
)
def test_mistakes_are_named_with_their_line(row: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f'{{"prompt": "p", "references": "r", "id": "a"}}\n\n{row}\n')
    with pytest.raises(DataError) as caught:
        load_datapool("jsonl", "train", {"data_path": str(file)})
    assert str(caught.value).startswith(f"{file} {message}")
