"""What language models are pretrained on: tasks, tokenizers, batches, the loss."""

from collections import Counter
from random import Random

import pytest
import torch
from pretraining_setting import PACKAGES, config_of

from paper.small_models import corpus as corpus_module
from paper.small_models.config import PretrainConfig, load_pretrain_config
from paper.small_models.corpus import (
    IGNORED,
    batches,
    draw,
    encode,
    group_by_length,
    held_out_corpus,
    training_corpus,
)
from paper.small_models.models import build_model, mean_loss
from paper.small_models.vocabulary import build_tokenizer, unigram_scores
from rl4lms.text_tasks import DENOISING_PREFIX, PASSAGE_WORDS, SENTINELS, TEXT_TASKS, passage, sentinel

pytestmark = pytest.mark.usefixtures("docstring_cache")

TEXT = "Thank you for inviting me to your party last week in the old town hall over there"


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
def texts(docstring_cache):
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


def test_a_causal_models_tasks_are_texts_of_prompt_and_answer(tmp_path):
    mixture = {"next_token": 1, "denoising": 1, "identifier": 2}
    config = load_pretrain_config(config_of(tmp_path, "causal", mixture=mixture))
    corpus = training_corpus(config)
    tokenizer = build_tokenizer("causal", corpus.texts, 400, 24)
    drawn = draw(config, corpus, 400, Random(0))
    counts = Counter(task for task, _ in drawn)
    assert counts.keys() == mixture.keys()
    assert 160 < counts["identifier"] < 240 and 60 < counts["next_token"] < 140
    for task, (source, target) in drawn:
        if task == "next_token":
            assert source == "" and target in corpus.texts
        else:
            assert source.startswith({"denoising": "restore: ", "identifier": "write as an"}[task])
            assert (source, target) in corpus.pairs["identifier"] or task == "denoising"
    pairs = [("restore: a c", "a b c"), ("", "plain text")]
    rows = encode(pairs, tokenizer, config)
    assert [ids for ids, _ in rows] == [[], []]
    texts = [tokenizer.decode(row[:-1]) for _, row in rows]
    assert texts == ["restore: a c a b c", "plain text"]
    assert {row[-1] for _, row in rows} == {tokenizer.eos_token_id}
    ((_, long),) = encode([("p", "word " * 40)], tokenizer, config)
    assert len(long) == config.data.max_length


def test_a_causal_model_without_a_mixture_reads_plain_text(tmp_path):
    config = load_pretrain_config(config_of(tmp_path, "causal"))
    corpus = training_corpus(config)
    assert corpus.pairs == {}
    assert {task for task, (source, _) in draw(config, corpus, 50, Random(0)) if source == ""} == {
        "next_token"
    }


def test_by_length_takes_every_row_once():
    rng = Random(0)
    rows = [(range(rng.randint(1, 50)), range(rng.randint(1, 50))) for _ in range(64 * 4)]
    parts = group_by_length(rows, 4)
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
