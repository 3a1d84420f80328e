from pathlib import Path
from typing import Any

import pytest
import torch

from sft_vs_rft.config import ExperimentConfig
from sft_vs_rft.data import ControlledData, DataError, TokenizedPairs, load_data
from sft_vs_rft.data.docstring_pairs import load_sentences
from sft_vs_rft.data.images import digits


def load(**fields: Any) -> ControlledData:
    values = {
        "dataset": "digits",
        "model_type": "mlp",
        "epochs": 1,
        "experiment_name": "test",
        "samples_rnd_seed": 192,
        "num_labels_per_sample": 5,
        **fields,
    }
    return load_data(ExperimentConfig.model_validate(values))


def tensors(data: ControlledData) -> list[torch.Tensor]:
    assert isinstance(data.train_inputs, torch.Tensor) and isinstance(data.test_inputs, torch.Tensor)
    assert data.label_sets is not None
    return [
        data.train_inputs,
        data.train_labels,
        data.modified,
        data.test_inputs,
        data.test_labels,
        data.label_sets,
    ]


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.equal(first, second)


def test_digits_whole() -> None:
    data = load(use_multiple_labels_per_sample=True)
    train, labels, modified, test, test_labels, label_sets = tensors(data)
    assert train.shape == (1000, 1, 8, 8) and test.shape == (797, 1, 8, 8) and data.num_classes == 10
    assert (train.dtype, labels.dtype, modified.dtype) == (torch.float32, torch.int64, torch.bool)
    assert (test_labels.dtype, label_sets.dtype) == (torch.int64, torch.int64)
    assert labels.shape == modified.shape == (1000,) and test_labels.shape == (797,)
    assert label_sets.shape == (10, 5) and not modified.any()


def test_finetuning_sees_the_inputs_and_sets_of_its_pretraining() -> None:
    pretraining = load(num_train_samples=500, num_test_samples=100, use_multiple_labels_per_sample=True)
    finetuning = load(num_train_samples=500, num_test_samples=100, frac_samples_to_modify_labels=0.1)
    for name in ("train_inputs", "test_inputs", "test_labels", "label_sets"):
        assert same(getattr(pretraining, name), getattr(finetuning, name)), name
    modified = finetuning.modified
    assert modified.sum() == 50
    assert same(finetuning.train_labels[~modified], pretraining.train_labels[~modified])
    sets = pretraining.label_sets
    assert sets is not None
    assert not (finetuning.train_labels[modified, None] == sets[pretraining.train_labels[modified]]).any()


def test_the_same_config_gives_the_same_data_and_another_seed_another() -> None:
    fields: dict[str, Any] = {"num_train_samples": 500, "frac_samples_to_modify_labels": 0.1}
    first, again, other = (tensors(load(**fields, samples_rnd_seed=seed)) for seed in (192, 192, 193))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], other[0]) and not same(first[2], other[2]) and not same(first[5], other[5])


def test_each_choice_has_its_own_generator() -> None:
    base = load(num_train_samples=500, frac_samples_to_modify_labels=0.1)
    fewer = load(num_train_samples=400, num_test_samples=50, frac_samples_to_modify_labels=0.1)
    assert base.label_sets is not None and fewer.label_sets is not None
    assert same(base.label_sets, fewer.label_sets)
    smaller_sets = load(num_train_samples=500, num_labels_per_sample=3, frac_samples_to_modify_labels=0.1)
    assert smaller_sets.label_sets is not None
    assert same(base.modified, smaller_sets.modified)


def test_subset_is_stratified_and_from_the_split() -> None:
    data, pool = load(num_train_samples=200), digits()
    assert isinstance(data.train_inputs, torch.Tensor)
    assert data.train_labels.bincount().min() >= 19 and data.train_labels.bincount().max() <= 21
    whole = {row.numpy().tobytes() for row in torch.from_numpy(pool.train.take(torch.arange(1000).numpy()))}
    assert {row.numpy().tobytes() for row in data.train_inputs} < whole


def test_no_seed_draws_anew() -> None:
    first, second = (load(num_train_samples=500, samples_rnd_seed=-1).train_inputs for _ in range(2))
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor) and not same(first, second)


def test_one_label_per_input_has_no_sets() -> None:
    data = load(num_labels_per_sample=1, frac_samples_to_modify_labels=0.1)
    assert data.label_sets is None and data.modified.sum() == 100
    original = load(num_labels_per_sample=1)
    assert same(data.train_labels != original.train_labels, data.modified)


def test_to_moves_everything() -> None:
    moved = load().to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"} and moved.num_classes == 10
    assert load(num_labels_per_sample=1).to("meta").label_sets is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_train_samples": 1001},
            r"num_train_samples: 1,001 inputs asked for, only 1,000 available \(-1 = all\)",
        ),
        ({"num_test_samples": 800}, r"num_test_samples: 800 inputs asked for, only 797 available"),
        ({"num_labels_per_sample": 11}, "num_labels_per_sample is 11, but the dataset has only 10 classes"),
        (
            {"num_labels_per_sample": 10, "frac_samples_to_modify_labels": 0.1},
            "label sets of all 10 classes leave no other label",
        ),
        (
            {"data_dir": "somewhere"},
            "dataset 'digits' comes with the installed packages; leave data_dir empty",
        ),
        ({"dataset": "mnist", "data_dir": "no/such/place"}, "no such file or folder: 'no/such/place'"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(**fields)


def test_stsb_from_its_own_files(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2\tscore\n"
    (tmp_path / "train.tsv").write_text(
        header + "".join(f"{i}\ta b\tb {'c ' * i}\t{i / 2}\n" for i in range(11))
    )
    (tmp_path / "dev.tsv").write_text(header + "0\tc\ta\t3.5\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    data = load(
        dataset="stsb",
        model_type="bert-mini",
        data_dir=str(tmp_path),
        tokenizer_path=str(tmp_path),
        num_labels_per_sample=3,
    )
    assert isinstance(data.train_inputs, TokenizedPairs) and isinstance(data.test_inputs, TokenizedPairs)
    assert data.train_labels.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5]
    assert data.train_inputs.lengths.tolist() == list(range(6, 17))
    assert data.train_inputs.input_ids[1].tolist() == [2, 5, 6, 3, 6, 7, 3] + [0] * 9
    assert data.test_labels.tolist() == [4] and data.test_inputs.input_ids.tolist() == [[2, 7, 3, 5, 3]]
    assert data.num_classes == 6 and data.label_sets is not None and data.label_sets.shape == (6, 3)


def test_docstring_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sentences = load_sentences(("argparse", "asyncio", "email", "logging", "unittest"), tmp_path)
    monkeypatch.setattr("sft_vs_rft.data.load.load_sentences", lambda: sentences)
    data = load(
        dataset="docstring_pairs",
        model_type="bert-mini",
        num_labels_per_sample=3,
        num_train_samples=300,
        num_test_samples=60,
        frac_samples_to_modify_labels=0.1,
    )
    assert isinstance(data.train_inputs, TokenizedPairs) and isinstance(data.test_inputs, TokenizedPairs)
    assert len(data.train_inputs) == 300 and len(data.test_inputs) == 60
    assert data.num_classes == 6 and data.modified.sum() == 30
    assert data.test_labels.bincount().tolist() == [10] * 6
    unknown = 1
    assert not (data.train_inputs.input_ids == unknown).any() and data.train_inputs.input_ids.max() < 30_522
