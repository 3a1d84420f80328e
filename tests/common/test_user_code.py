"""Functions of users that change the working directory change it for themselves alone."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import save_tiny_t5

from common.registry import Registry
from common.run_dir import RunDir, find_runs
from common.user_code import directory_kept
from rl4lms_extract_samples_from_model_runner import main

CODE = """
import os, tempfile
os.chdir("/")

def wander(value):
    os.chdir(tempfile.gettempdir())
    return value

def fail(value):
    os.chdir("/")
    raise KeyError(value)

def vanish(value):
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    return value

def metric(batch):
    from rl4lms.text import Score
    os.chdir("/")
    return {"lengths": Score([float(len(text)) for text in batch.generated], 0.0)}

def pool(split):
    from rl4lms.samples import Sample
    os.chdir("/")
    return [Sample(id=str(i), prompt_or_input_text=f"the dog {i}", references=["us"]) for i in range(6)]
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's in the working directory."""
    (tmp_path / "wanderer.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield "wanderer"
    sys.modules.pop("wanderer", None)


def test_the_working_directory_is_put_back_and_this_is_said_once(module, tmp_path, caplog):
    registry = Registry("reward", {})
    wander = registry.build(f"{module}:wander", {})
    assert Path.cwd() == tmp_path, "importing it changed the directory, too"
    for value in range(3):
        assert wander(value) == value and Path.cwd() == tmp_path
    with pytest.raises(KeyError):
        registry.build(f"{module}:fail", {})(1)
    assert Path.cwd() == tmp_path
    assert registry.build(f"{module}:vanish", {})(7) == 7 and Path.cwd() == tmp_path
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(" changed")[0] for text in said] == [
        "importing 'wanderer'",
        "reward 'wanderer:wander'",
        "reward 'wanderer:fail'",
        "reward 'wanderer:vanish'",
    ]
    assert said[1].endswith(f": back to {tmp_path}") and "one that is gone" in said[3]


def test_code_that_stays_is_not_spoken_of(tmp_path, caplog):
    with directory_kept("nothing"):
        os.getcwd()
    assert caplog.records == []


def test_a_run_is_written_where_it_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunDir.create(Path("outputs"), "run", {}, {}) as run:
        os.chdir("/")
        run.append_metrics({"epoch": 0})
        run.update_manifest(status="finished")
    os.chdir(tmp_path)
    ((path),) = [found.path for found in find_runs(Path("outputs"))]
    assert json.loads((path / "manifest.json").read_text())["status"] == "finished"


def test_an_extraction_into_a_relative_folder_by_code_that_wanders(module, tmp_path):
    model = save_tiny_t5(tmp_path / "model", seed=1)
    fields = {
        "tokenizer": {"model_name": str(model), "max_length": 20},
        "datapool": {"id": f"{module}:pool", "num_train_samples": 4, "train_samples_rnd_seed": 0},
        "alg": {"model_type": "seq2seq", "model_name": "./model", "generation_kwargs": {"max_new_tokens": 4}},
        "evaluation": {
            "eval_batch_size": 4,
            "num_samples_per_input": 1,
            "metrics": [{"id": f"{module}:metric"}],
        },
    }
    Path("config.yml").write_text(yaml.safe_dump(fields))
    assert main(["--config_path", "config.yml", "--output_path", "outputs"]) == 0
    (run,) = find_runs(Path("outputs"))
    assert run.manifest["status"] == "finished"
    assert Path(f"{run.path}.pt").is_file()
