"""Sentence pairs built from docstrings, graded by word overlap: STS-B's stand-in that needs no download.

A pair is a sentence and a copy of it with words left out, or replaced by words of another sentence, as many
as make the grades 0..5 equally frequent. The grade is that of the measured overlap: Dice's, over the words A
and B of the two sentences (lower-cased, without punctuation, a repeated word counted as often as it occurs):

    score = 5 * 2 |A and B| / (|A| + |B|),    class = round(score), half to even as for STS-B
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from common.python_docs import STDLIB, DocRecord, harvest
from common.seeding import derive_seed
from sft_vs_rft.data.containers import Labels, TextPairs
from sft_vs_rft.data.text import MAX_VOCABULARY, SPECIAL_TOKENS
from sft_vs_rft.data_source import EMBEDDED, DataError

# Enough text for 6,000 pairs, in seconds; torch and transformers would add more than they are worth here.
PACKAGES = (STDLIB, "numpy", "scipy", "sklearn", "matplotlib", "pandas")
NUM_TRAIN, NUM_TEST = 5_000, 1_000
NUM_GRADES = EMBEDDED["docstring_pairs"]
MIN_WORDS, MAX_WORDS = 4, 12
# The pool never depends on a run's seeds, which only choose from it.
POOL_SEED = 0
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*[,;:]?")
_ATTEMPTS = 200

Sentence = tuple[str, ...]


def load_sentences(packages: Sequence[str] = PACKAGES, cache_dir: Path | None = None) -> list[Sentence]:
    """Distinct docstring sentences of 4 to 12 plain words, without the full stop, in harvest order.

    Raises DataError: a package is not installed.
    """
    try:
        return plain_sentences(harvest(packages, cache_dir))
    except LookupError as error:
        raise DataError(f"dataset 'docstring_pairs' reads installed packages: {error}") from error


def plain_sentences(records: Sequence[DocRecord]) -> list[Sentence]:
    """First sentences that are nothing but 4 to 12 words and commas, once each, ignoring case."""
    distinct: dict[str, Sentence] = {}
    for record in records:
        words = tuple(record.sentence.rstrip(".!?").split())
        if MIN_WORDS <= len(words) <= MAX_WORDS and all(_WORD.fullmatch(word) for word in words):
            distinct.setdefault(" ".join(words).lower(), words)
    return list(distinct.values())


def build_pairs(
    sentences: Sequence[Sentence], num_train: int = NUM_TRAIN, num_test: int = NUM_TEST
) -> tuple[tuple[TextPairs, Labels], tuple[TextPairs, Labels]]:
    """Train and test pairs with their classes, equally many of each; no sentence is in both splits.

    Raises DataError: too few sentences to build that many pairs from.
    """
    order = np.random.default_rng(derive_seed(POOL_SEED, "split")).permutation(len(sentences))
    shuffled = [sentences[i] for i in order]
    cut = len(shuffled) * num_test // (num_train + num_test)
    test = _graded_pairs(shuffled[:cut], num_test, {_text(s) for s in shuffled[cut:]}, "test")
    train = _graded_pairs(shuffled[cut:], num_train, set(chain.from_iterable(test[0])), "train")
    return train, test


def vocabulary(sentences: Sequence[Sentence]) -> list[str]:
    """A WordPiece vocabulary of the sentences' words, most frequent first, and of all characters.

    Counted, not trained: the tokenizers library's trainer gives another vocabulary in each process.
    """
    characters = "abcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    base = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    counts = Counter(re.findall(r"[a-z]+", " ".join(chain.from_iterable(sentences)).lower()))
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    return [*base, *words][:MAX_VOCABULARY]


def overlap_score(first: str, second: str) -> float:
    """Word overlap of two texts, 0 (none) to 5 (the same words); the formula is at the top of this file."""
    a, b = (Counter(re.findall(r"[a-z'-]+", text.lower())) for text in (first, second))
    return 5 * 2 * (a & b).total() / (a.total() + b.total())


def _graded_pairs(
    sentences: Sequence[Sentence], count: int, elsewhere: set[str], stream: str
) -> tuple[TextPairs, Labels]:
    """`count` pairs from `sentences`, grades in turn; no copy made here is a text of `elsewhere`."""
    if len(sentences) < 2:
        raise DataError(f"too few docstring sentences to build {count} {stream} pairs: {len(sentences)}")
    rng = np.random.default_rng(derive_seed(POOL_SEED, "pairs", stream))
    pairs: TextPairs = []
    labels = np.arange(count) % NUM_GRADES
    for i, grade in enumerate(labels.tolist()):
        for attempt in range(_ATTEMPTS):
            # A few sentences make a grade with hardly any other: then the next one is tried.
            words = sentences[(i + attempt // 50) % len(sentences)]
            copy = _altered(words, sentences[int(rng.integers(len(sentences)))], grade, rng)
            first, second = _text(words), _text(copy)
            if copy and second not in elsewhere and round(overlap_score(first, second)) == grade:
                break
        else:
            raise DataError(f"too few docstring sentences ({len(sentences)}) to build {count} {stream} pairs")
        pairs.append((second, first) if rng.integers(2) else (first, second))
    return pairs, labels


def _altered(words: Sentence, donor: Sentence, grade: int, rng: np.random.Generator) -> Sentence:
    """Some of `words` and of `donor`'s, each in order, mixed: as many as give `grade` if none coincide."""
    if grade == 0:
        return donor
    options = _options(len(words), len(donor), grade)
    if not options:
        return ()
    kept, added = options[rng.integers(len(options))]
    kept_words, added_words = iter(_drawn(words, kept, rng)), iter(_drawn(donor, added, rng))
    places = set(rng.permutation(kept + added)[:kept])
    return tuple(next(kept_words if i in places else added_words) for i in range(kept + added))


@cache
def _options(num_words: int, num_donor: int, grade: int) -> list[tuple[int, int]]:
    """How many words may be kept and added for `grade`, the copy being no longer than the sentence."""
    return [
        (kept, added)
        for kept in range(1, num_words + 1)
        for added in range(min(num_words - kept, num_donor) + 1)
        if round(5 * 2 * kept / (num_words + kept + added)) == grade
    ]


def _drawn(words: Sentence, count: int, rng: np.random.Generator) -> Sentence:
    return tuple(words[i] for i in np.sort(rng.permutation(len(words))[:count]))


def _text(words: Sentence) -> str:
    return " ".join(words).lower()
