"""Sizes that no controlled experiment can have, or not with its data, are refused with the number."""

from pathlib import Path
from typing import Any

import pytest
from plan_runs import write_plan

import sft_vs_rft_controlled_experiments_plan_runner as runner

SAMPLES = "1,000,000,000 samples; at most 100,000,000 can be asked for"
FIELDS: dict[str, tuple[Any, str]] = {
    "batch_size": (10**9, "1,000,000,000 inputs at a time; at most 100,000,000 can be asked for"),
    "micro_batch_size": (10**9, "1,000,000,000 inputs at a time; at most 100,000,000 can be asked for"),
    "num_train_samples": (10**9, SAMPLES),
    "num_test_samples": (10**9, SAMPLES),
    "mlp_hidden_layer_sizes": (
        [100_000, 20_000],
        "2,000,000,000 weights between these layers; at most 1,000,000,000 can be asked for",
    ),
}


def check(plan: Path, capsys: Any) -> tuple[int, str]:
    code = runner.main(["--plan_config_path", str(plan), "--check"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("field", FIELDS)
def test_sizes_that_nothing_has_are_refused(field: str, tmp_path: Path, capsys: Any) -> None:
    value, message = FIELDS[field]
    assert check(write_plan(tmp_path), capsys)[0] == 0
    code, printed = check(write_plan(tmp_path, **{field: value}), capsys)
    assert code == 2 and field in printed and printed.rstrip().endswith(message)


def test_a_width_is_bounded_too(tmp_path: Path, capsys: Any) -> None:
    code, printed = check(write_plan(tmp_path, mlp_hidden_layer_sizes=[10**9]), capsys)
    assert code == 2
    assert "mlp_hidden_layer_sizes[0]  1,000,000,000 units of a layer; at most 1,000,000" in printed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_train_samples": 41}, "num_train_samples is 41, but y_train has 40 rows (-1 = all)"),
        ({"num_test_samples": 13}, "num_test_samples is 13, but y_test has 12 rows (-1 = all)"),
        ({"num_labels_per_sample": 5}, "num_labels_per_sample is 5, but the labels are of only 4 classes"),
    ],
)
def test_sizes_of_a_users_file(fields: dict[str, int], message: str, tmp_path: Path, capsys: Any) -> None:
    assert check(write_plan(tmp_path, **{name: n - 1 for name, n in fields.items()}), capsys)[0] == 0
    code, printed = check(write_plan(tmp_path, **fields), capsys)
    assert code == 2 and printed.rstrip().endswith(f"{tmp_path / 'data.npz'}: {message}")


@pytest.mark.parametrize(("dataset", "classes"), [("digits", 10), ("cifar100coarse", 20)])
def test_classes_of_known_datasets(dataset: str, classes: int, tmp_path: Path, capsys: Any) -> None:
    for labels, expected in ((classes - 1, 0), (classes + 1, 2)):
        plan = write_plan(tmp_path, dataset=dataset, data_dir="", num_labels_per_sample=labels)
        code, printed = check(plan, capsys)
        assert code == expected
    message = f"num_labels_per_sample  is {classes + 1}, but dataset {dataset!r} has only {classes} classes"
    assert message in printed


def test_processes_and_a_full_batch(tmp_path: Path, capsys: Any) -> None:
    code, printed = check(write_plan(tmp_path, multiprocess=True, num_parallel=10**9), capsys)
    assert code == 2 and printed.endswith("1,000,000,000 processes; at most 10,000 can be asked for\n")
    plan = write_plan(tmp_path, batch_size=100_000, epochs=10**9, mlp_hidden_layer_sizes=[30_000, 30_000])
    assert check(plan, capsys)[0] == 0
