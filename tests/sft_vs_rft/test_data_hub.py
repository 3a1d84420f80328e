import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from sft_vs_rft.data.hub import score_classes
from sft_vs_rft.data.load import read_pool
from sft_vs_rft.data.text import load_tokenizer
from sft_vs_rft.data_source import DataError

RNG = np.random.default_rng(0)
GREY = {split: RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8) for split in ("train", "test")}
COLOUR = {split: RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}


def image_dict(arrays: dict[str, np.ndarray], column: str, **labels: list[int]) -> datasets.DatasetDict:
    features = datasets.Features(
        {column: datasets.Image(), **{name: datasets.Value("int64") for name in labels}}
    )
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {column: [Image.fromarray(pixels) for pixels in array], **labels}, features=features
            )
            for split, array in arrays.items()
        }
    )


def stsb_dict() -> datasets.DatasetDict:
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [2.5, 3.8], "idx": [0, 1]}
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(rows) for split in ("train", "validation", "test")}
    )


@pytest.mark.parametrize(
    ("dataset", "column", "label", "repo", "config", "revision"),
    [
        ("mnist", "image", "label", "ylecun/mnist", "mnist", "77f3279092a1c1579b2250db8eafed0ad422088c"),
        (
            "fmnist",
            "image",
            "label",
            "zalando-datasets/fashion_mnist",
            "fashion_mnist",
            "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
        ),
        (
            "cifar10",
            "img",
            "label",
            "uoft-cs/cifar10",
            "plain_text",
            "0b2714987fa478483af9968de7c934580d0bb9a2",
        ),
        (
            "cifar100",
            "img",
            "fine_label",
            "uoft-cs/cifar100",
            "cifar100",
            "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        ),
        (
            "cifar100coarse",
            "img",
            "coarse_label",
            "uoft-cs/cifar100",
            "cifar100",
            "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        ),
        (
            "svhn",
            "image",
            "label",
            "ufldl-stanford/svhn",
            "cropped_digits",
            "f9e1717d73324ebbc1ece84267ccd80d0aca0690",
        ),
    ],
)
def test_images_from_the_hub(
    hub: Callable[[Any], list[Any]],
    dataset: str,
    column: str,
    label: str,
    repo: str,
    config: str,
    revision: str,
) -> None:
    arrays = GREY if "mnist" in dataset else COLOUR
    labels = (
        {"fine_label": [1, 2, 3], "coarse_label": [4, 5, 6]} if "100" in dataset else {"label": [7, 8, 9]}
    )
    calls = hub(image_dict(arrays, column, **labels))
    pool = read_pool(dataset)
    assert calls == [(repo, config, {"revision": revision})]
    assert pool.train.labels.tolist() == labels[label]
    expected = arrays["test"][[2, 0]]
    expected = expected[:, None] if expected.ndim == 3 else expected.transpose(0, 3, 1, 2)
    assert (pool.test.take(np.array([2, 0])) == expected).all()
    encoded = pool.encode(pool.test.take(np.array([2, 0])))
    assert isinstance(encoded, torch.Tensor) and encoded.shape == expected.shape


def test_stsb_from_the_hub(hub: Callable[[Any], list[Any]], tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd"]))
    calls = hub(stsb_dict())
    pool = read_pool("stsb", tokenizer_path=str(tmp_path))
    assert calls == [("nyu-mll/glue", "stsb", {"revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"})]
    assert pool.num_classes == 6 and pool.test.labels.tolist() == [2, 4]
    assert pool.test.take(np.array([1, 0])) == [("b", "d"), ("a", "c")]


def test_scores_are_rounded_half_to_even() -> None:
    assert score_classes([0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 2.499, 4.8]).tolist() == [0, 0, 2, 2, 4, 4, 2, 5]


def test_saved_copy(tmp_path: Path) -> None:
    image_dict(GREY, "image", label=[1, 2, 3]).save_to_disk(tmp_path / "mnist")
    pool = read_pool("mnist", str(tmp_path / "mnist"))
    assert (pool.train.take(np.array([1])) == GREY["train"][1]).all()
    with pytest.raises(
        DataError, match="split 'train' is not dataset 'cifar10': no column img, only: image, label"
    ):
        read_pool("cifar10", str(tmp_path / "mnist"))
    (tmp_path / "mnist" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"the copy of dataset 'mnist' in .*mnist is damaged: "):
        read_pool("mnist", str(tmp_path / "mnist"))


def test_saved_copy_without_its_test_split(tmp_path: Path) -> None:
    image_dict({"train": GREY["train"]}, "image", label=[1, 2, 3]).save_to_disk(tmp_path)
    with pytest.raises(DataError, match="this copy of dataset 'mnist' has no split 'test', only: train"):
        read_pool("mnist", str(tmp_path))


def test_parquet_copy_as_the_hub_lays_it_out(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for split, rows in image_dict(GREY, "image", label=[1, 2, 3]).items():
        for shard in range(2):  # shards in the order of their numbers
            rows.shard(2, shard).to_parquet(tmp_path / "mnist" / f"{split}-0000{shard}-of-00002.parquet")
    pool = read_pool("mnist", str(tmp_path))
    assert pool.train.labels.tolist() == [1, 2, 3]
    assert (pool.train.take(np.arange(3)) == GREY["train"][:, None]).all()
    (tmp_path / "mnist" / "test-00001-of-00002.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"the copy of dataset 'mnist' in .*parquet is damaged: "):
        read_pool("mnist", str(tmp_path))


def test_parquet_copy_without_the_hub_librarys_metadata(tmp_path: Path) -> None:
    for split, array in COLOUR.items():
        encoded = []
        for pixels in array:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        table = pyarrow.table({"img": encoded, "label": [0, 9, 5]})
        pyarrow.parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    pool = read_pool("cifar10", str(tmp_path))
    assert pool.test.labels.tolist() == [0, 9, 5]
    assert (pool.test.take(np.array([1]))[0] == COLOUR["test"][1].transpose(2, 0, 1)).all()


def test_other_row_counts_than_the_full_dataset_are_told(
    hub: Callable[[Any], list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    hub(image_dict(GREY, "image", label=[1, 2, 3]))
    read_pool("mnist")
    assert "mnist: 3 rows in split 'train', the full one has 60000" in caplog.text


def test_no_network_and_no_copy(hub: Callable[[Any], list[Any]]) -> None:
    hub(ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub (OfflineModeIsEnabled)\nand more"))
    with pytest.raises(DataError) as caught:
        read_pool("cifar10")
    assert str(caught.value) == (
        "dataset 'cifar10' could not be read from hub dataset 'uoft-cs/cifar10' (ConnectionError: Couldn't "
        "reach 'uoft-cs/cifar10' on the Hub (OfflineModeIsEnabled)). Without network, name a folder with "
        "--set data_dir=FOLDER that holds one of: (a) the original files data_batch_1.bin, data_batch_2.bin, "
        "data_batch_3.bin, data_batch_4.bin, data_batch_5.bin, test_batch.bin; (b) the parquet files of hub "
        "dataset 'uoft-cs/cifar10': plain_text/train-*.parquet, plain_text/test-*.parquet; (c) what "
        "datasets.load_dataset('uoft-cs/cifar10', 'plain_text').save_to_disk(FOLDER) writes"
    )


def test_no_network_and_no_tokenizer(
    hub: Callable[[Any], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(repo: str, file: str, revision: str) -> str:
        assert (repo, file) == ("prajjwal1/bert-mini", "vocab.txt")
        assert revision == "5e123abc2480f0c4b4cac186d3b3f09299c258fc"
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DataError) as caught:
        load_tokenizer("")
    assert str(caught.value) == (
        "the BERT tokenizer could not be read from hub model 'prajjwal1/bert-mini' (ConnectionError). "
        "Without network, put that repository's vocab.txt (or any uncased BERT's: the same 30,522 entries) "
        "into a folder and name it with --set tokenizer_path=FOLDER"
    )
