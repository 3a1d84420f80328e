"""The training runner: flags, what it leaves, resuming, mistakes."""

import json
import re
import signal
import threading
import traceback
from pathlib import Path

import pytest
import yaml
from training_runs import ppo_config, save_data, supervised_config

import rl4lms_train_text_generation as runner
from common.run_dir import RunDir, find_runs, read_run
from rl4lms.config import load_train_config
from rl4lms.errors import DivergenceError, TrainingInterrupted
from rl4lms.model.source import check_model_source, check_tokenizer_source
from rl4lms.rewards import RewardError
from rl4lms.train import OPTIONS, default_name, open_run, start_tracker

main = runner.main


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_t5, tiny_gpt2):
    """Configs of supervised finetuning (two updates) and of PPO."""
    folder = tmp_path_factory.mktemp("runner")
    data = save_data(folder / "data")
    raw = supervised_config(tiny_t5, data, max_steps=2, logging_steps=1)
    (folder / "t5_supervised.yml").write_text(yaml.safe_dump(raw))
    (folder / "gpt2_ppo.yml").write_text(yaml.safe_dump(ppo_config(tiny_gpt2, data)))
    return folder


def flags(files, base, *more, config="t5_supervised.yml"):
    return ["--config_path", str(files / config), "--base_path_to_store_results", str(base), *more]


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """The folder of a run with all that can be asked for and needs no network."""
    base = tmp_path_factory.mktemp("finished")
    more = ["--experiment_name", "mine", "--log_entire_predictions", "--log_to_tensorboard", "--seed", "3"]
    more += ["--set", "datapool.frac_train_samples=0.5"]
    assert main(flags(files, base, *more)) == 0
    (run,) = find_runs(base)
    return run.path


def test_names_are_those_of_the_released_code(finished):
    assert re.fullmatch(r"mine_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", finished.name)
    names = {path.name for path in finished.iterdir()}
    splits = [f"mine_{split}_split_metrics.jsonl" for split in ("train", "val", "test")]
    texts = {
        f"mine_epoch_{epoch}_{split}_split_predictions.json"
        for split, epochs in {"train": (0.0, 1.0), "val": (0.0, 0.5, 1.0), "test": (0.0, 1.0)}.items()
        for epoch in epochs
    }
    others = {"manifest.json", "mine_config.json", "mine_log.txt", "mine_training_info.jsonl", ".lock"}
    folders = {"mine_checkpoints", "mine_model", "plots", "tensorboard"}
    assert names == {*splits, *texts, *others, *folders}
    assert {"losses.png", "gradient_norm.png", "evaluation_lexical.png"} <= {
        path.name for path in (finished / "plots").iterdir()
    }


def test_the_manifest_says_what_was_run(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert (manifest["status"], manifest["job"], manifest["algorithm"]) == (
        "finished",
        "training",
        "supervised",
    )
    assert manifest["seeds"]["runtime.seed"] == 3
    assert manifest["options"]["log_entire_predictions"] and not manifest["options"]["no_eval_on_train_set"]
    assert manifest["artefacts"] == ["mine_model"]
    assert manifest["samples"] == {"train": 8, "val": 6, "test": 5}
    assert manifest["error"] is None


def test_the_model_is_a_valid_model_name(finished):
    model = str(finished / "mine_model")
    assert check_model_source(model, "seq2seq") is check_tokenizer_source(model) is None


def test_the_resolved_config_gives_the_same_run(finished, tmp_path):
    """Also where the config leaves the choice of train samples unseeded: the drawn seed is recorded."""
    from training_runs import rows_of

    config = finished / "mine_config.json"
    seed = json.loads(config.read_text())["datapool"]["train_samples_rnd_seed"]
    assert seed >= 0
    assert (
        json.loads((finished / "manifest.json").read_text())["seeds"]["datapool.train_samples_rnd_seed"]
        == seed
    )
    arguments = ["--config_path", str(config), "--base_path_to_store_results", str(tmp_path)]
    assert main([*arguments, "--experiment_name", "mine"]) == 0
    (again,) = find_runs(tmp_path)
    for name in ("training_info", "test_split_metrics", "train_split_metrics"):
        assert rows_of(again.path, name) == rows_of(finished, name)


def test_what_will_happen_is_said_first(finished):
    log = (finished / "mine_log.txt").read_text()
    for line in (
        "training: 0.5 of the train samples, 2 updates of 8 texts each",
        "samples: 8 to train on; evaluated: train 8, val 6, test 5",
        "memory: 0.7 MB a process without activations, of 43,776 weights each: model (weights, gradients, ",
        "a checkpoint: 0.5 MB",
        "16 training texts from 8 samples",
        f"model: {finished / 'mine_model'}",
    ):
        assert line in log


def test_a_run_of_a_version_that_sampled_evaluations_otherwise_is_not_gone_on_with(files, tmp_path, capsys):
    args = runner.build_parser().parse_args(flags(files, tmp_path))
    with open_run(args, load_train_config(files / "t5_supervised.yml"), OPTIONS) as run:
        config = dict(run.config)
    del config["train_evaluation"]["generation_kwargs_on_train"]
    (run.path / f"{run.prefix}config.json").write_text(json.dumps(config))
    assert main(["--resume", str(run.path)]) == 2
    assert capsys.readouterr().err == (
        f"{run.path} was begun by an older version, which generated the texts of evaluation otherwise: its "
        "rows could not be compared with those to come; start it anew\n"
    )


def test_default_name_is_of_dataset_and_file():
    config = load_train_config("rl4lms_scripts/training/narrative_qa/t5_ppo.yml")
    assert default_name(Path("a/t5_ppo.yml"), config) == "narrative_qa_t5_ppo"
    assert default_name(Path("a/narrative_qa_t5_ppo.yml"), config) == "narrative_qa_t5_ppo"
    assert default_name(Path("a/my config.yml"), config) == "narrative_qa_my_config"


def test_no_evaluation_on_train(files, tmp_path):
    assert main(flags(files, tmp_path, "--no_eval_on_train_set")) == 0
    (run,) = find_runs(tmp_path)
    assert run.path.name.startswith("jsonl_t5_supervised_20")
    assert not list(run.path.glob("*train_split*")) and list(run.path.glob("*val_split*"))


def test_the_run_that_the_model_is_from_is_recorded(files, finished, tmp_path):
    override = f"alg.model_name={finished / 'mine_model'}"
    config = load_train_config(files / "t5_supervised.yml", [override])
    args = runner.build_parser().parse_args(flags(files, tmp_path, "--set", override))
    with open_run(args, config, OPTIONS) as run:
        assert run.manifest["parent_run"] == str(finished)
        assert start_tracker(run, config)


# Stops, failures, resuming


def test_ctrl_c_checkpoints_and_the_resumed_run_equals_an_uninterrupted_one(files, tmp_path, capfd):
    from training_runs import rows_of

    assert main(flags(files, tmp_path / "whole", "--experiment_name", "mine")) == 0

    from rl4lms.sft.callback import RunCallback

    original = RunCallback.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCallback, "on_step_end", on_step_end)
        code = main(flags(files, tmp_path / "cut", "--experiment_name", "mine", "--log_entire_predictions"))
    assert code == 130
    (run,) = find_runs(tmp_path / "cut")
    assert run.manifest["status"] == "interrupted"
    error = capfd.readouterr().err
    assert runner.INTERRUPT_MESSAGE in error
    assert f"interrupted; to go on: python {runner.__name__}.py --resume {run.path}" in error

    assert main(["--resume", str(run.path)]) == 0
    assert read_run(run.path).manifest["status"] == "finished"
    (whole,) = find_runs(tmp_path / "whole")
    for name in ("training_info", "train_split_metrics", "val_split_metrics", "test_split_metrics"):
        assert rows_of(run.path, name) == rows_of(whole.path, name)
    weights = [path / "mine_model" / "model.safetensors" for path in (run.path, whole.path)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # An option of the first command, taken again.
    assert (run.path / "mine_epoch_0.5_test_split_predictions.json").is_file()
    assert "missing keys" not in capfd.readouterr().err  # of tied weights, which the Trainer finds missing

    assert main(["--resume", str(run.path)]) == 2
    assert capfd.readouterr().err.endswith(f"{run.path} is finished: there is nothing to resume\n")


@pytest.mark.parametrize(
    ("error", "code", "status", "shown"),
    [
        (DivergenceError("the loss is nan: lower it"), 1, "failed", "ERROR the loss is nan: lower it\n"),
        (RewardError("reward 'own' raised"), 1, "failed", "ERROR reward 'own' raised\n"),
        (TrainingInterrupted(), 130, "interrupted", "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
        (ZeroDivisionError("by 0"), 1, "failed", "Traceback (most recent call last)"),
        (SystemExit(0), 1, "failed", "Traceback (most recent call last)"),
    ],
)
@pytest.mark.parametrize("checkpoints", [0, 1])
def test_exit_status(files, tmp_path, monkeypatch, capfd, error, code, status, shown, checkpoints):
    def fail(setup):
        for number in range(checkpoints):
            setup.run.save_checkpoint({}, number)
        raise error

    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: fail)
    assert main(flags(files, tmp_path, config="gpt2_ppo.yml")) == code
    (run,) = find_runs(tmp_path)
    assert run.manifest["status"] == status
    log = capfd.readouterr().err
    assert shown in log
    # Where this try left a checkpoint behind, unless the next one would come to the same end.
    helps = code == 130 or (checkpoints and not isinstance(error, DivergenceError))
    assert (f"to go on: python {runner.__name__}.py --resume {run.path}" in log) == helps
    assert ("Traceback" in log) == isinstance(error, ZeroDivisionError | SystemExit)
    if code == 1:
        assert run.manifest["error"] == f"{type(error).__name__}: {error}"


def test_runner_dispatcher_and_page_follow_each_other_on_the_stack(files, tmp_path, monkeypatch):
    import rl4lms.ppo.update

    original, stacks = rl4lms.ppo.update.ppo_loss, []

    def ppo_loss(*args, **kwargs):
        stacks.append([Path(frame.filename) for frame in traceback.extract_stack()])
        return original(*args, **kwargs)

    monkeypatch.setattr(rl4lms.ppo.update, "ppo_loss", ppo_loss)
    assert main(flags(files, tmp_path, config="gpt2_ppo.yml")) == 0
    start = stacks[0].index(Path(runner.__file__))
    repository = Path(runner.__file__).parent
    names = [path.relative_to(repository).as_posix() for path in stacks[0][start : start + 3]]
    assert names == [f"{runner.__name__}.py", "rl4lms/train.py", "rl4lms/ppo/train.py"]


def test_the_on_policy_setup_is_what_the_config_says(files, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: seen.append)
    assert main(flags(files, tmp_path, "--no_eval_on_train_set", config="gpt2_ppo.yml")) == 0
    (setup,) = seen
    assert setup.prefix == "jsonl_gpt2_ppo_" == setup.run.prefix
    assert (setup.config.alg.id, len(setup.train), setup.splits) == ("ppo", 16, ["val", "test"])
    assert setup.world.is_main and setup.tracker is not None
    log = (setup.path / "jsonl_gpt2_ppo_log.txt").read_text()
    assert "an iteration: 80 tokens, 5 minibatches of 16 x 2 epochs = 10 updates" in log
    assert "policy (weights, gradients, AdamW), value model (weights, gradients, AdamW), reference" in log


def test_changed_data_is_refused_on_a_resume(tmp_path, tiny_t5, monkeypatch, capfd):
    data = save_data(tmp_path / "data")
    (tmp_path / "own.yml").write_text(yaml.safe_dump(supervised_config(tiny_t5, data)))

    def stop(setup):
        raise TrainingInterrupted

    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: stop)
    base = tmp_path / "runs"
    assert main(flags(tmp_path, base, config="own.yml")) == 130
    (run,) = find_runs(base)
    save_data(tmp_path / "data", train=12)
    assert main(["--resume", str(run.path)]) == 1
    assert "no longer gives the samples of train that" in capfd.readouterr().err


# Mistakes


def test_mistakes_exit_2_and_write_nothing(files, tmp_path, capsys):
    cases = {
        "alg.training_args.learning_rat=1": "did you mean 'learning_rate'?",
        "alg.model_name=/nowhere/at/all": "/nowhere/at/all",
        "train_evaluation.metrics=[{id: rouge_lmax}]": "did you mean 'rouge_l_max'?",
        f"datapool.args.data_path={tmp_path / 'missing'}": "missing",
        "train_evaluation.metrics=[{id: learned_reward, args: {model_name: /no/such, label_ix: 1}}]": (
            "train_evaluation.metrics[0].args.model_name  no such folder: '/no/such'"
        ),
        "runtime.device=cuda:1": "CUDA_VISIBLE_DEVICES=1",
    }
    for override, message in cases.items():
        assert main(flags(files, tmp_path / "out", "--set", override)) == 2
        assert message in capsys.readouterr().err
    placeholder = "rl4lms_scripts/training/narrative_qa/t5_ppo_on_supervised.yml"
    assert main(["--config_path", placeholder]) == 2
    assert "rl4lms_scripts/training/narrative_qa/t5_supervised.yml" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "nowhere")]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_said_before_anything_heavy(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl4lms.requirements.find_places", lambda folders: [])
    assert main(flags(files, tmp_path / "out", "--set", "train_evaluation.metrics=[{id: meteor}]")) == 2
    assert "METEOR needs the WordNet corpus" in capsys.readouterr().err
    monkeypatch.setattr("common.tracking._installed", lambda package: False)
    assert main(flags(files, tmp_path / "out", "--log_to_wandb")) == 2
    message = "--log_to_wandb needs a package that is not installed: pip install wandb\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --config_path and --resume"),
        (["--config_path", "a.yml", "--resume", "b"], "give one of --config_path and --resume"),
        (["--resume", "b", "--seed", "1"], "--seed cannot change a run that is resumed"),
        (["--resume", "b", "--set", "a=1"], "--set cannot change a run that is resumed"),
        (
            ["--resume", "b", "--log_to_wandb", "--no_eval_on_train_set"],
            "--log_to_wandb, --no_eval_on_train_set cannot change a run that is resumed",
        ),
        (
            ["--config_path", "a.yml", "--experiment_name", "a/b"],
            "--experiment_name becomes part of file names, got 'a/b'",
        ),
        (
            ["--config_path", "a.yml", "--upload_model_to_wandb"],
            "--upload_model_to_wandb needs --log_to_wandb",
        ),
    ],
)
def test_flags_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_other_runs_are_not_resumed(tmp_path, capsys, files):
    data = json.loads(json.dumps(yaml.safe_load((files / "t5_supervised.yml").read_text())))
    with RunDir.create(tmp_path, "run", {"lr": 0.1}, {"job": "training"}) as other:
        pass
    assert main(["--resume", str(other.path)]) == 2
    assert f"{other.path / 'config.json'}: " in capsys.readouterr().err
    with RunDir.create(tmp_path, "run", data, {"job": "extraction"}) as other:
        pass
    assert main(["--resume", str(other.path)]) == 2
    assert capsys.readouterr().err.endswith("is no run of rl4lms_train_text_generation.py\n")


def test_a_run_in_use_is_not_resumed(finished, tmp_path, capsys):
    import shutil

    path = tmp_path / "busy"
    shutil.copytree(finished, path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    with RunDir.open(path):
        assert main(["--resume", str(path)]) == 2
    assert "is in use by a running process" in capsys.readouterr().err


def test_check_prints_sizes_and_config_and_writes_nothing(files, tmp_path, capsys):
    assert main(flags(files, tmp_path / "out", "--check", "--seed", "5", config="gpt2_ppo.yml")) == 0
    output = capsys.readouterr().out
    assert "the run: 2 iterations, 160 tokens, 20 updates" in output
    assert '"seed": 5' in output
    assert not (tmp_path / "out").exists()
    assert main(["--list_fields"]) == 0
    assert "alg.training_args" in capsys.readouterr().out


def test_a_model_is_uploaded_only_if_asked(files, tmp_path, monkeypatch):
    from common import tracking

    settings = []
    monkeypatch.setattr(tracking, "_start_wandb", lambda run, given: settings.append(given))
    config = load_train_config(files / "gpt2_ppo.yml")
    options = OPTIONS | {"log_to_wandb": True, "entity_name": "team"}
    with RunDir.create(tmp_path, "mine", {}, {}, prefix="mine_") as run:
        for upload in (False, True):
            run.update_manifest(options=options | {"upload_model_to_wandb": upload})
            start_tracker(run, config)
    assert [(s.project, s.entity) for s in settings] == [("rl4lms_training", "team")] * 2
    excluded = [s.exclude_files for s in settings]
    assert "mine_model/*" in excluded[0] and "mine_model/*" not in excluded[1]
    assert all("mine_checkpoints/*" in files for files in excluded)


def test_signals_are_taken_back(files, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("rl4lms.train.choose_algorithm", lambda config: lambda setup: None)
    assert threading.current_thread() is threading.main_thread()
    assert main(flags(files, tmp_path)) == 0
    assert signal.getsignal(signal.SIGINT) is before
