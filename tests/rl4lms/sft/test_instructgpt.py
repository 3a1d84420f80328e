"""InstructGPT's SFT: residual dropout, the model of the best evaluation, a share of pretraining examples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from instructgpt_runs import pretraining
from training_runs import config_of, new_run, rows_of, save_data, setup_of, supervised_config

from common.run_dir import RunDir
from rl4lms.config import SupervisedConfig, TrainConfig
from rl4lms.config.training_blocks import TrainRuntimeConfig
from rl4lms.evaluation import Evaluator
from rl4lms.model.load import load_model
from rl4lms.model.source import ModelSourceError
from rl4lms.run_setup import TrainingDataError, TrainingInterrupted
from rl4lms.sft.checkpoints import checkpoints_in
from rl4lms.sft.select import Evaluated, choose_best
from rl4lms.sft.train import train
from rl4lms.sft.trainer import count_pretraining, load_trained, training_rows

RUNTIME = TrainRuntimeConfig()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def alg_of(model: Path, data: Path, kind: str, **fields: Any) -> SupervisedConfig:
    raw = supervised_config(model, data, kind)
    raw["alg"] |= fields
    alg = config_of(raw).alg
    assert isinstance(alg, SupervisedConfig)
    return alg


def rates(model: Any) -> dict[str, float]:
    return {name: part.p for name, part in model.named_modules() if isinstance(part, torch.nn.Dropout)}


def test_residual_dropout_is_that_of_what_layers_add(tiny_gpt2, tiny_t5, data):
    device = torch.device("cpu")
    plain = rates(load_trained(alg_of(tiny_gpt2, data, "causal"), RUNTIME, device))
    model = load_trained(alg_of(tiny_gpt2, data, "causal", dropout={"residual": 0.25}), RUNTIME, device)
    changed = {name for name, rate in rates(model).items() if rate != plain[name]}
    assert changed == {
        f"transformer.h.{i}.{part}" for i in (0, 1) for part in ("attn.resid_dropout", "mlp.dropout")
    }
    assert {rates(model)[name] for name in changed} == {0.25} == {model.config.resid_pdrop}
    t5 = load_trained(alg_of(tiny_t5, data, "seq2seq", dropout={"residual": 0.25}), RUNTIME, device)
    assert set(rates(t5).values()) == {0.25} and t5.config.dropout_rate == 0.25


def test_a_model_without_such_a_dropout_is_refused(tiny_gpt2, data, monkeypatch):
    alg = alg_of(tiny_gpt2, data, "causal", dropout={"residual": 0.25})
    monkeypatch.setattr("rl4lms.sft.trainer.load_config", lambda name: {"model_type": "llama"})
    with pytest.raises(
        ModelSourceError, match=r"\(llama\) has no residual dropout that is known; known of: gpt2"
    ):
        load_trained(alg, RUNTIME, torch.device("cpu"))


def test_the_best_is_the_highest_or_of_some_the_lowest_and_the_first_of_equals():
    evaluated = [Evaluated(Path(str(i)), i, i / 4, value) for i, value in enumerate((1.0, 3.0, 3.0, 0.5))]
    assert choose_best(evaluated, "semantic/reward_model") == evaluated[1]
    assert (
        choose_best(evaluated, "lexical/ter")
        == choose_best(evaluated, "fluency_metrics/perplexity")
        == evaluated[3]
    )
    assert choose_best([], "lexical/ter") is None


def test_a_share_of_all_examples_is_pretraining(tiny_gpt2, tiny_t5, data, tmp_path):
    assert [count_pretraining(90, 0.1), count_pretraining(32, 0.1), count_pretraining(10, 0.5)] == [10, 4, 10]
    for model, kind in ((tiny_gpt2, "causal"), (tiny_t5, "seq2seq")):
        raw = supervised_config(model, data, kind)
        plain = config_of(raw)
        raw["alg"]["pretraining"] = pretraining(tmp_path, model, share=0.1)
        config = config_of(raw)
        with new_run(tmp_path / kind, config) as run:
            setup = setup_of(config, run)
            language_model = load_model(str(model), kind, torch.float32, "cpu")
            rows = training_rows(setup, language_model)
            again = training_rows(setup, language_model)
            assert run.manifest["pretraining"] == setup.pretraining.digest()
        with new_run(tmp_path / f"{kind} plain", plain) as run:
            before = training_rows(setup_of(plain, run), language_model)
        assert (len(before), len(rows)) == (32, 36)
        assert [rows[i] for i in range(32)] == [before[i] for i in range(32)]
        assert [rows[i] for i in range(36)] == [again[i] for i in range(36)]
        end = setup.tokenizer.eos_token_id
        for row in (rows[i] for i in range(32, 36)):
            assert row["labels"][-1] == end
            if kind == "causal":
                assert row["input_ids"] == row["labels"]
                text = setup.tokenizer.decode(row["labels"][:-1])
                assert text in setup.pretraining.texts
            else:
                assert row["input_ids"] != row["labels"] and row["input_ids"][-1] == end


def everything(model: Path, data: Path, folder: Path, **training_args: Any) -> TrainConfig:
    """Two epochs of five updates of eight, with dropout, pretraining text and choice."""
    raw = supervised_config(model, data, **training_args)
    raw["alg"] |= {
        "dropout": {"residual": 0.2},
        "select_by": {"metric": "lexical/chrf"},
        "pretraining": pretraining(folder, model, share=0.1),
    }
    return config_of(raw)


@pytest.fixture(scope="module", params=[1, None], ids=["newest kept", "all kept"])
def whole(request, tmp_path_factory, tiny_t5, data):
    """The folder of an uninterrupted run, and its config; evaluations are as `value_of_epoch` says."""
    folder = tmp_path_factory.mktemp("whole")
    config = everything(tiny_t5, data, folder, save_total_limit=request.param, max_steps=8, logging_steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "_measure", value_of_epoch)
        patch.setattr("os.fsync", lambda _: None)
        with new_run(folder, config) as run:
            train(setup_of(config, run))
    return run.path, config


def value_of_epoch(
    self: Any, model: Any, split: str, samples: Any, texts: Any, epoch: float
) -> dict[str, float]:
    values = {0.0: 9.0, 0.6: 1.0, 1.2: 5.0, 1.6: 3.0}
    return {"lexical/chrf": values[epoch]}


def test_the_model_is_that_of_the_best_evaluation(whole, tiny_t5):
    path, config = whole
    assert [row["epoch"] for row in rows_of(path, "val_split_metrics")] == [0.0, 0.6, 1.2, 1.6]
    folders = [folder.name for folder in checkpoints_in(path / "mine_checkpoints")]
    limited = config.alg.training_args["save_total_limit"] == 1
    assert folders == (
        ["checkpoint-6", "checkpoint-8"] if limited else [f"checkpoint-{i}" for i in (2, 3, 4, 6, 8)]
    )
    model, best, last = (
        load_model(str(path / name), "seq2seq", torch.float32, "cpu").state_dict()
        for name in ("mine_model", "mine_checkpoints/checkpoint-6", "mine_checkpoints/checkpoint-8")
    )
    assert all(torch.equal(model[name], best[name]) for name in model)
    assert not all(torch.equal(model[name], last[name]) for name in model)
    assert json.loads((path / "manifest.json").read_text())["trained"] == {"epochs": 1.2, "updates": 6}
    assert [row["epoch"] for row in rows_of(path, "test_split_metrics")] == [0.0, 1.2]
    assert json.loads((path / "mine_model" / "config.json").read_text())["dropout_rate"] == 0.2


@pytest.mark.parametrize("cut_after", [5, 8])
def test_cut_and_resumed_it_is_the_same(cut_after, whole, tmp_path, monkeypatch):
    path, config = whole
    monkeypatch.setattr(Evaluator, "_measure", value_of_epoch)
    with new_run(tmp_path, config) as run:
        done = lambda: len(rows_of(run.path, "training_info")) >= cut_after - 1  # noqa: E731
        with pytest.raises(TrainingInterrupted):
            train(setup_of(config, run, should_stop=done))
    with RunDir.open(run.path) as again:
        train(setup_of(config, again))
    first, second = (
        load_model(str(p / "mine_model"), "seq2seq", torch.float32, "cpu").state_dict()
        for p in (run.path, path)
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
    for name in ("training_info", "val_split_metrics", "test_split_metrics"):
        assert rows_of(run.path, name) == rows_of(path, name)


def test_other_pretraining_text_is_refused_on_a_resume(whole, tmp_path, tiny_t5, data):
    path, config = whole
    copy = tmp_path / "copy"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(".lock"))
    texts = Path(config.alg.pretraining.texts)
    before = texts.read_text()
    texts.write_text(before + '{"text": "one more text of words"}\n')
    try:
        with RunDir.open(copy) as run, pytest.raises(TrainingDataError) as error:
            setup_of(config, run)
    finally:
        texts.write_text(before)
    assert str(error.value).startswith(f"alg.pretraining no longer gives the text that {copy} began with")


def test_a_metric_that_no_evaluation_has_is_told_after_the_first(tiny_t5, data, tmp_path):
    raw = supervised_config(tiny_t5, data)
    raw["train_evaluation"]["metrics"] = [{"id": "on_policy_jobs:length"}]
    raw["alg"]["select_by"] = {"metric": "words"}
    config = config_of(raw)
    with new_run(tmp_path, config) as run, pytest.raises(TrainingDataError) as error:
        train(setup_of(config, run, eval_on_train=False))
    assert str(error.value) == "alg.select_by.metric: evaluations have no value 'words'; there are: letters"
