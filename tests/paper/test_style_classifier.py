"""The classifier that the project trains: its examples, its loss, its reward, mistakes in its config."""

import math

import pytest
import torch
from pretraining_setting import config_of, run_of, weights

from common.files import read_rows
from common.python_docs import harvest, paragraphs
from common.run_dir import find_runs
from paper.small_models.config import load_pretrain_config
from paper.small_models.corpus import batches, held_out_corpus, training_corpus
from paper.small_models.models import build_model, mean_loss
from paper.small_models.train import ROWS, TrainingInterrupted, pretrain
from paper.small_models.vocabulary import build_tokenizer
from pretrain_small_language_model import main
from rl4lms.metrics import TextBatch
from rl4lms.requirements import model_problem
from rl4lms.rewards import build_reward

pytestmark = pytest.mark.usefixtures("docstring_cache")


def test_classes_have_nothing_in_common_and_nothing_held_out(tmp_path):
    config = load_pretrain_config(config_of(tmp_path, "classifier"))
    train, held_out = training_corpus(config), held_out_corpus(config)
    texts = [{text for text, _ in pairs} for corpus in (train, held_out) for pairs in corpus.pairs.values()]
    assert list(train.pairs) == list(held_out.pairs) == ["mail", "other"]
    assert [len(found) > limit for found, limit in zip(texts, (50, 50, 5, 5), strict=True)] == [True] * 4
    assert not any(one & other for i, one in enumerate(texts) for other in texts[:i])
    email = {text for record in harvest(["email"]) for text in paragraphs(record.docstring)}
    assert texts[0] | texts[2] <= email and not (texts[1] | texts[3]) & email


def test_batches_of_a_classifier_are_balanced(tmp_path):
    config = load_pretrain_config(config_of(tmp_path, "classifier"))
    corpus = training_corpus(config)
    tokenizer = build_tokenizer("classifier", corpus.all_texts(), 400, 24)
    stream = batches(config, corpus, tokenizer, 0)
    rows = [next(stream) for _ in range(100)]
    share = torch.cat([batch.labels for batch in rows]).double().mean().item()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(800))
    model = build_model(config, tokenizer).eval()
    batch = rows[0]
    losses = []
    for ids, mask, label in zip(*batch, strict=True):
        logits = model(input_ids=ids[mask][None]).logits
        losses.append(-logits.log_softmax(1)[0, int(label)].item())
    assert mean_loss(model, batch, "float32").item() == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_a_classifier_is_learned_and_is_a_reward(tmp_path, caplog):
    sizes = {"steps": 150, "log_every": 50, "eval_every": 150, "save_every": 150, "batch_size": 16}
    path = config_of(tmp_path, "classifier", learning_rate=0.1, **sizes)
    assert main(["--config_path", str(path), "--output_path", str(tmp_path)]) == 0
    (run,) = find_runs(tmp_path)
    last = read_rows(run.path / ROWS, "step")[-1]["val"]
    assert min(last["other accuracy"], last["mail accuracy"]) > 0.6 and last["loss"] < 0.65
    log = (run.path / "log.txt").read_text()
    assert "mail accuracy 0." in log and "mail, found so with probability 0." in log
    assert model_problem(str(tmp_path / "tiny")) is None
    args = {"model_name": str(tmp_path / "tiny"), "include_prompt_for_eval": False}
    means = {}
    for label, pairs in training_corpus(load_pretrain_config(path)).pairs.items():
        nothing = [[] for _ in pairs]
        batch = TextBatch(["prompt"] * len(pairs), [text for text, _ in pairs], nothing, nothing)
        rewards = [build_reward("learned_reward", args | {"label_ix": number})(batch) for number in (0, 1)]
        assert [sum(pair) for pair in zip(*rewards, strict=True)] == pytest.approx([1] * len(pairs))
        means[label] = sum(rewards[0]) / len(pairs)
    assert means["mail"] > 0.75 > 0.25 > means["other"]


@pytest.mark.slow
def test_a_cut_classifier_ends_with_the_same_weights(tmp_path):
    path = config_of(tmp_path, "classifier")
    assert main(["--config_path", str(path), "--output_path", str(tmp_path / "whole")]) == 0
    config, run = run_of(tmp_path, path)
    updates = iter(range(100))
    with run, pytest.raises(TrainingInterrupted):
        pretrain(config, run, should_stop=lambda: next(updates) == 6)
    assert main(["--resume", str(run.path)]) == 0
    assert weights(tmp_path / "tiny") == weights(tmp_path / "whole" / "tiny")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "alg.mixture={denoising: 1}",
            "a classifier's examples are of its classes, as many of each; remove it",
        ),
        ("data.classes={mail: [email]}", "a classifier tells two classes or more apart, got 1"),
        ("data.classes={a: [email], b: [emial]}", "package 'emial' is none of data.packages"),
        ("data.classes={a: [email], b: [email, json]}", "package 'email' is named more than once"),
        ("model_type=causal", "only a classifier has classes; remove them"),
    ],
)
def test_mistakes_in_classes_are_told(override, message, tmp_path, capsys):
    argv = ["--config_path", str(config_of(tmp_path, "classifier")), "--check", "--set", override]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
