import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plan_runs import write_plan

from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, DataError, load_data
from sft_vs_rft_controlled_experiments_plan_runner import main

RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "x_train": RNG.normal(size=(1000, 784)).astype(np.float32),
    "y_train": np.arange(1000) % 10,
    "x_test": RNG.normal(size=(597, 784)).astype(np.float32),
    "y_test": np.arange(597) % 10,
}
MODIFIED = {**ARRAYS, "modified_train": np.arange(1000) % 10 == 3}


def load(file: Path, arrays: dict[str, Any] | None = None, **fields: Any) -> ControlledData:
    if arrays is not None:
        np.savez(file, **arrays)
    values = {
        "dataset": "npz",
        "data_dir": str(file),
        "model_type": "mlp",
        "epochs": 1,
        "experiment_name": "test",
        "samples_rnd_seed": 192,
        "num_labels_per_sample": 5,
        "frac_samples_to_modify_labels": 0.1,
        **fields,
    }
    return load_data(ExperimentConfig.model_validate(values))


def test_arrays_are_used_as_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    data = load(file, ARRAYS, frac_samples_to_modify_labels=0.0)
    assert isinstance(data.train_inputs, torch.Tensor) and isinstance(data.test_inputs, torch.Tensor)
    assert data.train_inputs.dtype == torch.float32 and data.num_classes == 10
    assert (data.train_inputs.numpy() == ARRAYS["x_train"]).all()
    assert (data.test_inputs.numpy() == ARRAYS["x_test"]).all()
    assert data.train_labels.tolist() == ARRAYS["y_train"].tolist() and data.train_labels.dtype == torch.int64
    assert data.test_labels.tolist() == ARRAYS["y_test"].tolist()
    assert data.label_sets is not None and data.label_sets.shape == (10, 5)
    assert not data.modified.any()
    in_folder = load(file, data_dir=str(tmp_path))
    assert in_folder.label_sets is not None and torch.equal(in_folder.label_sets, data.label_sets)


def test_without_a_mask_labels_are_modified_as_for_any_dataset(tmp_path: Path) -> None:
    data = load(tmp_path / "mine.npz", ARRAYS)
    assert data.label_sets is not None and data.modified.sum() == 100
    original = torch.from_numpy(ARRAYS["y_train"])
    assert torch.equal(data.train_labels[~data.modified], original[~data.modified])
    inside = (data.label_sets[original] == data.train_labels[:, None]).any(1)
    assert torch.equal(inside, ~data.modified)


def test_with_a_mask_nothing_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    data = load(file, MODIFIED)
    assert data.label_sets is None
    assert data.train_labels.tolist() == ARRAYS["y_train"].tolist()
    assert data.modified.dtype == torch.bool and data.modified.tolist() == MODIFIED["modified_train"].tolist()
    untracked = load(file, frac_samples_to_modify_labels=0.0)
    assert untracked.modified.shape == (1000,) and not untracked.modified.any()
    # The share in the config says nothing about the share in the file, and no seed is needed.
    unseeded = load(file, frac_samples_to_modify_labels=0.9, samples_rnd_seed=-1)
    assert torch.equal(unseeded.modified, data.modified)


def test_with_a_mask_all_train_inputs_are_used(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    for enough in (-1, 1000, 5000):
        assert len(load(file, MODIFIED, num_train_samples=enough).train_labels) == 1000
    with pytest.raises(DataError) as caught:
        load(file, num_train_samples=999)
    assert str(caught.value) == (
        "num_train_samples is 999, but a file with modified_train is used whole (1000 inputs): set it to -1"
    )
    with pytest.raises(
        DataError, match=r"label sets .* need original labels: to pretrain, leave modified_train out"
    ):
        load(file, use_multiple_labels_per_sample=True, frac_samples_to_modify_labels=0.0)


def test_a_plan_for_a_larger_dataset_uses_all_of_a_users_arrays(tmp_path: Path) -> None:
    for arrays in (ARRAYS, MODIFIED):
        data = load(tmp_path / "mine.npz", arrays, num_train_samples=10_000, num_test_samples=1_000)
        assert (len(data.train_labels), len(data.test_labels)) == (1000, 597)
    data = load(tmp_path / "mine.npz", ARRAYS, num_train_samples=500, num_test_samples=100)
    assert data.train_labels[~data.modified].bincount().max() <= 50 and len(data.test_labels) == 100


def test_images_double_precision_and_small_integers(tmp_path: Path) -> None:
    images = RNG.normal(size=(20, 3, 4, 4))
    labels = np.arange(20, dtype=np.uint8) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    data = load(tmp_path / "mine.npz", arrays, num_labels_per_sample=1)
    assert isinstance(data.train_inputs, torch.Tensor)
    assert data.train_inputs.dtype == torch.float32 and data.train_inputs.shape == (20, 3, 4, 4)
    assert data.num_classes == 3 and data.label_sets is None and data.modified.sum() == 2
    assert (data.train_labels != torch.from_numpy(labels))[data.modified].all()


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**MODIFIED, name: value}


def with_nan() -> np.ndarray:
    array = ARRAYS["x_test"].copy()
    array[5, 7] = np.nan
    return array


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (
        {"x_train": ARRAYS["x_train"], "y_test": ARRAYS["y_test"]},
        "no array y_train, x_test; it must hold",
    ),
    "lengths": (changed("y_train", ARRAYS["y_train"][:-1]), "x_train has 1000 rows, y_train has 999"),
    "float labels": (
        changed("y_test", ARRAYS["y_test"] * 1.0),
        r"y_test is float64 of shape \(597,\); it must be \[N\] i",
    ),
    "bool labels": (changed("y_test", ARRAYS["y_test"] > 4), r"y_test is bool of shape"),
    "one-hot labels": (changed("y_train", np.eye(10, dtype=int)), r"y_train is int64 of shape \(10, 10\)"),
    "negative": (
        changed("y_train", ARRAYS["y_train"] - 1),
        "y_train has negative labels; classes are numbered from 0",
    ),
    "nan": (
        changed("x_test", with_nan()),
        r"x_test has NaN or infinite values \(as float32\), first in row 5",
    ),
    "overflow": (changed("x_test", np.full((597, 784), 1e300)), "x_test has NaN or infinite values"),
    "bytes": (
        changed("x_train", np.zeros((1000, 784), np.uint8)),
        "x_train is uint8; it must be floating point",
    ),
    "dimensions": (
        changed("x_train", np.zeros((1000, 28, 28))),
        r"x_train has shape \(1000, 28, 28\); must be \[N, features\] or \[N, channels, height, width\]",
    ),
    "empty": (changed("x_test", np.zeros((0, 784))), r"x_test has shape \(0, 784\)"),
    "widths": (changed("x_test", np.zeros((597, 783))), r"x_train has shape \(784,\), of x_test \(783,\)"),
    "one class": (
        {**ARRAYS, "y_train": np.zeros(1000, int), "y_test": np.zeros(597, int)},
        "hold only class 0",
    ),
    "integer mask": (
        changed("modified_train", np.zeros(1000, int)),
        r"modified_train is int64 of .*; must be bool \[1000\]",
    ),
    "short mask": (changed("modified_train", np.zeros(9, bool)), r"modified_train is bool of shape \(9,\)"),
    "objects": (
        changed("y_train", np.array([None] * 1000)),
        "cannot be read as a .npz file of plain arrays: Object arr",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_mistakes_are_named_with_file_and_array(tmp_path: Path, name: str) -> None:
    arrays, message = MISTAKES[name]
    with pytest.raises(DataError, match=rf"mine\.npz.*{message}"):
        load(tmp_path / "mine.npz", arrays)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"x,y\n1,2\n", b"\x93NUMPY torn"])
def test_files_that_are_no_npz(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.npz"
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"mine\.npz cannot be read as a \.npz file of plain arrays: .*numpy\.savez"
    ):
        load(file)
    np.save(tmp_path / "single.npy", ARRAYS["x_train"])
    with pytest.raises(DataError, match=r"single\.npy cannot be read as a \.npz file"):
        load(tmp_path / "single.npy")


def test_torn_member_of_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **ARRAYS)
    content = bytearray(file.read_bytes())
    content[2000:3000] = bytes(1000)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz cannot be read as a \.npz file of plain arrays"):
        load(file)


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    """numpy returns its bytes."""
    np.savez(tmp_path / "mine.npz", **ARRAYS)
    with zipfile.ZipFile(tmp_path / "mine.npz", "a") as archive:
        archive.writestr("modified_train.npy", b"something else")
    with pytest.raises(DataError, match=r"mine\.npz cannot be read .*: modified_train is no array; write"):
        load(tmp_path / "mine.npz")


def test_sets_larger_than_the_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num_labels_per_sample is 11, but the dataset has only 10 classes"):
        load(tmp_path / "mine.npz", ARRAYS, num_labels_per_sample=11)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        (
            "y_train",
            20_000_000,
            "y_train has labels up to 20,000,000 for 40 rows (2, 3, 20,000,000); classes ",
        ),
        ("y_train", 10**9, "y_train has labels up to 1,000,000,000 for 40 rows"),
        ("y_train", 401, "y_train has labels up to 401 for 40 rows"),
        (
            "y_test",
            4,
            "y_test has labels that y_train does not have: its largest are 2, 3, 4, those of y_train 1, 2, 3",
        ),
        (
            "y_test",
            10**9,
            "y_test has labels that y_train does not have: its largest are 2, 3, 1,000,000,000",
        ),
    ],
)
def test_labels_that_are_no_classes_are_shown_before_anything_is_made(tmp_path, name, label, message, capsys):
    plan = write_plan(tmp_path)
    arrays = dict(np.load(tmp_path / "data.npz"))
    arrays[name][0] = label
    np.savez(tmp_path / "data.npz", **arrays)
    for flags in (["--check"], []):
        assert main(["--plan_config_path", str(plan), *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match=re.escape(message)):
        load(tmp_path / "data.npz")


def test_a_network_for_images_and_inputs_that_are_none(tmp_path, capsys):
    plan = write_plan(tmp_path)
    for flags in (["--check"], []):
        assert main(["--plan_config_path", str(plan), "--set", "model_type=resnet18", *flags]) == 2
        error = capsys.readouterr().err
        assert "model_type resnet18 needs images, x_train is [" in error and "set model_type: mlp" in error
    assert not (tmp_path / "runs").exists()


def test_labels_of_all_kinds_of_integers(tmp_path):
    for kind in (np.uint8, np.int16, np.uint64):
        assert (
            load(tmp_path / "a.npz", ARRAYS | {"y_train": ARRAYS["y_train"].astype(kind)}).num_classes == 10
        )
    huge = ARRAYS["y_train"].astype(np.uint64)
    huge[3] = 2**64 - 1
    with pytest.raises(DataError, match="y_train has labels up to 18,446,744,073,709,551,615"):
        load(tmp_path / "b.npz", ARRAYS | {"y_train": huge})


def test_an_array_that_fits_no_memory_is_one_line(tmp_path):
    """Its header says 10^15 numbers."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**15,)})
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(
        DataError, match=r"data.npz cannot be read as a .npz file of plain arrays: "
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)
