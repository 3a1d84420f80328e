"""Pretraining of small language models: tasks, tokenizers, batches, the run, its runner."""

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
import yaml

from common.docstring_sections import paragraphs
from common.python_docs import CACHE_VARIABLE, harvest
from common.row_log import read_rows
from common.run_dir import RunDir, find_runs
from pretrain_small_language_model import main
from rl4lms.config.pretraining import SENTINELS, PretrainConfig, load_pretrain_config
from rl4lms.language_model import load_model, load_tokenizer
from rl4lms.metrics import TextBatch
from rl4lms.model_source import LAPTOP_MODELS, check_model_source
from rl4lms.pretraining import corpus as corpus_module
from rl4lms.pretraining.corpus import IGNORED, Corpus, batches, by_length, held_out_corpus, training_corpus
from rl4lms.pretraining.jobs import publish
from rl4lms.pretraining.models import build_model, mean_loss
from rl4lms.pretraining.tasks import DENOISING_PREFIX, PASSAGE_WORDS, TEXT_TASKS, passage, sentinel
from rl4lms.pretraining.train import ROWS, TrainingInterrupted, pretrain
from rl4lms.pretraining.vocabulary import build_tokenizer, unigram_scores
from rl4lms.requirements import model_problem
from rl4lms.rewards import build_reward

REPO = Path(__file__).parents[2]
PACKAGES = ["json", "argparse", "email", "logging"]
CLASSES = {"mail": ["email"], "other": ["argparse", "logging"]}
TEXT = "Thank you for inviting me to your party last week in the old town hall over there"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


def config_of(tmp_path, kind="seq2seq", **alg):
    """The file of a tiny pretraining."""
    data = {
        "name": "tiny",
        "model_type": kind,
        "data": {"packages": PACKAGES, "max_length": 24}
        | ({"classes": CLASSES} if kind == "classifier" else {}),
        "vocabulary": {"size": 400},
        "model": {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.1},
        "alg": {"steps": 12, "batch_size": 8, "learning_rate": 0.02, "log_every": 2, "eval_every": 6,
                "save_every": 4, "mixture": {"denoising": 1, "identifier": 2} if kind == "seq2seq" else {}}
        | alg,
    }  # fmt: skip
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(data))
    return path


# Tasks


def test_span_corruption_leaves_out_what_the_target_holds():
    rng = Random(3)
    spans = Counter()
    for _ in range(200):
        source, target = TEXT_TASKS["span_corruption"](TEXT, rng)
        kept, lost = source.split(), target.split()
        number = sum(word.startswith("<extra_id_") for word in kept)
        assert [word for word in lost if word.startswith("<")] == [sentinel(i) for i in range(number + 1)]
        assert lost[-1] == sentinel(number) and len(lost) - (number + 1) == round(0.15 * 17)
        for i in range(number):  # put back what is between two sentinels
            start, end = lost.index(sentinel(i)), lost.index(sentinel(i + 1))
            place = kept.index(sentinel(i))
            assert end - start > 1
            kept[place : place + 1] = lost[start + 1 : end]
        assert " ".join(kept) == TEXT
        spans[source] += 1
    assert len(spans) > 10


def test_span_corruption_has_sentinels_enough_for_the_longest_texts():
    long = " ".join(f"w{i}" for i in range(1000))
    source, target = TEXT_TASKS["span_corruption"](long, Random(0))
    assert source.count("<extra_id_") == SENTINELS - 1 and target.split()[-1] == sentinel(SENTINELS - 1)
    assert TEXT_TASKS["span_corruption"]("a b c d", Random(0))[1].split()[::2] == [sentinel(0), sentinel(1)]


def test_prefix_continuation_cuts_between_any_two_words():
    cuts = set()
    rng = Random(0)
    for _ in range(300):
        source, target = TEXT_TASKS["prefix_continuation"](TEXT, rng)
        assert f"{source} {target}" == TEXT
        cuts.add(len(source.split()))
    assert cuts == set(range(1, 17))


def test_denoising_drops_a_fifth_of_the_words():
    for seed in range(20):
        source, target = TEXT_TASKS["denoising"](TEXT, Random(seed))
        assert target == TEXT and source.startswith(DENOISING_PREFIX)
        kept = source.removeprefix(DENOISING_PREFIX).split()
        assert len(kept) == 14
        rest = iter(TEXT.split())
        assert all(word in rest for word in kept)  # in their order


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_a_task_depends_on_its_random_numbers_alone(task):
    make = TEXT_TASKS[task]
    assert make(TEXT, Random(5)) == make(TEXT, Random(5))
    assert len({make(TEXT, Random(seed)) for seed in range(30)}) > 5


def test_a_passage_is_of_words_in_a_row():
    found = {passage(TEXT, Random(seed)) for seed in range(300)}
    assert all(text in TEXT for text in found)
    assert {len(text.split()) for text in found} == set(range(PASSAGE_WORDS[0], 18))
    assert passage("two words", Random(0)) == "two words"


# Tokenizers


@pytest.fixture(scope="module")
def texts(cache):
    return training_corpus(PretrainConfig.model_validate(causal())).texts


def causal(**alg):
    alg = {"steps": 1} | alg
    return {"name": "tiny", "model_type": "causal", "data": {"packages": PACKAGES}, "alg": alg}


def test_unigram_tokenizer_is_t5s(texts):
    tokenizer = build_tokenizer("seq2seq", texts, 500, 24)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert tokenizer.convert_tokens_to_ids([sentinel(0), sentinel(9)]) == [490, 499]
    assert len(tokenizer) == 500 and tokenizer.model_max_length == 24
    ids = tokenizer(f"Parse the {sentinel(0)} of JSON_data.")["input_ids"]
    assert ids[-1] == 1 and 490 in ids and 2 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "parse the  of json_data."
    assert tokenizer.unk_token_id in tokenizer("漢")["input_ids"]


def test_a_text_begins_with_the_token_that_a_classifier_reads(texts):
    tokenizer = build_tokenizer("classifier", texts, 500, 24)
    assert len(tokenizer) == 500 and tokenizer.cls_token == "<s>"
    ids = tokenizer("Parse the JSON_data.")["input_ids"]
    assert (ids[0], ids[-1]) == (3, 1) and tokenizer.pad_token_id == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == "parse the json_data."


def test_byte_tokenizer_is_gpt2s(texts):
    tokenizer = build_tokenizer("causal", texts, 500, 24)
    assert len(tokenizer) == 500 and tokenizer.eos_token_id == 0 and tokenizer.pad_token is None
    text = "Parse the JSON data — 漢."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_unigram_scores_are_probabilities_of_pieces_that_spell_everything():
    words = Counter({"▁banana": 50, "▁band": 30, "▁an": 20, "▁xylophon": 1})
    scores = dict(unigram_scores(words, 20))
    assert len(scores) <= 20
    assert {character for word in words for character in word} <= scores.keys()
    assert sum(torch.tensor(list(scores.values())).exp()) == pytest.approx(1, abs=0.1)
    assert scores["▁banana"] > scores["▁band"] > scores["▁an"] > scores["x"]
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


# Text and batches


def test_nothing_held_out_is_trained_on(tmp_path):
    config = load_pretrain_config(config_of(tmp_path))
    train, held_out = training_corpus(config), held_out_corpus(config)
    assert len(train.texts) > 100 and len(held_out.texts) > 10 and set(train.pairs) == {"identifier"}
    assert {task for task in held_out.pairs} == {"identifier"} and held_out.pairs["identifier"]
    shown = "\n".join(train.texts) + "\n".join(part for pair in train.pairs["identifier"] for part in pair)
    for prompt, target in held_out.pairs["identifier"]:
        assert prompt.partition(": ")[2] not in shown and target not in shown
    assert not set(train.texts) & set(held_out.texts)


def test_batches_follow_from_their_number(tmp_path, texts):
    config = load_pretrain_config(config_of(tmp_path))
    corpus = training_corpus(config)
    tokenizer = build_tokenizer("seq2seq", corpus.texts, 400, 24)
    stream = batches(config, corpus, tokenizer, 0)
    first = [next(stream) for _ in range(corpus_module.CHUNK**2 + 3)]
    again = batches(config, corpus, tokenizer, 5)
    for expected, actual in zip(first[5:], again, strict=False):
        for one, other in zip(expected, actual, strict=True):
            assert torch.equal(one, other)
    assert {len(batch.labels) for batch in first} == {8}
    assert not torch.equal(first[0].labels, first[corpus_module.CHUNK**2].labels)
    real = sum(batch.tokens() for batch in first)
    assert real / sum(batch.ids.numel() + batch.labels.numel() for batch in first) > 0.6
    for batch in first:
        assert bool((batch.ids[~batch.mask] == 0).all()) and batch.ids.shape[1] <= 24
        ends = (batch.labels != IGNORED).sum(1) - 1
        assert bool((batch.labels.gather(1, ends[:, None]) == 1).all())  # </s>


def test_by_length_takes_every_row_once():
    rng = Random(0)
    rows = [(range(rng.randint(1, 50)), range(rng.randint(1, 50))) for _ in range(64 * 4)]
    parts = by_length(rows, 4)
    assert [len(part) for part in parts] == [4] * 64
    assert sorted(i for part in parts for i in part) == list(range(256))


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_the_loss_is_that_of_each_text_alone_in_the_models_own_forward_pass(kind, tmp_path):
    config = load_pretrain_config(config_of(tmp_path, kind))
    corpus = training_corpus(config)
    tokenizer = build_tokenizer(kind, corpus.texts, 400, 24)
    model = build_model(config, tokenizer).eval()
    batch = next(batches(config, corpus, tokenizer, 0))
    losses = []
    for number, row in enumerate(batch.labels):
        labels = row[row != IGNORED][None]
        if kind == "causal":
            assert labels[0, -1] == tokenizer.eos_token_id or labels.shape[1] == 24
            logits, labels = model(input_ids=labels).logits[:, :-1], labels[:, 1:]
        else:
            ids = batch.ids[number][batch.mask[number]][None]
            logits = model(input_ids=ids, labels=labels).logits
        losses += (-logits.log_softmax(-1).gather(2, labels[..., None])).flatten().tolist()
    assert mean_loss(model, batch, "float32").item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


# The run


def run_of(base, path):
    config = load_pretrain_config(path)
    return config, RunDir.create(base, config.name, config.model_dump(), {})


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
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
    assert [row["step"] for row in read_rows(run.path / ROWS, "step")] == [2, 4, 6, 8, 10, 12]
    assert main(["--resume", str(run.path)]) == 0  # of a finished run: nothing changes
    assert weights(tmp_path / "tiny") == weights(folder / "tiny")


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
    monkeypatch.setattr("rl4lms.pretraining.train.training_corpus", lambda config: Corpus(["a b c d"], {}))
    assert main(["--resume", str(run.path)]) == 1
    assert "no longer have the text" in (run.path / "log.txt").read_text()


# The classifier


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
        ("model_type=causal", "a causal model has one task, the next token; remove it, or set model_type"),
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
