"""Pretraining of small language models: the run, its runner, what users get wrong."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretraining_setting import config_of, run_of, weights

from common.files import atomic_torch_save, read_rows
from common.links import publish
from common.run_dir import RunDir, find_runs, load_checkpoint
from paper.small_models.config import load_pretrain_config
from paper.small_models.corpus import Corpus
from paper.small_models.train import ROWS, TrainingInterrupted, pretrain
from pretrain_small_language_model import main
from rl4lms.model.load import load_model, load_tokenizer
from rl4lms.model.source import LAPTOP_MODELS, check_model_source

pytestmark = pytest.mark.usefixtures("docstring_cache")

REPO = Path(__file__).parents[2]


# The run


@pytest.fixture(scope="module")
def whole(docstring_cache, tmp_path_factory):
    """An uninterrupted run through the runner; its output folder and config file."""
    folder = tmp_path_factory.mktemp("whole")
    path = config_of(folder)
    assert main(["--config_path", str(path), "--output_path", str(folder)]) == 0
    return folder, path


def test_what_a_run_leaves(whole):
    folder, _ = whole
    (run,) = find_runs(folder)
    model = folder / "tiny"
    assert model.is_symlink() and model.resolve() == run.path / "tiny_model"
    assert not Path(os.readlink(model)).is_absolute()
    assert run.manifest["status"] == "finished" and run.manifest["job"] == "pretraining"
    rows = read_rows(run.path / ROWS, "step")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in rows if "val" in row] == [6, 12]
    assert {"loss", "denoising loss", "identifier accuracy"} <= rows[-1]["val"].keys()
    assert (run.path / "plots" / "loss.png").stat().st_size > 5_000
    log = (run.path / "log.txt").read_text()
    assert "identifier: 'write as an identifier: " in log and "(expected: '" in log
    assert check_model_source(str(model), "seq2seq") is None
    loaded = load_model(str(model), "seq2seq", torch.float32, "cpu")
    assert sum(p.numel() for p in loaded.parameters()) == run.manifest["weights"]
    assert load_tokenizer(str(model)).model_max_length == 24


def untimed_rows(run):
    rows = read_rows(run / ROWS, "step")
    for row in rows:
        del row["train"]["tokens/s"]
    return rows


def test_cut_runs_end_with_the_same_weights(whole, tmp_path):
    folder, path = whole
    config, run = run_of(tmp_path, path)
    updates = iter(range(100))
    with run, pytest.raises(TrainingInterrupted):  # in the middle of a row and between checkpoints
        pretrain(config, run, should_stop=lambda: next(updates) == 6)
    assert run.checkpoints()[-1].name == "epoch_000007.pt"
    killed_at = {"step": 8}

    def killed(step, status):
        if step > killed_at["step"]:
            raise KeyboardInterrupt  # after update 9, whose row and checkpoint are not there

    with RunDir.open(run.path) as run, pytest.raises(KeyboardInterrupt):
        pretrain(config, run, report=killed)
    assert run.checkpoints()[-1].name == "epoch_000008.pt"
    assert main(["--resume", str(run.path)]) == 0
    assert weights(tmp_path / "tiny") == weights(folder / "tiny")
    assert untimed_rows(run.path) == untimed_rows((folder / "tiny").resolve().parent)
    assert main(["--resume", str(run.path)]) == 0  # of a finished run: nothing changes
    assert weights(tmp_path / "tiny") == weights(folder / "tiny")


@pytest.mark.slow
def test_another_process_ends_with_the_same_weights_and_tokenizer(whole, tmp_path):
    folder, path = whole
    command = [sys.executable, "pretrain_small_language_model.py", "--config_path", str(path)]
    environment = os.environ | {"PYTHONHASHSEED": "17", "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path)], cwd=REPO, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "tiny" / name).read_bytes() == (folder / "tiny" / name).read_bytes(), name


def test_other_text_is_not_gone_on_with(whole, tmp_path, monkeypatch):
    _, path = whole
    config, run = run_of(tmp_path, path)
    with run, pytest.raises(TrainingInterrupted):
        pretrain(config, run, should_stop=lambda: True)
    monkeypatch.setattr("paper.small_models.train.training_corpus", lambda config: Corpus(["a b c d"], {}))
    assert main(["--resume", str(run.path)]) == 1
    assert "no longer have the text" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model"), "it has no 'model'"),
        (lambda state: state.pop("optimizer"), "it has no 'optimizer'"),
        (lambda state: state["model"].popitem(), "does not fit this run: Error(s) in loading state_dict"),
        (lambda state: state["optimizer"]["param_groups"].pop(), "does not fit this run: "),
        (lambda state: state.update(step="seven"), "does not fit this run: invalid literal"),
    ],
    ids=["no model", "no optimizer", "another model", "another optimizer", "no number"],
)
def test_a_checkpoint_of_something_else_is_one_line(whole, tmp_path, change, message):
    _, path = whole
    config, run = run_of(tmp_path, path)
    with run, pytest.raises(TrainingInterrupted):
        pretrain(config, run, should_stop=lambda: True)
    (checkpoint,) = run.checkpoints()
    state = load_checkpoint(checkpoint)
    change(state)
    atomic_torch_save(checkpoint, state)
    assert main(["--resume", str(run.path)]) == 1
    log = (run.path / "log.txt").read_text()
    assert f"{checkpoint} " in log and message in log and "Traceback" not in log


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_it_learns(kind, tmp_path):
    sizes = {"steps": 120, "log_every": 20, "eval_every": 120, "save_every": 120, "batch_size": 16}
    config, run = run_of(tmp_path, config_of(tmp_path, kind, **sizes))
    with run:
        pretrain(config, run)
    rows = read_rows(run.path / ROWS, "step")
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"] - 0.5
    assert rows[-1]["val"]["loss"] < math.log(400) - 0.5  # that of any token as likely


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    path = config_of(tmp_path, learning_rate=1e38)
    assert main(["--config_path", str(path), "--output_path", str(tmp_path)]) == 1
    (run,) = find_runs(tmp_path)
    assert "lower alg.learning_rate" in run.manifest["error"]
    assert not (tmp_path / "tiny").exists()


# What users get wrong


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("alg.mixture={denoisng: 1}", "unknown task 'denoisng'; did you mean 'denoising'?"),
        ("alg.mixture={}", "missing; expected the tasks of a seq2seq model: span_corruption, "),
        ("alg.mixture={next_token: 1}", "alg.mixture.next_token  is no task of a seq2seq model; remove it"),
        ("model_type=classifier", "a classifier's examples are of its classes, as many of each; remove it"),
        ("model.num_heads=3", "3 does not divide d_model (16)"),
        ("vocabulary.size=100", "must be at least 213 for a seq2seq model, got 100"),
        ("name=a/b", "becomes the name of a folder, got 'a/b'"),
        ("data.packages=[nonesuch]", "package 'nonesuch' is not installed"),
    ],
)
def test_mistakes_are_told(override, message, tmp_path, capsys):
    argv = ["--config_path", str(config_of(tmp_path)), "--output_path", str(tmp_path), "--set", override]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert find_runs(tmp_path) == []


def test_tasks_of_a_seq2seq_model_are_none_of_a_causal_one(tmp_path, capsys):
    path = config_of(tmp_path, "causal", mixture={"next_token": 1, "span_corruption": 1, "identifier": 1})
    assert main(["--config_path", str(path), "--check"]) == 2
    first, *problems = capsys.readouterr().err.splitlines()
    assert first.endswith(": 1 problem") and len(problems) == 1
    assert "alg.mixture.span_corruption  is no task of a causal model; remove it" in problems[0]


def test_check_says_what_will_happen(tmp_path, capsys):
    argv = ["--config_path", str(config_of(tmp_path)), "--check", "--set", "alg.steps=1000"]
    assert main(argv) == 0
    sizes, model, _ = capsys.readouterr().out.split("\n", 2)
    assert sizes == "training: 1,000 updates x 8 = 8,000 examples"
    assert model == "model: outputs/laptop_models/tiny"


def test_flags_that_do_not_go_together(tmp_path, capsys):
    for argv in ([], ["--resume", str(tmp_path), "--set", "name=x"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert main(["--resume", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_model_stays(tmp_path, capsys):
    path = config_of(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert main(["--config_path", str(path), "--output_path", str(tmp_path)]) == 2
    assert f"{tmp_path / 'tiny'} is in the way" in capsys.readouterr().err
    assert find_runs(tmp_path) == []


def test_a_newer_model_takes_the_place_of_the_older(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "tiny_model").mkdir(parents=True)
        publish(tmp_path / name / "tiny_model", tmp_path / "tiny")
    assert os.readlink(tmp_path / "tiny") == "new/tiny_model"


def test_a_laptop_model_that_is_not_made_yet_names_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, config in LAPTOP_MODELS.items():
        made = load_pretrain_config(REPO / config)
        assert name == f"outputs/laptop_models/{made.name}"
        command = f"python pretrain_small_language_model.py --config_path {config}"
        assert check_model_source(name) == f"no such folder: {name!r}; made by: {command}"
        assert check_model_source(f"{name}/") == f"no such folder: {name + '/'!r}; made by: {command}"
    Path("outputs/laptop_models").mkdir(parents=True)
    Path("outputs/laptop_models/t5").symlink_to("t5_deleted/t5_model")
    assert "made by: python " in (check_model_source("outputs/laptop_models/t5") or "")


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"data.max_length": 10**9}, ["data.max_length 1,000,000,000 tokens; at most 10,000,000 can be"]),
        ({"vocabulary.size": 10**9}, ["vocabulary.size 1,000,000,000 tokens; at most 10,000,000 can be"]),
        ({"alg.batch_size": 10**9}, ["alg.batch_size 1,000,000,000 texts at a time; at most 1,000,000 can"]),
        (
            {"alg.batch_size": 10**5, "data.max_length": 10**4},
            ["1,000,000,000 tokens of an update, with data.max_length 10,000; at most 268,435,456 can be"],
        ),
        ({"model.d_model": 10**9, "model.num_heads": 1}, ["weights; at most 1,000,000,000 can be asked for"]),
        ({"model.num_layers": 10**9}, ["weights; at most 1,000,000,000 can be asked for"]),
        ({"alg.steps": 10**9, "alg.log_every": 10**9}, []),
        ({"model.d_model": 1280, "model.num_layers": 12, "model.d_ff": 5120}, []),
    ],
    ids=str,
)
def test_sizes_that_no_small_model_has_are_refused(fields, messages, tmp_path, capsys):
    overrides = [flag for field, value in fields.items() for flag in ("--set", f"{field}={value}")]
    code = main(["--config_path", str(config_of(tmp_path)), "--check", *overrides])
    printed = capsys.readouterr().err
    assert code == (2 if messages else 0), printed
    words = " ".join(printed.split())
    assert all(message in words for message in messages), printed
