"""Checkpoints that are not of this experiment: one line that names the file and what does not fit."""

import shutil
from pathlib import Path

import pytest
import torch
from plan_runs import runs_of, write_plan

from common.files import atomic_torch_save
from common.run_dir import load_checkpoint
from sft_vs_rft_controlled_experiments_plan_runner import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two epochs, in a folder of its own."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["--plan_config_path", str(write_plan(folder, epochs=2, opt_method="supervised"))]) == 0
    (run,) = runs_of(folder)
    return run.path


CHANGES = {
    "no model": (lambda state: state.pop("model"), "it has no 'model'"),
    "no optimizer": (lambda state: state.pop("optimizer"), "it has no 'optimizer'"),
    "no monitor": (lambda state: state["monitor"].pop("history"), "it has no 'history'"),
    "no epoch": (lambda state: state.update(epoch="two"), "does not fit this run: "),
    "other shapes": (
        lambda state: state["model"].update({"layer0.weight": torch.zeros(7, 5)}),
        "layer0.weight is [7, 5], must be [6, 5]",
    ),
    "weights that are none": (lambda state: state.update(model=[1, 2]), "does not fit this run: "),
    "another optimizer": (
        lambda state: state["optimizer"]["param_groups"][0].update(params=[0]),
        "does not fit this run: loaded state dict contains a parameter group",
    ),
    "other shapes of the optimizer": (
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        "does not fit this run: the optimizer's exp_avg of weight 0 is [3], must be [6, 5]",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_as_the_checkpoint_to_go_on_from(finished, tmp_path, name, caplog, capsys):
    change, message = CHANGES[name]
    (source,) = (finished / "checkpoints").iterdir()
    state = load_checkpoint(source)
    change(state)
    path = tmp_path / "epoch_000001.pt"
    atomic_torch_save(path, state)
    plan = write_plan(tmp_path, epochs=4, opt_method="supervised", trainer_checkpoint=str(path))
    assert main(["--plan_config_path", str(plan)]) == 1
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any(str(path) in text and message in text and "\n" not in text for text in said), said
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("name", ["no model", "other shapes", "weights that are none"])
def test_as_start_weights(finished, tmp_path, name, caplog):
    change, message = CHANGES[name]
    start = Path(shutil.copytree(finished, tmp_path / "start"))
    (path,) = (start / "checkpoints").iterdir()
    state = load_checkpoint(path)
    change(state)
    atomic_torch_save(path, state)
    plan = write_plan(tmp_path, opt_method="supervised", load_model_from_checkpoint=str(start))
    assert main(["--plan_config_path", str(plan)]) == 1
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any(str(path) in text and message in text for text in said), said
    assert not any(record.exc_info for record in caplog.records)
