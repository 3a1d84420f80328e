"""Word and character overlap with the references: BLEU, SacreBLEU, TER, chrF, ROUGE."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.bleu import BLEUScore
from sacrebleu.metrics.ter import TERScore

from rl4lms.text import Score, TextBatch, averaged

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_MAX_ORDER = 4


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
    tokenize = lru_cache(maxsize=20_000)(DefaultTokenizer(use_stemmer=True).tokenize)
    return RougeScorer(list(ROUGE_TYPES), tokenizer=SimpleNamespace(tokenize=tokenize))


class _Overlap(NamedTuple):
    """What BLEU is made of: matched and all n-grams by order, length of the texts and of their references."""

    matched: tuple[int, ...]
    total: tuple[int, ...]
    length: int
    reference_length: int


def bleu(batch: TextBatch) -> dict[str, Score]:
    """BLEU-4 of whitespace-separated tokens, without smoothing; the shortest reference sets the length."""
    overlaps = [
        _overlap(text.split(), [reference.split() for reference in references])
        for text, references in zip(batch.generated, batch.reference_sets(), strict=True)
    ]
    return {"lexical/bleu": Score([_bleu([overlap]) for overlap in overlaps], _bleu(overlaps))}


def _overlap(text: list[str], references: list[list[str]]) -> _Overlap:
    matched, total = [], []
    for order in range(1, _MAX_ORDER + 1):
        counts = _ngrams(text, order)
        highest: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            highest |= _ngrams(reference, order)
        matched.append((counts & highest).total())
        total.append(counts.total())
    return _Overlap(tuple(matched), tuple(total), len(text), min(map(len, references)))


def _ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def _bleu(overlaps: list[_Overlap]) -> float:
    """BLEU (Papineni et al. 2002) of texts taken together; 0 where an order has no match."""
    matched = [sum(overlap.matched[i] for overlap in overlaps) for i in range(_MAX_ORDER)]
    total = [sum(overlap.total[i] for overlap in overlaps) for i in range(_MAX_ORDER)]
    length = sum(overlap.length for overlap in overlaps)
    reference_length = sum(overlap.reference_length for overlap in overlaps)
    if not all(matched) or not reference_length:
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / _MAX_ORDER
    brevity = min(0.0, 1 - reference_length / length)
    return math.exp(precision + brevity)


def sacre_bleu(batch: TextBatch, *, tokenize: str) -> dict[str, Score]:
    """SacreBLEU / 100; a single text is a corpus of one, without effective order: 0 if it is short."""
    metric = _sacre_bleu(tokenize)
    scores = [
        metric.corpus_score([text], [[reference] for reference in references])
        for text, references in zip(batch.generated, batch.reference_sets(), strict=True)
    ]
    corpus = _mean_of_groups(batch, lambda group: _pooled_bleu([scores[i] for i in group]))
    return {"lexical/sacrebleu": Score([score.score / 100 for score in scores], corpus)}


@cache  # making one costs more than a score
def _sacre_bleu(tokenize: str) -> BLEU:
    return BLEU(tokenize=tokenize)


def _pooled_bleu(scores: list[BLEUScore]) -> float:
    """SacreBLEU / 100 of the corpus that scored texts make up, from what was counted in each."""
    return (
        BLEU.compute_bleu(
            correct=[sum(column) for column in zip(*(score.counts for score in scores), strict=True)],
            total=[sum(column) for column in zip(*(score.totals for score in scores), strict=True)],
            sys_len=sum(score.sys_len for score in scores),
            ref_len=sum(score.ref_len for score in scores),
            smooth_method="exp",
        ).score
        / 100
    )


def ter(batch: TextBatch) -> dict[str, Score]:
    """Translation edit rate (Snover et al. 2006) by sacrebleu; 1: as many edits as words in the reference."""
    metric = _ter()
    scores: list[TERScore] = [
        metric.corpus_score([text], [[reference] for reference in references])
        for text, references in zip(batch.generated, batch.reference_sets(), strict=True)
    ]

    def pooled(group: Sequence[int]) -> float:
        edits = sum(scores[i].num_edits for i in group)
        length = sum(scores[i].ref_length for i in group)
        return edits / length if length else float(edits > 0)

    return {"lexical/ter": Score([score.score / 100 for score in scores], _mean_of_groups(batch, pooled))}


@cache
def _ter() -> TER:
    return TER()


def chrf(batch: TextBatch) -> dict[str, Score]:
    """F of character n-grams (Popovic 2015) by sacrebleu, / 100."""
    metric = _chrf()
    references = batch.reference_sets()

    def pooled(group: Sequence[int]) -> float:
        streams = [list(stream) for stream in zip(*(references[i] for i in group), strict=True)]
        return metric.corpus_score([batch.generated[i] for i in group], streams).score / 100

    per_sample = [pooled([i]) for i in range(len(batch))]
    corpus = per_sample[0] if len(batch) == 1 else _mean_of_groups(batch, pooled)
    return {"lexical/chrf": Score(per_sample, corpus)}


@cache
def _chrf() -> CHRF:
    return CHRF()


def _mean_of_groups(batch: TextBatch, score: Callable[[Sequence[int]], float]) -> float:
    """Mean over groups of texts with equally many references, weighted by their sizes; NaN for no text.

    sacrebleu takes corpora with one number of references only.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for i, references in enumerate(batch.reference_sets()):
        groups[len(references)].append(i)
    if not groups:
        return float("nan")
    return sum(len(group) * score(group) for group in groups.values()) / len(batch)
