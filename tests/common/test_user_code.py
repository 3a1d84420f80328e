"""Users' functions: the working directory is kept, failures are named with their place."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import save_tiny_t5

from common.registry import Registry
from common.run_dir import RunDir, find_runs
from common.source import read_source
from common.user_code import describe_place, directory_kept, explain_failure
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


HELPER = "import json\n\ndef deep(text):\n    return json.loads(text)\n"
OWN = "from own_helper import deep\n\n\ndef shallow(value):\n    return 1 / value\n"


def error_of(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_helper.py").write_text(HELPER)
    (tmp_path / "own_code.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_helper", "own_code"):
        monkeypatch.delitem(importlib.sys.modules, name, raising=False)  # type: ignore[attr-defined]
    return importlib.import_module("own_code")


def test_the_innermost_line_of_the_user_s_code(own: Any, tmp_path: Path) -> None:
    assert describe_place(error_of(own.shallow, 0)) == f"{tmp_path / 'own_code.py'}:5"
    # Not that of the library that it calls, and that of the helper of its own.
    assert describe_place(error_of(own.deep, "{")) == f"{tmp_path / 'own_helper.py'}:4"
    assert explain_failure(error_of(own.shallow, 0)) == (
        f": division by zero, at {tmp_path / 'own_code.py'}:5"
    )


def test_an_installed_package_of_the_user_s_is_where_this_project_calls_it() -> None:
    place = describe_place(
        error_of(json.loads, "{").with_traceback(_without_this_file(error_of(json.loads, "{")))
    )
    assert place is not None and place.startswith(json.__file__ or "")


def _without_this_file(error: BaseException) -> Any:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def test_an_error_of_this_project_s_own_has_no_place_in_the_user_s_code(tmp_path: Path) -> None:
    error = error_of(read_source, tmp_path / "none.yml")
    error.__traceback__ = _without_this_file(error)
    assert describe_place(error) is None
    assert explain_failure(SystemExit()) == ""
    assert explain_failure(ValueError("no")) == ": no"
