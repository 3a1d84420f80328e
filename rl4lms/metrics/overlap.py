"""Word and character overlap with the references: BLEU, SacreBLEU, TER, chrF, ROUGE."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, reduce
from itertools import chain
from operator import or_
from types import SimpleNamespace
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.ter import TERScore
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from rl4lms.text import Score, TextBatch, averaged

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_MAX_ORDER = 4
Ngram = tuple[str, ...]


def rouge(batch: TextBatch, *, use_single_ref: bool) -> dict[str, Score]:
    """F of unigrams, bigrams and longest common subsequences of stems, by the package rouge-score.

    use_single_ref: against the first reference, else against the best one, for each type by itself.
    """
    scorer = _rouge_scorer()
    values: dict[str, list[float]] = {kind: [] for kind in ROUGE_TYPES}
    for text, references in zip(batch.generated, batch.reference_sets(), strict=True):
        against = references[:1] if use_single_ref else references
        scores = [scorer.score(reference, text) for reference in against]
        for kind in ROUGE_TYPES:
            values[kind].append(float(max(score[kind].fmeasure for score in scores)))
    return {f"lexical/rouge_{kind}": averaged(values[kind]) for kind in ROUGE_TYPES}


@cache
def _rouge_scorer() -> RougeScorer:
    tokenize = lru_cache(maxsize=1_000)(DefaultTokenizer(use_stemmer=True).tokenize)
    return RougeScorer(list(ROUGE_TYPES), tokenizer=SimpleNamespace(tokenize=tokenize))


class _Overlap(NamedTuple):
    """What BLEU is made of: matched and all n-grams by order, length of the texts and of their references."""

    matched: tuple[int, ...]
    total: tuple[int, ...]
    length: int
    reference_length: int


def bleu(batch: TextBatch) -> dict[str, Score]:
    """BLEU-4 of whitespace-separated tokens, without smoothing; the shortest reference sets the length."""
    overlaps = _overlaps(batch, "none", lambda length, references: min(references))
    return {"lexical/bleu": Score([_bleu([overlap]) for overlap in overlaps], _bleu(overlaps))}


def _bleu(overlaps: list[_Overlap]) -> float:
    """BLEU (Papineni et al. 2002) of texts taken together; 0 where an order has no match."""
    matched, total, length, reference_length = _pool(overlaps)
    if not all(matched) or not reference_length:
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / _MAX_ORDER
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(precision + brevity)


def sacre_bleu(batch: TextBatch, *, tokenize: str) -> dict[str, Score]:
    """SacreBLEU / 100; a single text is a corpus of one, without effective order: 0 if it is short.

    The values are sacrebleu's, which counts the references anew for every text.
    """
    overlaps = _overlaps(batch, tokenize, _closest)
    corpus = _average_groups(batch, lambda group: _sacre_bleu([overlaps[i] for i in group]))
    return {"lexical/sacrebleu": Score([_sacre_bleu([overlap]) for overlap in overlaps], corpus)}


def _closest(length: int, references: Sequence[int]) -> int:
    """The length nearest to that of the text, of two the shorter."""
    return min(references, key=lambda other: (abs(length - other), other))


def _sacre_bleu(overlaps: list[_Overlap]) -> float:
    """SacreBLEU / 100 of texts taken together."""
    matched, total, length, reference_length = _pool(overlaps)
    if not matched[0]:
        return 0.0
    score = BLEU.compute_bleu(list(matched), list(total), length, reference_length, smooth_method="exp")
    return score.score / 100


def _pool(overlaps: list[_Overlap]) -> _Overlap:
    if len(overlaps) == 1:
        return overlaps[0]
    matched = [sum(overlap.matched[i] for overlap in overlaps) for i in range(_MAX_ORDER)]
    total = [sum(overlap.total[i] for overlap in overlaps) for i in range(_MAX_ORDER)]
    length = sum(overlap.length for overlap in overlaps)
    reference_length = sum(overlap.reference_length for overlap in overlaps)
    return _Overlap(tuple(matched), tuple(total), length, reference_length)


def _overlaps(
    batch: TextBatch, tokenize: str, reference_length: Callable[[int, Sequence[int]], int]
) -> list[_Overlap]:
    """Count each text's overlap; reference_length: chooses the length that counts from all references'."""
    overlaps = []
    for text, references in zip(batch.generated, batch.reference_sets(), strict=True):
        tokens = split_tokens(text, tokenize)
        counts, lengths = _reference_ngrams(tuple(references), tokenize)
        length = len(tokens)
        total = tuple(max(0, length - n) for n in range(_MAX_ORDER))
        overlaps.append(_Overlap(_matched(tokens, counts), total, length, reference_length(length, lengths)))
    _forget_texts(tokenize)
    return overlaps


@lru_cache(maxsize=100)  # an input's texts follow one another, and long references have many n-grams
def _reference_ngrams(references: tuple[str, ...], tokenize: str) -> tuple[Counter[Ngram], list[int]]:
    """The highest count of each n-gram in a reference, and the references' lengths."""
    split = [split_tokens(reference, tokenize) for reference in references]
    return reduce(or_, map(_ngrams, split)), list(map(len, split))


def _ngrams(tokens: list[str]) -> Counter[Ngram]:
    """Count the n-grams of all orders."""
    tails = [tokens[i:] for i in range(_MAX_ORDER)]
    return Counter(chain.from_iterable(zip(*tails[:n], strict=False) for n in range(1, _MAX_ORDER + 1)))


def _matched(tokens: list[str], highest: Counter[Ngram]) -> tuple[int, ...]:
    """How many n-grams of each order are in the references, each as often as in one of them at most."""
    matched, starts = [], list(range(len(tokens)))
    for n in range(1, _MAX_ORDER + 1):
        ngrams = [
            (start, ngram) for start in starts if (ngram := tuple(tokens[start : start + n])) in highest
        ]
        counts = Counter(ngram for _, ngram in ngrams)
        matched.append(sum(min(count, highest[ngram]) for ngram, count in counts.items()))
        # An n-gram is in a reference only if the shorter one that begins it is.
        starts = [start for start, _ in ngrams if start + n < len(tokens)]
    return tuple(matched)


# The tokeniser 13a in one pass: words, in which full stops and commas stand between digits and hyphens follow
# no digit; then single characters. Texts in which `_13A_REST` finds something need sacrebleu's own passes.
_PUNCTUATION = r"!-&(-+/:-@\[-`{-~"  # all of ASCII but ' , - .
_13A = re.compile(rf"(?:[^\s{_PUNCTUATION}.,-]++|(?<=[0-9])[.,](?=[0-9])|(?<![0-9])-)++|[{_PUNCTUATION}.,-]")
_13A_REST = re.compile(r"<skipped>|-\n|&(?:quot|amp|lt|gt);|[.,][.,][0-9]")


def split_tokens(text: str, name: str) -> list[str]:
    """The tokens of sacrebleu's tokeniser of this name."""
    if name == "13a" and not _13A_REST.search(text):
        return _13A.findall(text)
    return _tokenizer(name)(text.rstrip()).split()


@cache
def _tokenizer(name: str) -> Callable[[str], str]:
    return BLEU(tokenize=name).tokenizer


def _forget_texts(tokenize: str) -> None:
    """sacrebleu's tokenisers keep the last 65,536 texts, of which none comes again."""
    for kind in (type(_tokenizer(tokenize)), TokenizerRegexp):
        if clear := getattr(kind.__call__, "cache_clear", None):
            clear()


def ter(batch: TextBatch) -> dict[str, Score]:
    """Translation edit rate (Snover et al. 2006) by sacrebleu; 1: as many edits as words in the reference.

    A text without a word has 1 whatever it is compared with, where sacrebleu gives 0 for an empty reference:
    an empty text is never the best.
    """
    metric = _ter()
    scores: list[TERScore] = [
        metric.corpus_score([text], [[reference] for reference in references])
        for text, references in zip(batch.generated, batch.reference_sets(), strict=True)
    ]

    words = [bool(text.split()) for text in batch.generated]

    def score_group(group: Sequence[int]) -> float:
        edits = sum(scores[i].num_edits if words[i] else scores[i].ref_length for i in group)
        length = sum(scores[i].ref_length for i in group)
        return edits / length if length else 1.0

    per_sample = [score_group([i]) for i in range(len(batch))]
    return {"lexical/ter": Score(per_sample, _average_groups(batch, score_group))}


@cache
def _ter() -> TER:
    return TER()


def chrf(batch: TextBatch) -> dict[str, Score]:
    """F of character n-grams (Popovic 2015) by sacrebleu, / 100."""
    metric = _chrf()
    references = batch.reference_sets()

    def score_group(group: Sequence[int]) -> float:
        streams = [list(stream) for stream in zip(*(references[i] for i in group), strict=True)]
        return metric.corpus_score([batch.generated[i] for i in group], streams).score / 100

    per_sample = [score_group([i]) for i in range(len(batch))]
    corpus = per_sample[0] if len(batch) == 1 else _average_groups(batch, score_group)
    return {"lexical/chrf": Score(per_sample, corpus)}


@cache
def _chrf() -> CHRF:
    return CHRF()


def _average_groups(batch: TextBatch, score: Callable[[Sequence[int]], float]) -> float:
    """Mean over groups of texts with equally many references, weighted by their sizes; NaN for no text.

    sacrebleu takes corpora with one number of references only.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for i, references in enumerate(batch.reference_sets()):
        groups[len(references)].append(i)
    if not groups:
        return float("nan")
    return sum(len(group) * score(group) for group in groups.values()) / len(batch)
