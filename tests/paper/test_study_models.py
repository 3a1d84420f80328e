"""The models of a study: made once, gone on with, each task begun when its own are there."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from clones import link_clone
from planned_study import STUDIES
from pretend_models import pretend

from common.config import ConfigError
from common.run_dir import RunDir, RunError, find_runs
from paper.small_models.config import load_pretrain_config
from paper.small_models.jobs import manifest
from paper.study import load_study, models_needed, select_tasks
from paper.study_run import StudyError
from paper.text_study import make_models, models_missing
from rl4lms.model.source import check_model_source


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A working directory with the files of the repository and no outputs."""
    monkeypatch.chdir(link_clone(tmp_path))
    return tmp_path


@pytest.mark.parametrize("scale", STUDIES)
def test_models_are_missing_until_they_are_made(scale, clone):
    study = load_study(STUDIES[scale])
    assert len(models_missing(study)) == len(study.models)
    pretend(study)
    assert models_missing(study) == {}


def test_only_the_models_that_tasks_use_are_needed():
    study = load_study(STUDIES["laptop"])

    def names(*tasks):
        return sorted(path.name for path in models_needed(study, tasks))

    assert names("hard_question", "opening") == ["t5"]
    assert names("identifier_gpt2") == ["gpt2"]
    assert names("continuation") == ["gpt2", "style_classifier"]
    # What learning rates are chosen on is needed whatever is asked for.
    kept = models_needed(select_tasks(study, ["continuation"]))
    assert sorted(path.name for path in kept) == ["gpt2", "style_classifier", "t5"]


@pytest.fixture
def tiny(clone):
    """A study of one task with a tiny classifier, and the config of that model."""
    config = {
        "name": "tiny",
        "model_type": "classifier",
        "data": {"packages": ["argparse", "email", "logging"], "max_length": 24,
                 "classes": {"mail": ["email"], "other": ["argparse", "logging"]}},
        "vocabulary": {"size": 300},
        "model": {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 1},
        "alg": {"steps": 4, "batch_size": 4},
    }  # fmt: skip
    (clone / "tiny.yml").write_text(yaml.safe_dump(config))
    study = load_study(STUDIES["laptop"]).model_copy(update={"choice": None})
    task = study.tasks["hard_question"].model_copy(update={"model": "models/tiny"})
    made = {"models": ["tiny.yml"], "models_path": "models", "tasks": {"hard_question": task}}
    return study.model_copy(update=made)


def test_models_are_made_once(tiny):
    make_models(tiny, jobs=1)
    assert check_model_source("models/tiny") is None
    (run,) = find_runs(Path("models"))
    assert run.manifest["status"] == "finished" and run.manifest["threads"] == 1
    make_models(tiny, jobs=1)
    assert len(find_runs(Path("models"))) == 1


def test_what_needs_a_model_begins_when_it_is_there(tiny):
    """The other task, whose model is made elsewhere, does not wait."""
    here = tiny.tasks["hard_question"].model_copy(update={"model": "models/there"})
    tasks = {**tiny.tasks, "opening": here}
    begun = []

    def then(ready):
        begun.append((ready, Path("models/tiny").exists()))
        return []

    make_models(tiny.model_copy(update={"tasks": tasks}), jobs=1, then=then)
    assert begun == [(["opening"], False), (["hard_question"], True)]
    make_models(tiny, jobs=1, then=then)
    assert len(begun) == 2


def test_a_cut_model_is_gone_on_with_and_a_finished_one_is_found(tiny):
    config = load_pretrain_config("tiny.yml")
    with RunDir.create(Path("models"), "tiny", config.model_dump(), manifest(config)) as run:
        run.update_manifest(status="interrupted")
    make_models(tiny, jobs=1)
    assert [found.path.name for found in find_runs(Path("models"))] == [run.path.name]
    os.unlink("models/tiny")  # as if it had been killed before its model was published
    make_models(tiny, jobs=1)
    assert check_model_source("models/tiny") is None
    assert len(find_runs(Path("models"))) == 1


def test_what_goes_wrong_with_a_model_is_told(tiny):
    Path("models/tiny").mkdir(parents=True)
    with pytest.raises(RunError, match="models/tiny is in the way"):
        make_models(tiny, jobs=1)
    shutil.rmtree("models")
    text = Path("tiny.yml").read_text()
    Path("tiny.yml").write_text(text.replace("learning_rate: 0.02", "").replace("steps: 4", "steps: 0"))
    with pytest.raises(ConfigError, match=r"alg\.steps"):
        make_models(tiny, jobs=1)
    Path("tiny.yml").write_text(text.replace("steps: 4", "steps: 4\n  learning_rate: 1.0e+38"))
    with pytest.raises(StudyError, match="not made: models/tiny"):
        make_models(tiny, jobs=1)
