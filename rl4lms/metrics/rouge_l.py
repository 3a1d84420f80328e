"""ROUGE-L against the best reference, with the values of the package py-rouge 1.1: NarrativeQA's reward.

It is not the ROUGE-L of Lin (2004). Precision and recall are raised to 1 / weight_factor, which belongs to
ROUGE-W alone there; irregular words become their base form instead of going through the Porter stemmer. The
subsequence of several lines is the union of those of the lines, as far as the text has words to pay for it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

from nltk.stem.porter import PorterStemmer

from rl4lms.text import Score, TextBatch, averaged

Sentence = tuple[str, ...]
LimitType = Literal["words", "bytes"]

_STEM_EXCEPTIONS = Path(__file__).parent / "data" / "rouge_stem_exceptions.txt"
_WORD = re.compile("[a-z0-9]+")
# One of these ends every word that a rule of the Porter stemmer changes, in whichever of its steps.
_PORTER_ENDINGS = ("s", "ed", "ing", "y", "e", "i", "l", "er", "or", "ion", "ism", "ic", "ant", "ent", "ou")
# Words that the Penn Treebank tokeniser splits; it would split "cannot" too, but ROUGE-1.5.5 does not.
_CONTRACTIONS = {
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "wanna": ("wan", "na"),
}


def rouge_l_max(
    batch: TextBatch,
    *,
    alpha: float,
    weight_factor: float,
    stemming: bool,
    limit_length: bool,
    length_limit: int,
    length_limit_type: LimitType,
) -> dict[str, Score]:
    """Score the highest F over a text's references. alpha: weight of precision in F.

    length_limit: words, or characters (py-rouge calls them bytes), of text and reference that count; 0: all.
    """
    limit = length_limit if limit_length and length_limit > 0 else None
    values = []
    for text, references in zip(batch.generated, batch.reference_sets(), strict=True):
        generated = _sentences(text, limit, length_limit_type, stemming)
        against = [_prepare(reference, limit, length_limit_type, stemming) for reference in references]
        values.append(max(_f_score(generated, *prepared, alpha, weight_factor) for prepared in against))
    return {"lexical/rouge_l_max": averaged(values)}


def _f_score(
    generated: list[Sentence],
    reference: list[Sentence],
    positions: dict[str, int],
    alpha: float,
    weight_factor: float,
) -> float:
    """F of the weighted precision and recall; positions: `_positions` of a reference of one sentence."""
    generated_length = sum(map(len, generated))
    reference_length = sum(map(len, reference))
    if len(generated) == len(reference) == 1:
        common = _lcs_length(generated[0], positions, reference_length)
    else:
        common = _union_lcs_length(generated, reference)
    if not common:
        return 0.0
    precision, recall = common / generated_length, common / reference_length
    if weight_factor != 1.0:
        precision, recall = precision ** (1 / weight_factor), recall ** (1 / weight_factor)
    return precision * recall / ((1 - alpha) * precision + alpha * recall)


@lru_cache(maxsize=1_000)  # references come again with each further text of their input
def _prepare(
    reference: str, limit: int | None, limit_type: LimitType, stemming: bool
) -> tuple[list[Sentence], dict[str, int]]:
    sentences = _sentences(reference, limit, limit_type, stemming)
    return sentences, _positions(sentences[0]) if len(sentences) == 1 else {}


def _sentences(text: str, limit: int | None, limit_type: LimitType, stemming: bool) -> list[Sentence]:
    """The lines of a text as lower-case stems, up to the one that reaches the limit."""
    lines = text.split("\n")
    if limit is not None:
        lines = _first_words(lines, limit) if limit_type == "words" else _first_characters(lines, limit)
    return [
        tuple(chain.from_iterable(_stems(word, stemming) for word in _WORD.findall(line.lower())))
        for line in lines
    ]


def _first_words(lines: list[str], limit: int) -> list[str]:
    beginning: list[str] = []
    for line in lines:
        words = line.split()
        beginning.append(" ".join(words[:limit]))
        limit -= len(words)
        if limit <= 0:
            break
    return beginning


def _first_characters(lines: list[str], limit: int) -> list[str]:
    beginning: list[str] = []
    for line in lines:
        beginning.append(line.strip()[:limit])
        limit -= len(line.strip())
        if limit <= 0:
            break
    return beginning


@lru_cache(maxsize=20_000)
def _stems(word: str, stemming: bool) -> Sentence:
    """Stem a word: one stem, two for a contraction. Words of up to three characters stay."""
    # The mark hides "cannot" from py-rouge's tokeniser, but not from its stemmer, which can see longer words.
    marked = word.replace("cannot", "_cannot_")
    parts: Sentence = _CONTRACTIONS.get(marked, (marked,))
    if stemming:
        parts = tuple(map(_stem, parts))
    return tuple(part.replace("_cannot_", "cannot") for part in parts)


def _stem(word: str) -> str:
    exceptions, stemmer = _stemming()
    if len(word) <= 3:
        return word
    return exceptions.get(word) or (stemmer.stem(word) if word.endswith(_PORTER_ENDINGS) else word)


@lru_cache(maxsize=1)
def _stemming() -> tuple[dict[str, str], PorterStemmer]:
    lines = _STEM_EXCEPTIONS.read_text(encoding="utf-8").splitlines()
    exceptions = dict(line.split() for line in lines if not line.startswith("#"))
    return exceptions, PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)


def _positions(words: Sentence) -> dict[str, int]:
    """Find the places where each word stands, as bits."""
    positions: dict[str, int] = {}
    for place, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << place
    return positions


def _lcs_length(words: Sentence, positions: dict[str, int], length: int) -> int:
    """Length of the longest common subsequence with a text of `length` words at these positions.

    One row of the dynamic programme for each word, as the bits of an integer: a zero at j says that the
    length grows from j to j + 1 words of the text (Hyyrö 2004, Bit-parallel LCS-length computation).
    """
    row = all_ones = (1 << length) - 1
    for word in words:
        if matches := row & positions.get(word, 0):
            row = (row + matches) | (row - matches)
    return length - (row & all_ones).bit_count()


def _union_lcs_length(generated: list[Sentence], reference: list[Sentence]) -> int:
    """Words of the reference in a common subsequence with any generated sentence.

    A word of the generated text can pay for one of them only.
    """
    unused = Counter(chain.from_iterable(generated))
    common = 0
    for sentence in reference:
        hits = set().union(*(_lcs_places(sentence, other) for other in generated)) if sentence else set()
        for place in sorted(hits):
            if unused[sentence[place]] > 0:
                unused[sentence[place]] -= 1
                common += 1
    return common


def _lcs_places(reference: Sentence, generated: Sentence) -> set[int]:
    """Where a longest common subsequence stands in the reference; going back it skips the reference first."""
    positions = _positions(generated)
    row = (1 << len(generated)) - 1
    rows = [row]
    for word in reference:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & rows[0]
        rows.append(row)

    def length(i: int, j: int) -> int:
        return j - (rows[i] & ((1 << j) - 1)).bit_count()

    places = set()
    i, j = len(reference), len(generated)
    while i and j:
        if reference[i - 1] == generated[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif length(i - 1, j) >= length(i, j - 1):
            i -= 1
        else:
            j -= 1
    return places
