"""Where rows come from: the hub at its pinned revision, the web, copies on disk; what is said without."""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from common.hub import DataError, Published
from common.python_docs import CACHE_VARIABLE
from rl4lms.datapools import load_datapool
from rl4lms.datapools.cnn_daily_mail import CNN_DAILY_MAIL
from rl4lms.datapools.commongen import COMMONGEN
from rl4lms.datapools.daily_dialog import DAILY_DIALOG
from rl4lms.datapools.imdb import IMDB
from rl4lms.datapools.iwslt2017en_de import IWSLT2017
from rl4lms.datapools.narrative_qa import NARRATIVE_QA
from rl4lms.datapools.sources import download, local_rows, read_rows

Hub = Callable[[Any], list[tuple[Any, ...]]]
ROWS = [{"article": "Ein Text", "highlights": "Text"}, {"article": "b", "highlights": ""}]
SMALL = replace(CNN_DAILY_MAIL, rows={"train": 2, "val": 2, "test": 2})


@pytest.mark.parametrize(
    ("dataset", "rows", "call"),
    [
        (
            CNN_DAILY_MAIL,
            ROWS,
            (
                "abisee/cnn_dailymail",
                "3.0.0",
                {"revision": "96df5e686bee6baa90b8bee7c28b81fa3fa6223d", "split": "validation"},
            ),
        ),
        (
            DAILY_DIALOG,
            [{"dialog": ["a"], "emotion": [0], "act": [1]}] * 2,
            (
                "OpenRL/daily_dialog",
                None,
                {"revision": "1668faf0c0dc44664f108c489fd0666128db2c48", "split": "validation"},
            ),
        ),
        (
            COMMONGEN,
            [{"concepts": ["a"], "target": "b", "references": []}] * 2,
            (
                "GEM/common_gen",
                None,
                {
                    "revision": "62063f847b090959b6fd342f9c8582f61a6bbb53",
                    "split": "validation",
                    "data_files": {"validation": "default/validation/*.parquet"},
                },
            ),
        ),
        (
            IWSLT2017,
            [{"translation": {"en": "a", "de": "b"}}] * 2,
            (
                "IWSLT/iwslt2017",
                None,
                {
                    "revision": "9ca48082a7aae6d0a9d18efb292c50eacd10d2e8",
                    "split": "validation",
                    "data_files": {"validation": "iwslt2017-de-en/validation/*.parquet"},
                },
            ),
        ),
    ],
)
def test_hub_rows(hub: Hub, dataset: Published, rows: list[dict[str, Any]], call: tuple[Any, ...]) -> None:
    calls = hub(datasets.Dataset.from_list(rows))
    assert list(read_rows(replace(dataset, rows={"val": 2}), "val", None)) == rows
    assert calls == [call]


def test_imdb_on_the_hub_has_train_and_test_only(hub: Hub) -> None:
    rows = [{"text": "a b", "label": 1}] * 2
    calls = hub(datasets.Dataset.from_list(rows))
    assert list(read_rows(replace(IMDB, rows={"train": 2}), "train", None)) == rows
    revision = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
    assert calls == [("stanfordnlp/imdb", "plain_text", {"revision": revision, "split": "train"})]
    with pytest.raises(
        DataError, match="imdb: 2 rows in split 'train', the full dataset has 25,000: what is"
    ):
        load_datapool("imdb", "val")


def test_every_revision_is_a_commit() -> None:
    for dataset in (CNN_DAILY_MAIL, DAILY_DIALOG, COMMONGEN, IWSLT2017, IMDB):
        assert len(dataset.revision) == 40 and int(dataset.revision, 16)


def test_another_number_of_rows_on_the_hub_is_an_error_and_on_disk_a_notice(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub(datasets.Dataset.from_list(ROWS))
    with pytest.raises(DataError) as caught:
        load_datapool("cnn_daily_mail", "train")
    counts = "cnn_daily_mail: 2 rows in split 'train', the full dataset has 287,113"
    assert str(caught.value).startswith(f"{counts}: what is published has changed; name a folder with --set ")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with caplog.at_level(logging.WARNING):
        assert len(load_datapool("cnn_daily_mail", "train", {"data_path": str(tmp_path)})) == 2
    assert counts in caplog.text


def test_without_network_the_error_says_which_files_to_put_where(hub: Hub) -> None:
    hub(ConnectionError("Couldn't reach 'abisee/cnn_dailymail' on the Hub (OfflineModeIsEnabled)\nand more"))
    with pytest.raises(DataError) as caught:
        load_datapool("cnn_daily_mail", "train")
    assert str(caught.value) == (
        "dataset 'cnn_daily_mail' could not be read from hub dataset 'abisee/cnn_dailymail' "
        "(ConnectionError: Couldn't reach 'abisee/cnn_dailymail' on the Hub (OfflineModeIsEnabled)). "
        "Without network, name a folder with --set datapool.args.data_path=FOLDER that holds one of: (a) "
        "train.jsonl, validation.jsonl, test.jsonl, with article, highlights in each line; (b) the files "
        "3.0.0/{split}-*.parquet of hub dataset 'abisee/cnn_dailymail' at revision "
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d; (c) what save_to_disk of the datasets library wrote of it"
    )


@pytest.mark.parametrize(
    ("name", "repo", "files"),
    [
        ("narrative_qa", "deepmind/narrativeqa", "train.tsv, dev.tsv, test.tsv from https://"),
        (
            "totto",
            "google-research-datasets/totto",
            "totto_train_data.jsonl, totto_dev_data.jsonl, unlabeled_totto_test_data.jsonl from https://",
        ),
    ],
)
def test_without_network_the_original_releases_are_named(
    name: str, repo: str, files: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_datapool(name, "test")
    message = str(caught.value)
    assert message.startswith(
        f"dataset {name!r} could not be downloaded from https://storage.googleapis.com/"
    )
    assert "(OSError: offline mode (HF_HUB_OFFLINE)). Without network, name a folder with --set " in message
    assert f"datapool.args.data_path=FOLDER that holds {files}" in message
    assert f"hub dataset {repo!r}" in message


def write_lines(file: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(file: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def write_saved(folder: Path) -> None:
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_lines(folder / "validation.jsonl"),
        lambda folder: write_lines(folder / "dev.json"),
        lambda folder: write_lines(folder / "data" / "val.jsonl"),
        lambda folder: write_parquet(folder / "validation.parquet"),
        lambda folder: write_parquet(folder / "3.0.0" / "validation-00000-of-00001.parquet"),
        lambda folder: write_parquet(folder / "validation" / "0000.parquet"),
        write_saved,
    ],
)
def test_kinds_of_copies(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    assert list(local_rows(SMALL, "val", str(tmp_path))) == ROWS


def test_texts_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    """Arrow takes them as they come, where nobody asks it to look."""
    broken = pyarrow.array([b"fine", b"\xed\xa0\x80"]).view(pyarrow.string())
    table = pyarrow.table({"article": broken, "highlights": pyarrow.array(["a", "b"])})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError) as caught:
        list(local_rows(SMALL, "train", str(tmp_path)))
    assert str(caught.value).startswith(f"{tmp_path / 'train.parquet'}, row 1: a text is not UTF-8 (")
    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": datasets.Dataset(table)}).save_to_disk(saved)
    with pytest.raises(DataError) as caught:
        list(local_rows(SMALL, "train", str(saved)))
    assert str(caught.value).startswith(f"{saved}, row 1: a text is not UTF-8 (")


def test_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for shard, row in enumerate(ROWS):
        write_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", [row])
    assert list(local_rows(SMALL, "train", str(tmp_path))) == ROWS


def test_one_file_serves_as_every_split_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "mine.jsonl")
    write_parquet(tmp_path / "mine.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for name in ("mine.jsonl", "mine.parquet", "saved"):
        assert list(local_rows(SMALL, "train", str(tmp_path / name))) == ROWS
        assert caplog.text == ""
        assert list(local_rows(SMALL, "test", str(tmp_path / name))) == ROWS
        assert f"{name} is one" in caplog.text and "its rows serve as split 'test' too" in caplog.text
        caplog.clear()


def test_the_copy_goes_before_the_hub(hub: Hub, tmp_path: Path) -> None:
    calls = hub(AssertionError("must not be asked"))
    write_lines(tmp_path / "train.jsonl")
    assert list(read_rows(SMALL, "train", str(tmp_path))) == ROWS and calls == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"article": "a", "highlights": "b"}\n\n{"article"\n', "train.jsonl line 3 is not JSON: "),
        (
            "[1, 2]\n",
            r"train.jsonl line 1: expected a JSON object with a field for each column, got \[1, 2\]",
        ),
        (
            '{"article": "a", "text": "b"}\n',
            "train.jsonl line 1: no 'highlights', which dataset 'cnn_daily_mail' has; "
            "there are: article, text",
        ),
        (
            '{"article": "a", "highlights": null}\n',
            "train.jsonl line 1: 'highlights' must be of type str, is None",
        ),
    ],
)
def test_damaged_lines_are_named(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(lines)
    with pytest.raises(DataError, match=message):
        list(local_rows(SMALL, "train", str(tmp_path)))


def test_damaged_or_unknown_copies_are_named(tmp_path: Path) -> None:
    def fails(match: str, path: Path = tmp_path) -> None:
        with pytest.raises(DataError, match=match):
            list(local_rows(SMALL, "train", str(path)))

    fails(
        "has no file of split 'train'; name a folder with --set datapool.args.data_path=FOLDER that holds one"
    )
    fails("no such file or folder: ", tmp_path / "none")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 torn")
    fails("train.parquet is damaged: ")
    write_parquet(tmp_path / "train.parquet", [{"text": "a"}])
    fails("train.parquet, row 0: no 'article'")
    (tmp_path / "train.txt").write_text("text")
    fails(r"train.txt: must be .jsonl \(JSON lines\) or .parquet", tmp_path / "train.txt")
    write_saved(tmp_path / "saved")
    fails("in .*saved' has no split 'train', only: validation", tmp_path / "saved")
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    fails("the copy of dataset 'cnn_daily_mail' in .*saved' is damaged: ", tmp_path / "saved")


class Response(io.BytesIO):
    """What urlopen returns, for a file of `size` bytes."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(size)}


def test_a_download_is_checked_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    content = b"question\tanswer\n"
    responses = [Response(content, 99), Response(b"other", 5), Response(content, len(content))]
    asked = []

    def urlopen(url: str, timeout: float) -> Response:
        asked.append(url)
        return responses.pop(0)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    url, sha256 = "https://example.org/a/train.tsv", hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=r"could not be downloaded from .*OSError: 16 of 99 bytes came"):
        download(NARRATIVE_QA, url, sha256)
    with pytest.raises(
        DataError, match=f"SHA-256 is {hashlib.sha256(b'other').hexdigest()}, must be {sha256}"
    ):
        download(NARRATIVE_QA, url, sha256)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    for _ in range(2):
        file = download(NARRATIVE_QA, url, sha256)
        assert file == tmp_path / "downloads" / "narrative_qa" / "train.tsv" and file.read_bytes() == content
    assert asked == [url] * 3
