"""Where each dataset of the controlled experiments comes from, and which files stand in for a download.

Imports nothing heavy: the config check looks here before any library that reads data is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.hub import DataError

EMBEDDED = ("digits", "docstring_pairs")


@dataclass(frozen=True)
class DataSource:
    """A downloadable dataset: its hub repository, its original files and its per-channel normalisation.

    revision: commit of the hub repository; inputs, label: its columns; rows: of the train and the test split;
    folders: subfolders of data_dir in which the original files are looked for too;
    mean, std: of each channel, of images scaled to 0..1 (empty for text).
    """

    repo: str
    config: str
    revision: str
    inputs: tuple[str, ...]
    label: str
    num_classes: int
    rows: tuple[int, int]
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    test_split: str = "test"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


_IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _cifar100(label: str, num_classes: int) -> DataSource:
    return DataSource(
        repo="uoft-cs/cifar100",
        config="cifar100",
        revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        inputs=("img",),
        label=label,
        num_classes=num_classes,
        rows=(50_000, 10_000),
        train_files=("train.bin",),
        test_files=("test.bin",),
        folders=("cifar-100-binary",),
        mean=(0.507, 0.486, 0.44),
        std=(0.267, 0.256, 0.276),
    )


SOURCES = {
    "mnist": DataSource(
        repo="ylecun/mnist",
        config="mnist",
        revision="77f3279092a1c1579b2250db8eafed0ad422088c",
        inputs=("image",),
        label="label",
        num_classes=10,
        rows=(60_000, 10_000),
        train_files=_IDX_TRAIN,
        test_files=_IDX_TEST,
        folders=("MNIST/raw",),
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "fmnist": DataSource(
        repo="zalando-datasets/fashion_mnist",
        config="fashion_mnist",
        revision="531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
        inputs=("image",),
        label="label",
        num_classes=10,
        rows=(60_000, 10_000),
        train_files=_IDX_TRAIN,
        test_files=_IDX_TEST,
        folders=("FashionMNIST/raw",),
        mean=(0.286,),
        std=(0.353,),
    ),
    "cifar10": DataSource(
        repo="uoft-cs/cifar10",
        config="plain_text",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2",
        inputs=("img",),
        label="label",
        num_classes=10,
        rows=(50_000, 10_000),
        train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_files=("test_batch.bin",),
        folders=("cifar-10-batches-bin",),
        mean=(0.491, 0.482, 0.446),
        std=(0.247, 0.243, 0.261),
    ),
    "cifar100": _cifar100("fine_label", 100),
    "cifar100coarse": _cifar100("coarse_label", 20),
    "svhn": DataSource(
        repo="ufldl-stanford/svhn",
        config="cropped_digits",
        revision="f9e1717d73324ebbc1ece84267ccd80d0aca0690",
        inputs=("image",),
        label="label",
        num_classes=10,
        rows=(73_257, 26_032),
        train_files=("train_32x32.mat",),
        test_files=("test_32x32.mat",),
        mean=(0.437, 0.443, 0.472),
        std=(0.198, 0.201, 0.197),
    ),
    "stsb": DataSource(
        repo="nyu-mll/glue",
        config="stsb",
        revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        inputs=("sentence1", "sentence2"),
        label="label",
        num_classes=6,
        rows=(5_749, 1_500),
        train_files=("train.tsv",),
        test_files=("dev.tsv",),
        folders=("STS-B",),
        test_split="validation",
    ),
}
TOKENIZER_REPO = "prajjwal1/bert-mini"
TOKENIZER_REVISION = "5e123abc2480f0c4b4cac186d3b3f09299c258fc"
# Python pickles: reading one runs whatever code it holds.
_PICKLED = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "cifar100coarse": "cifar-100-python",
}


@dataclass(frozen=True)
class LocalCopy:
    """A complete copy of a dataset on disk. kind "saved": `train` is the one folder, `test` is empty."""

    kind: Literal["original", "parquet", "saved"]
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()


def check_data_source(dataset: str, data_dir: str) -> str | None:
    """What is wrong with `data_dir` as the source of `dataset`, as far as file names tell; None = nothing."""
    try:
        if dataset in EMBEDDED and data_dir:
            return f"dataset {dataset!r} comes with the installed packages; leave data_dir empty"
        if dataset == "npz":
            find_npz(data_dir)
        elif data_dir:
            find_copy(dataset, data_dir)
    except DataError as error:
        return str(error)
    return None


def check_tokenizer_source(tokenizer_path: str) -> str | None:
    """What is wrong with `tokenizer_path`, as far as file names tell; None = nothing."""
    try:
        if tokenizer_path:
            find_tokenizer(tokenizer_path)
    except DataError as error:
        return str(error)
    return None


def find_npz(data_dir: str) -> Path:
    """The .npz file that `data_dir` names: itself, or the only one in the folder.

    Raises DataError: no path given, nothing there, no or several .npz files in the folder.
    """
    advice = "give a .npz file with x_train, y_train, x_test, y_test: --set data_dir=FILE.npz"
    if not data_dir:
        raise DataError(f"dataset 'npz' needs data_dir; {advice}")
    path = _existing(data_dir)
    if path.is_file():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"folder {data_dir!r} must hold exactly one .npz file, found: {names}; {advice}")
    return found[0]


def find_copy(dataset: str, data_dir: str) -> LocalCopy:
    """The copy of `dataset` in folder `data_dir`: original files, a saved copy, or the hub's parquet files.

    Raises DataError that says which files are missing.
    """
    source, folder = SOURCES[dataset], _existing(data_dir)
    missing: list[str] = []
    for place in (folder, *(folder / name for name in source.folders)):
        train, test = _present(place, source.train_files), _present(place, source.test_files)
        lacking = [name for name in source.train_files + source.test_files if name not in train | test]
        if not lacking:
            return LocalCopy("original", tuple(train.values()), tuple(test.values()))
        if train or test:
            missing = lacking
    if (folder / "dataset_dict.json").is_file():
        return LocalCopy("saved", (folder,))
    for place in (folder / source.config, folder, folder / "data"):
        train_parquet, test_parquet = (
            tuple(sorted(place.glob(f"{split}-*.parquet"))) for split in ("train", source.test_split)
        )
        if train_parquet and test_parquet:
            return LocalCopy("parquet", train_parquet, test_parquet)
    if missing:
        raise DataError(
            f"{data_dir!r} is an incomplete copy of dataset {dataset!r}, missing: {', '.join(missing)}"
        )
    pickled = _PICKLED.get(dataset)
    if pickled and (folder.name == pickled or (folder / pickled).is_dir()):
        raise DataError(
            f"{data_dir!r} holds the Python version of {dataset!r}, whose pickles can run code and are not "
            f"read; download the binary version ({source.folders[0]}) and name its folder instead"
        )
    raise DataError(f"{data_dir!r} holds no copy of dataset {dataset!r}; {what_to_put(dataset)}")


def find_tokenizer(tokenizer_path: str) -> Path:
    """The file that describes the tokenizer in a folder: tokenizer.json, else vocab.txt. Raises DataError."""
    folder = _existing(tokenizer_path)
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{tokenizer_path!r} holds neither tokenizer.json nor vocab.txt")


def what_to_put(dataset: str) -> str:
    """Advice for a machine without network: which files to put where."""
    source = SOURCES[dataset]
    suffix = " (each with or without .gz)" if source.train_files == _IDX_TRAIN else ""
    return (
        "name a folder with --set data_dir=FOLDER that holds one of: "
        f"(a) the original files {', '.join(source.train_files + source.test_files)}{suffix}; "
        f"(b) the parquet files of hub dataset {source.repo!r}: "
        f"{source.config}/train-*.parquet, {source.config}/{source.test_split}-*.parquet; "
        f"(c) what datasets.load_dataset({source.repo!r}, {source.config!r}).save_to_disk(FOLDER) writes"
    )


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise DataError(f"no such file or folder: {path!r}")
    return Path(path)


def _present(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Those of the files `names` that are in `folder`, plain or gzipped."""
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in names}
    return {name: file for name, files in candidates.items() for file in reversed(files) if file.is_file()}
