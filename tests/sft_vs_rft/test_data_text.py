from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from transformers import BertTokenizer

from common.python_docs import DocRecord
from sft_vs_rft.data import DataError, TokenizedPairs
from sft_vs_rft.data.docstring_pairs import (
    Sentence,
    build_pairs,
    load_sentences,
    overlap_score,
    plain_sentences,
    vocabulary,
)
from sft_vs_rft.data.text import SPECIAL_TOKENS, load_tokenizer, tokenise, word_piece

WORDS = ("the", "cat", "##s", "sat", "cafe", ".", ",")
VOCABULARY = [*SPECIAL_TOKENS, *WORDS]
PAIRS = [("The CATS sat.", "the cat"), ("Café, zebra", "sat"), ("", "the")]


def test_pairs_are_read_together_as_bert_reads_them() -> None:
    pairs = tokenise(word_piece(VOCABULARY), PAIRS)
    cls, sep, unk, the, cat, s, sat, cafe, dot, comma = (
        VOCABULARY.index(t) for t in ("[CLS]", "[SEP]", "[UNK]", *WORDS[:4], "cafe", ".", ",")
    )
    rows = [
        [cls, the, cat, s, sat, dot, sep, the, cat, sep],
        [cls, cafe, comma, unk, sep, sat, sep],
        [cls, sep, the, sep],
    ]
    assert [ids[:n].tolist() for ids, n in zip(pairs.input_ids, pairs.lengths, strict=True)] == rows
    assert pairs.lengths.tolist() == [10, 7, 4] and pairs.input_ids.shape == (3, 10)
    assert pairs.token_type_ids[0].tolist() == [0] * 7 + [1] * 3
    assert pairs.token_type_ids[1].tolist() == [0] * 5 + [1] * 2 + [0] * 3
    assert not pairs.input_ids[2, 4:].any()


def test_tokenizer_folders_of_both_kinds_equal_the_transformers_one(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    reference = BertTokenizer.from_pretrained(tmp_path / "words")
    reference.save_pretrained(tmp_path / "json")
    assert (tmp_path / "json" / "tokenizer.json").is_file()
    long = ("cat " * 400, "the " * 300)
    expected = [reference(*pair, truncation=True, max_length=512) for pair in (*PAIRS, long)]
    for folder in ("words", "json"):
        pairs = tokenise(load_tokenizer(str(tmp_path / folder)), [*PAIRS, long])
        for i, row in enumerate(expected):
            n = int(pairs.lengths[i])
            assert pairs.input_ids[i, :n].tolist() == row["input_ids"]
            assert pairs.token_type_ids[i, :n].tolist() == row["token_type_ids"]
        assert pairs.lengths[3] == 512


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "vocab.txt",
            "the\ncat\n",
            r"vocab.txt is not a BERT tokenizer: the vocabulary lacks \[PAD\], \[UNK\], \[CLS\]",
        ),
        ("tokenizer.json", "{", "tokenizer.json is not a BERT tokenizer: "),
        (
            "vocab.txt",
            "\n".join([*SPECIAL_TOKENS, *(f"w{i}" for i in range(30_518))]),
            "vocab.txt has 30,523 entries, bert-mini's vocabulary 30,522",
        ),
    ],
)
def test_folders_without_a_usable_tokenizer(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(str(tmp_path))


def test_chosen_pairs_are_trimmed_to_their_longest() -> None:
    pairs = tokenise(word_piece(VOCABULARY), PAIRS)
    assert len(pairs) == 3
    chosen = pairs[torch.tensor([2, 1])]
    assert chosen.input_ids.shape == chosen.token_type_ids.shape == (2, 7)
    assert chosen.lengths.tolist() == [4, 7] and len(chosen) == 2
    assert torch.equal(chosen.input_ids[0], pairs.input_ids[2, :7])
    masked = pairs[torch.tensor([False, False, True])]
    assert masked.input_ids.shape == (1, 4)
    assert len(pairs[torch.tensor([], dtype=torch.long)]) == 0
    assert isinstance(pairs.to("meta"), TokenizedPairs) and pairs.to("meta").lengths.device.type == "meta"


def record(sentence: str) -> DocRecord:
    return DocRecord("m", "f", "function", "()", sentence, sentence, sentence)


def test_plain_sentences_are_distinct_and_of_4_to_12_words() -> None:
    sentences = plain_sentences(
        [
            record("Return the user's given value."),
            record("Return the User's given value"),
            record("Too few words."),
            record("Compute x = 1 for all."),
            record("Well-known words, with a comma; and more:"),
            record("This one has more words than are allowed in a sentence of twelve."),
        ]
    )
    assert [" ".join(words) for words in sentences] == [
        "Return the user's given value",
        "Well-known words, with a comma; and more:",
    ]


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [
        ("a b c d", "a b c d", 5.0),
        ("A, b: c d", "d c B a", 5.0),
        ("a b c d", "w x y z", 0.0),
        ("a b c d", "a b", 5 * 4 / 6),
        ("a a b", "a b b b", 5 * 4 / 7),
        ("user's re-use", "user s re use", 0.0),
    ],
)
def test_overlap_score(first: str, second: str, score: float) -> None:
    assert overlap_score(first, second) == overlap_score(second, first) == pytest.approx(score)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> list[Sentence]:
    packages = ("argparse", "asyncio", "email", "http", "logging", "multiprocessing", "unittest", "urllib")
    return load_sentences(packages, tmp_path_factory.mktemp("cache"))


def test_docstring_pairs_are_balanced_graded_by_their_overlap_and_disjoint(sentences: list[Sentence]) -> None:
    assert len(sentences) > 300
    (train, train_labels), (test, test_labels) = build_pairs(sentences, 600, 100)
    assert len(train) == 600 and len(test) == 100
    assert np.bincount(train_labels).tolist() == [100] * 6
    assert np.bincount(test_labels).tolist() == [17, 17, 17, 17, 16, 16]
    for pairs, labels in ((train, train_labels), (test, test_labels)):
        assert [round(overlap_score(*pair)) for pair in pairs] == labels.tolist()
    assert not set(chain.from_iterable(train)) & set(chain.from_iterable(test))
    # Which of the two is the original is not told by their order.
    originals = {" ".join(words).lower() for words in sentences}
    altered = [pair for pair, grade in zip(train, train_labels, strict=True) if grade in (1, 2, 3, 4)]
    first = np.mean([pair[0] in originals for pair in altered])
    assert 0.4 < first < 0.6


def test_docstring_pairs_are_a_function_of_the_sentences(sentences: list[Sentence]) -> None:
    first, again = build_pairs(sentences, 120, 24), build_pairs(sentences, 120, 24)
    assert first[0][0] == again[0][0] and first[1][0] == again[1][0]
    assert build_pairs(sentences[1:], 120, 24)[0][0] != first[0][0]


def test_too_few_sentences_for_pairs() -> None:
    same = [("one", "two", "three", "four")] * 20
    with pytest.raises(DataError, match="too few docstring sentences"):
        build_pairs(same, 12, 6)
    with pytest.raises(DataError, match="too few docstring sentences to build 6 test pairs: 0"):
        build_pairs([], 12, 6)


def test_package_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="'docstring_pairs' reads installed packages: package 'nowhere' is not ins"
    ):
        load_sentences(("nowhere",), tmp_path)


def test_vocabulary_covers_the_sentences_and_any_other_word(sentences: list[Sentence]) -> None:
    entries = vocabulary(sentences)
    assert len(entries) == len(set(entries)) <= 30_522
    assert entries[:5] == list(SPECIAL_TOKENS) and entries == vocabulary(sentences)
    tokenizer = word_piece(entries)
    assert isinstance(tokenizer, tokenizers.Tokenizer)
    texts = [" ".join(words) for words in sentences]
    assert all("[UNK]" not in encoding.tokens for encoding in tokenizer.encode_batch(texts))
    assert tokenizer.encode("Return xyzzy!").tokens == [
        "[CLS]",
        "return",
        "x",
        "##y",
        "##z",
        "##z",
        "##y",
        "!",
        "[SEP]",
    ]
