"""Supervised finetuning goes on from a checkpoint of its own model alone; any other is one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_t5
from training_runs import config_of, new_run, save_data, setup_of, supervised_config

from common.run_dir import CheckpointError, RunDir
from rl4lms.run_setup import TrainingInterrupted
from rl4lms.sft.checkpoints import checkpoints_in, read_state
from rl4lms.sft.train import train


def cut_run(base: Path, model: Path, data: Path) -> Path:
    """A run that was stopped after three updates."""
    config = config_of(supervised_config(model, data, save_total_limit=1))
    with new_run(base, config) as run:
        with pytest.raises(TrainingInterrupted):
            train(setup_of(config, run, should_stop=lambda: bool(checkpoints_in(run.checkpoints_path))))
        (checkpoint,) = checkpoints_in(run.checkpoints_path)
        assert checkpoint.name == "checkpoint-3"
        return run.path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cut(tiny_t5: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_run(tmp_path_factory.mktemp("runs"), tiny_t5, data)


@pytest.fixture(scope="module")
def others(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of models of other sizes."""
    base = tmp_path_factory.mktemp("others")
    sizes: dict[str, Any] = {
        "wider": {"d_ff": 96},
        "deeper": {"num_layers": 3},
        "shallower": {"num_layers": 1},
    }
    folders = {name: save_tiny_t5(base / name, seed=1, **size) for name, size in sizes.items()}
    return {
        name: cut_run(base / "runs", folder, data) / "mine_checkpoints" / "checkpoint-3"
        for name, folder in folders.items()
    }


def edit_state(checkpoint: Path, **fields: Any) -> None:
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_optimizer(checkpoint: Path, edit: Any) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    edit(state)
    torch.save(state, checkpoint / "optimizer.pt")


def drop_weight(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["encoder.final_layer_norm.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def drop_group(state: dict[str, Any]) -> None:
    del state["param_groups"][1]


def widen(state: dict[str, Any]) -> None:
    state["state"][0]["exp_avg"] = torch.zeros(3, 3)


CHANGES = {
    "wider": r"it has \S+wi\.weight of \[96, 32\], must be \[64, 32\]$",
    "deeper": r"it has \S+ of \[.*\], which the model lacks$",
    "shallower": r"it lacks \d+ weights of the model \(encoder\.block\.1\.\S+, \.\.\.\)$",
    "a weight is gone": r"it lacks 1 weights of the model \(encoder\.final_layer_norm\.weight, \.\.\.\)$",
    "moments of other shapes": r"optimizer\.pt is of \d+ weights of other shapes than the model's$",
    "a group is gone": "loaded state dict has a different number of parameter groups$",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    change: str, cut: Path, others: dict[str, Path], tiny_t5: Path, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(cut, path, ignore=shutil.ignore_patterns(".lock"))
    checkpoint = path / "mine_checkpoints" / "checkpoint-3"
    if change in others:
        shutil.rmtree(checkpoint)
        shutil.copytree(others[change], checkpoint)
    elif change == "a weight is gone":
        drop_weight(checkpoint)
    else:
        edit_optimizer(checkpoint, widen if "shapes" in change else drop_group)
    config = config_of(supervised_config(tiny_t5, data))
    with RunDir.open(path) as run, pytest.raises(CheckpointError, match=CHANGES[change]) as caught:
        train(setup_of(config, run))
    assert str(caught.value).startswith(f"{checkpoint} does not fit this run: ")
    assert "\n" not in str(caught.value)


def test_an_optimizer_without_its_groups_is_named(
    cut: Path, tiny_t5: Path, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    shutil.copytree(cut, path, ignore=shutil.ignore_patterns(".lock"))
    checkpoint = path / "mine_checkpoints" / "checkpoint-3"
    edit_optimizer(checkpoint, lambda state: state.pop("state"))
    with RunDir.open(path) as run, pytest.raises(CheckpointError) as caught:
        train(setup_of(config_of(supervised_config(tiny_t5, data)), run))
    assert str(caught.value) == f"{checkpoint} is no checkpoint to go on from: it has no 'state'"


@pytest.mark.parametrize(
    "fields", [{"global_step": "1"}, {"epoch": None}, {"max_steps": []}, {"global_step": 1.5}], ids=str
)
def test_a_state_whose_steps_are_no_numbers(fields: dict[str, Any], cut: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    shutil.copytree(cut / "mine_checkpoints" / "checkpoint-3", checkpoint)
    assert read_state(checkpoint)["global_step"] == 3
    edit_state(checkpoint, **fields)
    with pytest.raises(CheckpointError, match=r"^trainer_state\.json cannot be read: no steps in it$"):
        read_state(checkpoint)


def test_what_fails_in_training_itself_is_not_blamed_on_the_checkpoint(
    cut: Path, tiny_t5: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    shutil.copytree(cut, path, ignore=shutil.ignore_patterns(".lock"))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr("rl4lms.sft.callback.RunCallback.on_pre_optimizer_step", fail)
    with RunDir.open(path) as run, pytest.raises(RuntimeError, match=r"^no memory$"):
        train(setup_of(config_of(supervised_config(tiny_t5, data)), run))
