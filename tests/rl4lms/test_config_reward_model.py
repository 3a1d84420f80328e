"""The config of a reward model: what is refused, what has no effect, what `--check` says, and the runner."""

import json
import sys
from pathlib import Path

import pytest
from reward_runs import planted, reward_config
from training_runs import config_of, rows_of

import rl4lms_train_text_generation as runner
from common.config import validate
from common.run_dir import read_run
from rl4lms.config import TrainConfig, check_report, local_problems, resolved
from rl4lms.config.report import models_missing
from rl4lms.model.reward_model import RewardModel
from rl4lms.prolong import prolong


def problems_of(config: dict) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in validate(TrainConfig, config)[1]]


def bag(tokenizer, **args) -> dict:
    return reward_config("bag_of_tokens", tokenizer=tokenizer, **args)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"batching": "pair"}, "alg.args.pairs_per_batch: missing; batching: pair needs it"),
        ({"pairs_per_batch": 8}, "alg.args.pairs_per_batch: is of batching: pair"),
        (
            {"loss": "best_of", "batching": "pair", "pairs_per_batch": 8},
            "alg.args.batching: must be prompt: best_of needs all completions at once",
        ),
        (
            {"loss": "plackett_luce", "use_margin": True},
            "alg.args.use_margin: has no meaning with loss: plackett_luce; it is of loss: pairwise",
        ),
        ({"betas": [0.9, 1.0]}, "alg.args.betas[1]: must be less than 1, got 1.0"),
        ({"label_smoothing": 0.5}, "alg.args.label_smoothing: must be less than 0.5, got 0.5"),
    ],
)
def test_options_that_do_not_go_together_are_refused(args, problem, tiny_gpt2):
    assert problems_of(bag(tiny_gpt2, **args)) == [problem]


def test_a_learning_rate_is_required(tiny_gpt2):
    config = bag(tiny_gpt2)
    del config["alg"]["args"]["learning_rate"]
    (problem,) = problems_of(config)
    assert problem.startswith("alg.args.learning_rate: missing; expected")


def test_a_datapool_without_rankings_is_refused(tiny_gpt2):
    config = bag(tiny_gpt2) | {"datapool": {"id": "imdb"}}
    (problem,) = problems_of(config)
    assert problem.startswith(
        "datapool.id: datapool 'imdb' has samples, no rankings; set datapool.id to 'pref"
    )


def test_a_model_that_cannot_become_a_reward_model_is_refused(tiny_gpt2, tiny_t5, tmp_path):
    (problem,) = problems_of(reward_config(tmp_path / "nothing" / "here", tokenizer=tiny_gpt2))
    assert problem.startswith("alg.model_name: no such folder")
    (problem,) = problems_of(reward_config(tiny_t5, "causal"))
    assert "is an encoder-decoder model, the config wants a decoder-only one" in problem
    RewardModel.start("bag_of_tokens", "causal", tokenizer_name=str(tiny_gpt2)).save(tmp_path / "reward")
    (problem,) = problems_of(reward_config(tmp_path / "reward"))
    assert problem == (
        f"alg.model_name: folder {str(tmp_path / 'reward')!r} holds a BagOfTokens that gives texts numbers, "
        "no language model: name the language model that it was made from"
    )


def test_fields_of_generated_texts_have_no_effect(tiny_gpt2):
    assert config_of(bag(tiny_gpt2)).notices() == []
    config = bag(tiny_gpt2, batching="pair", pairs_per_batch=8, prompts_per_batch=3)
    config["reward_fn"] = {"id": "chrf"}
    config["tokenizer"]["max_length"] = 20
    config["train_evaluation"] |= {"metrics": [{"id": "chrf"}], "n_iters": 3}
    assert config_of(config).notices() == [
        "no effect on a reward model: reward_fn, tokenizer.max_length, train_evaluation.metrics, "
        "train_evaluation.n_iters, alg.args.prompts_per_batch"
    ]


def test_the_report_says_what_will_happen(tiny_gpt2):
    config = config_of(bag(tiny_gpt2))
    assert check_report(config).splitlines()[:3] == [
        "training: all train prompts, 2 epochs, 8 prompts with all their completions an update, "
        "loss pairwise",
        "a forward pass: at most 12 texts, but whole prompts",
        "evaluation: all prompts of val before training, every 2 updates and after each epoch",
    ]
    again = config_of(resolved(config))
    assert resolved(again) == resolved(config) and again.notices() == []
    pairs = config_of(bag(tiny_gpt2, batching="pair", pairs_per_batch=30, epochs=1))
    assert "1 epoch, 30 comparisons an update" in check_report(pairs)


def test_offline_a_bag_of_tokens_misses_no_model(tiny_gpt2):
    assert models_missing(config_of(bag(tiny_gpt2))) == []


@pytest.fixture
def as_main(monkeypatch):
    monkeypatch.setattr(sys, "argv", [runner.__file__])
    monkeypatch.setattr("rl4lms.plots.draw_training", lambda *_: None)


def test_the_runner_trains_checks_and_resumes(tiny_gpt2, tmp_path, as_main, capsys):
    path, out = tmp_path / "config.yml", tmp_path / "runs"
    path.write_text(json.dumps(bag(tiny_gpt2)))
    assert runner.main(["--config_path", str(path), "--check"]) == 0
    assert "8 prompts with all their completions" in capsys.readouterr().out
    command = ["--config_path", str(path), "--base_path_to_store_results", str(out)]
    options = ["--experiment_name", "mine", "--log_entire_predictions", "--set", "alg.args.epochs=1"]
    assert runner.main([*command, *options]) == 0
    (run,) = out.iterdir()
    manifest = read_run(run).manifest
    assert manifest["status"] == "finished" and manifest["artefacts"] == ["mine_model"]
    assert manifest["samples"] == {"train": 24, "val": 10} and manifest["algorithm"] == "reward_model"
    assert len(rows_of(run, "training_info")) == 3
    predictions = json.loads((run / "mine_epoch_1.0_val_split_predictions.json").read_text())
    metrics = rows_of(run, "val_split_metrics")[-1]["metrics"]
    assert sum(row["loss"] for row in predictions) / 10 == pytest.approx(metrics["loss"])
    assert [row["sample_id"] for row in predictions] == [ranking.id for ranking in planted("val")]
    assert [len(row["rewards"]) for row in predictions] == [len(r.completions) for r in planted("val")]
    assert runner.main(["--resume", str(run)]) == 2
    assert "is finished: there is nothing to resume" in capsys.readouterr().err


def test_data_that_is_only_to_evaluate_by_is_refused(tiny_gpt2, tmp_path, as_main, capsys):
    row = {"prompt": "p", "chosen": "good", "rejected": "bad", "subset": "chat"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    config = bag(tiny_gpt2) | {"datapool": {"id": "preferences", "args": {"data_path": str(tmp_path)}}}
    path = tmp_path / "config.yml"
    path.write_text(json.dumps(config))
    assert runner.main(["--config_path", str(path), "--base_path_to_store_results", str(tmp_path / "o")]) == 2
    assert "are to evaluate by, not to train on: use them as split val or test" in capsys.readouterr().err


def test_no_test_split_is_needed(tiny_gpt2, tmp_path):
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row | {"prompt": split}) + "\n")
    pool = {"id": "preferences", "args": {"data_path": str(tmp_path)}}
    assert local_problems(config_of(bag(tiny_gpt2) | {"datapool": pool})) == []
    (tmp_path / "val.jsonl").unlink()
    (problem,) = local_problems(config_of(bag(tiny_gpt2) | {"datapool": pool}))
    assert "has no rows of split 'val'" in problem.message


def test_it_cannot_be_prolonged(tiny_gpt2, tmp_path):
    from common.files import RunError
    from common.run_dir import RunInfo

    config = config_of(bag(tiny_gpt2))
    with pytest.raises(RunError, match="the training of a reward model cannot be prolonged"):
        prolong(RunInfo(Path("run"), {}, resolved(config)), config, ["train_evaluation.n_iters=9"])
