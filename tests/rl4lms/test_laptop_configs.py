"""The configs of rl4lms_scripts/laptop, each through `--check` of its runner, with and without models."""

import re
from pathlib import Path

import pytest
import yaml
from pretraining_setting import save_laptop_models

import pretrain_small_language_model
import rl4lms_extract_samples_from_model_runner
import rl4lms_train_text_generation
from rl4lms.config.group import DEFAULTS
from rl4lms.model.source import LAPTOP_MODELS

REPO = Path(__file__).parents[2]
CONFIGS = sorted((REPO / "rl4lms_scripts" / "laptop").glob("*_*.yml"))
PRETRAININGS = [path for path in CONFIGS if path.stem.startswith(("pretrain_", "train_"))]
ON_SUPERVISED = [path for path in CONFIGS if path.stem.endswith("_on_supervised")]
OTHERS = [path for path in CONFIGS if path not in PRETRAININGS]
TASKS = ("t5_hard_question", "gpt2_continuation")


def name_of(path):
    return path.name


def model_of(path):
    return f"outputs/laptop_models/{path.name.partition('_')[0]}"


def check(path, *overrides):
    runner = rl4lms_train_text_generation
    if path in PRETRAININGS:
        runner = pretrain_small_language_model
    elif path.stem.endswith("_extract_samples"):
        runner = rl4lms_extract_samples_from_model_runner
    return runner.main(["--config_path", str(path), "--check", *overrides])


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A working directory with what `--check` looks at of the models that pretraining makes."""
    monkeypatch.chdir(tmp_path)
    save_laptop_models(tmp_path)


def test_each_task_has_every_job():
    jobs = {
        "extract_samples",
        "supervised",
        "ppo",
        "nlpo",
        "ppo_on_supervised",
        "nlpo_on_supervised",
        *DEFAULTS,
    }
    assert [path.stem for path in PRETRAININGS] == ["pretrain_gpt2", "pretrain_t5", "train_style_classifier"]
    assert {path.stem for path in OTHERS} == {f"{task}_{job}" for task in TASKS for job in jobs}


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_valid_once_the_models_are_made(path, models, capsys):
    model = ["--set", f"alg.policy.args.model_name={model_of(path)}"] if path in ON_SUPERVISED else []
    assert check(path, *model) == 0
    output = capsys.readouterr()
    assert output.out and not output.err
    assert "note: " not in output.out


@pytest.mark.parametrize("path", ON_SUPERVISED, ids=name_of)
def test_placeholder_names_the_command(path, models, capsys):
    assert check(path) == 2
    _, problem = capsys.readouterr().err.splitlines()
    task = re.sub("_(ppo|nlpo)_on_supervised", "", path.stem)
    assert problem.endswith(
        "replace it by the model that this makes: python rl4lms_train_text_generation.py "
        f"--config_path rl4lms_scripts/laptop/{task}_supervised.yml"
    )


@pytest.mark.parametrize("path", OTHERS, ids=name_of)
def test_without_the_models_the_command_that_makes_them_is_named(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert check(path) == 2
    command = f"python pretrain_small_language_model.py --config_path {LAPTOP_MODELS[model_of(path)]}"
    problems = capsys.readouterr().err.splitlines()[1:]
    assert len(problems) == 2 and "tokenizer.model_name" in problems[0] and problems[0].endswith(command)
    assert "model_name" in problems[1] and (path in ON_SUPERVISED or problems[1].endswith(command))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_header_names_what_comes_before(path):
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("# ") for line in header.split("\n"))
    commands = re.findall(r"#   python (\S+) --config_path (\S+)", header)
    named = [Path(config).stem for runner, config in commands if (REPO / runner).is_file()]
    task = re.sub("_(extract_samples|supervised|(ppo|nlpo)(_on_supervised)?)$", "", path.stem)
    expected = [] if path in PRETRAININGS else [f"pretrain_{task.partition('_')[0]}"]
    assert named == expected + [f"{task}_supervised"] * (path in ON_SUPERVISED)


@pytest.mark.parametrize("task", TASKS)
def test_the_configs_of_a_task_have_the_same_data_reward_and_texts(task):
    found = []
    for path in OTHERS:
        if path.stem.startswith(task):
            config = yaml.safe_load(path.read_text())
            alg, evaluation = config["alg"], config.get("train_evaluation") or config["evaluation"]
            alg = alg["policy"]["args"] if "policy" in alg else alg
            metric = evaluation["metrics"][0]
            assert config.get("reward_fn", metric) == metric
            found.append((config["tokenizer"], config["datapool"]["args"], alg["generation_kwargs"], metric))
    assert len(found) == 12 and all(each == found[0] for each in found)
