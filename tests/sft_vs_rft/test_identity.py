"""Which experiments are the same run: by what decides their numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
from plan_runs import write_data, write_plan

from common.files import atomic_torch_save
from sft_vs_rft.plan import Experiment, load_plan
from sft_vs_rft.schedule import identify


def experiments_of(plan: Path, *overrides: str) -> list[Experiment]:
    return load_plan(plan, overrides).experiments


def test_cosmetic_fields_do_not_change_the_identity_and_all_others_do(tmp_path):
    plan = write_plan(tmp_path)

    def of(*overrides: str) -> str:
        (experiment,) = experiments_of(plan, *overrides)
        return identify(experiment)

    cosmetic = [
        "outputs_dir=elsewhere",
        "gpu_ids=[]",
        "disable_console_log=true",
        "save_logs=false",
        "train_batch_log_interval=3",
        "epoch_log_interval=3",
        "save_metric_plots=true",
    ]
    assert {of(override) for override in cosmetic} == {of()}
    others = ["lr=0.5", "epochs=9", "random_seed=9", "num_checkpoints=-1", "experiment_name=x", "gpu_ids=[1]"]
    assert len({of(override) for override in others}) == len(others)
    (experiment,) = experiments_of(plan)
    assert identify(replace(experiment, repetition=1)) != identify(experiment)
    assert identify(replace(experiment, name="x", setting="y")) == identify(experiment)


@pytest.mark.parametrize("as_folder", [False, True], ids=["npz file", "folder"])
def test_the_content_of_the_data_is_part_of_the_identity(tmp_path, as_folder):
    (tmp_path / "data").mkdir()
    file = write_data(tmp_path / "data" / "data.npz", seed=0)
    plan = write_plan(tmp_path, data_dir=str(file.parent if as_folder else file))
    before = identify(*experiments_of(plan))
    write_data(file, seed=1)
    assert identify(*experiments_of(plan)) != before
    write_data(file, seed=0)
    assert identify(*experiments_of(plan)) == before


@pytest.mark.parametrize("field", ["load_model_from_checkpoint", "trainer_checkpoint", "run folder"])
def test_the_content_of_checkpoints_is_part_of_the_identity(tmp_path, field):
    import torch

    checkpoints = tmp_path / "start" / "checkpoints"
    checkpoints.mkdir(parents=True)
    file = checkpoints / "epoch_000001.pt"
    atomic_torch_save(file, {"model": {"w": torch.zeros(1)}})
    start = (
        {"load_model_from_checkpoint": str(tmp_path / "start")}
        if field == "run folder"
        else {field: str(file)}
    )
    plan = write_plan(tmp_path, **start)
    before = identify(*experiments_of(plan))
    atomic_torch_save(file, {"model": {"w": torch.ones(1)}})
    assert identify(*experiments_of(plan)) != before
