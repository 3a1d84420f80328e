"""ROUGE-L max has the values of py-rouge 1.1."""

import random
from typing import Any

import pytest
from nltk.stem.porter import PorterStemmer
from text_pairs import import_py_rouge, text_pairs

from rl4lms.metrics import TextBatch, build_metric
from rl4lms.metrics.rouge_l import _lcs_length, _lcs_places, _positions, _sentences, _stem, _stemming

Rouge = import_py_rouge().Rouge
PAPER = {
    "metrics": ["rouge-l"],
    "max_n": 4,
    "limit_length": True,
    "length_limit": 100,
    "length_limit_type": "words",
    "apply_avg": True,
    "apply_best": True,
    "alpha": 0.5,
    "weight_factor": 1.2,
    "stemming": True,
}


def py_rouge(batch: TextBatch, args: dict[str, Any]) -> list[float]:
    evaluator = Rouge(**args)
    return [
        max(evaluator.get_scores([text], [reference])["rouge-l"]["f"] for reference in references)
        for text, references in zip(batch.generated, batch.references, strict=True)
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"alpha": 0.2},
        {"weight_factor": 1.0},
        {"stemming": False},
        {"length_limit": 7},
        {"length_limit": 0},
        {"limit_length": False},
        {"length_limit": 40, "length_limit_type": "bytes"},
    ],
    ids=str,
)
def test_equals_py_rouge(changed: dict[str, Any]) -> None:
    args = {name: value for name, value in (PAPER | changed).items() if name != "metrics"}
    batch = text_pairs(150 if not changed else 100)
    expected = py_rouge(batch, PAPER | changed)
    assert sum(value > 0 for value in expected) > 40
    ours = build_metric("rouge_l_max", args)(batch)["lexical/rouge_l_max"]
    assert ours.per_sample == pytest.approx(expected, abs=1e-12)
    assert ours.corpus == pytest.approx(sum(expected) / len(expected), abs=1e-12)


def test_defaults_are_the_papers_arguments() -> None:
    batch = text_pairs(40)
    args = {name: value for name, value in PAPER.items() if name != "metrics"}
    assert build_metric("rouge_l_max")(batch) == build_metric("rouge_l_max", args)(batch)


def test_every_irregular_word_becomes_what_py_rouge_makes_of_it() -> None:
    evaluator = Rouge(**PAPER)
    words = [word for word in evaluator.WORDNET_KEY_VALUE if word.isascii() and word.isalnum()]
    assert len(words) > 5_000
    for word in words:
        (expected,) = evaluator._preprocess_summary_per_sentence(word)
        assert _sentences(word, None, "words", stemming=True) == [tuple(expected.split())]


def test_stems_are_those_of_the_original_porter_algorithm() -> None:
    """Of words, made up, that end in any of the suffixes of the paper (Porter 1980), or in none."""
    suffixes = (
        "sses ies ss s eed ed ing at bl iz y ational tional enci anci izer abli alli entli eli ousli ization "
        "ation ator alism iveness fulness ousness aliti iviti biliti icate ative alize iciti ical ful ness "
        "al ance ence er ic able ible ant ement ment ent ion sion ou ism ate iti ous ive ize e ll"
    ).split(" ")
    rng = random.Random(0)
    stemmer = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
    changed = 0
    for i in range(12_000):
        word = "".join(rng.choices("aeiouybcdlmnrstwz", k=rng.randint(1, 6)))
        word += ("", rng.choice(suffixes), rng.choice(suffixes) + rng.choice(suffixes))[i % 3]
        expected = _stemming()[0].get(word) or (stemmer.stem(word) if len(word) > 3 else word)
        assert _stem(word) == expected, word
        changed += expected != word
    assert changed > 5_000


def test_longest_common_subsequence() -> None:
    def length(a: str, b: str) -> int:
        assert len(_lcs_places(tuple(b), tuple(a))) == _lcs_length(tuple(a), _positions(tuple(b)), len(b))
        return len(_lcs_places(tuple(b), tuple(a)))

    assert length("ABCBDAB", "BDCABA") == 4
    assert length("", "ABC") == length("ABC", "") == length("ABC", "DEF") == 0
    assert length("AB" * 100, "BA" * 100) == 199  # longer than a machine word
    assert _lcs_places(("a", "b"), ("b", "a")) == {0}  # of two equally long ones, as py-rouge chooses


def test_lines_share_the_words_of_the_text() -> None:
    """Both lines of the reference contain "cat", the text only once."""
    score = build_metric("rouge_l_max", {"weight_factor": 1.0})
    (value,) = score(TextBatch([""], ["cat\ndog"], [["the cat\na cat"]], [{}]))[
        "lexical/rouge_l_max"
    ].per_sample
    precision, recall = 1 / 2, 1 / 4
    assert value == pytest.approx(2 * precision * recall / (precision + recall))
