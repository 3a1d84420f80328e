"""The built-in rewards. Their arguments are described in reward_args.py and metrics/args.py."""

from __future__ import annotations

import re
from itertools import pairwise, takewhile
from typing import Any

from rl4lms.metrics import METRICS
from rl4lms.metrics.args import COMMON_GEN_PREFIX
from rl4lms.text import TextBatch

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re.compile(
    rf"\b(?:{_MONTH} \d{{1,4}}|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?![a-z])|"
    r"\d{4}-\d\d-\d\d|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|(?:1[5-9]|20)\d\d)\b",
    re.IGNORECASE,
)


def rouge_l_max(batch: TextBatch, **metric_args: Any) -> list[float]:
    """ROUGE-L max (NarrativeQA)."""
    return _per_text("rouge_l_max", batch, **metric_args)


def meteor(batch: TextBatch, *, shaping_fn: str | None, **metric_args: Any) -> list[float]:
    """METEOR (CommonGen, CNN/DailyMail, DailyDialog)."""
    return _shaped(_per_text("meteor", batch, **metric_args), batch, shaping_fn)


def sacre_bleu(batch: TextBatch, *, shaping_fn: str | None, tokenize: str) -> list[float]:
    """SacreBLEU / 100 of each text (ToTTo, IWSLT)."""
    return _shaped(_per_text("sacre_bleu", batch, tokenize=tokenize), batch, shaping_fn)


def learned_reward(batch: TextBatch, **metric_args: Any) -> list[float]:
    """Probability of a class under a classifier (IMDB)."""
    return _per_text("learned_reward", batch, **metric_args)


def rouge(batch: TextBatch, *, rouge_type: str, shaping_fn: str | None, use_single_ref: bool) -> list[float]:
    """One of the four values of rouge-score."""
    values = _per_text("rouge", batch, f"lexical/rouge_{rouge_type}", use_single_ref=use_single_ref)
    return _shaped(values, batch, shaping_fn)


def rouge_combined(batch: TextBatch, *, shaping_fn: str | None, use_single_ref: bool) -> list[float]:
    """Mean of rouge1, rouge2 and rougeLsum."""
    scores = METRICS.function("rouge")(batch, use_single_ref=use_single_ref)
    columns = [scores[f"lexical/rouge_{kind}"].per_sample for kind in ("rouge1", "rouge2", "rougeLsum")]
    return _shaped([sum(row) / len(row) for row in zip(*columns, strict=True)], batch, shaping_fn)


def bleu(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """BLEU-4 of each text, without smoothing."""
    return _shaped(_per_text("bleu", batch), batch, shaping_fn)


def chrf(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """chrF / 100 of each text."""
    return _shaped(_per_text("chrf", batch), batch, shaping_fn)


def ter(batch: TextBatch, *, shaping_fn: str | None) -> list[float]:
    """1 - TER: the fewer edits the better, negative for more edits than words."""
    return _shaped([1 - value for value in _per_text("ter", batch)], batch, shaping_fn)


def bert_score(batch: TextBatch, **metric_args: Any) -> list[float]:
    """BERTScore F1."""
    return _per_text("bert_score", batch, **metric_args)


def parent(batch: TextBatch) -> list[float]:
    """PARENT F of a text about a ToTTo table."""
    return _per_text("parent_totto", batch, "table_to_text/parent_overall_f_score")


def intent_accuracy(
    batch: TextBatch, *, intent_coeff: float, auto_coeff: float, wordnet: bool, **metric_args: Any
) -> list[float]:
    """intent_coeff x (1 for the reference's intent, else 0) + auto_coeff x METEOR."""
    values = [intent_coeff * hit for hit in _per_text("intent_accuracy", batch, **metric_args)]
    if not auto_coeff:
        return values
    overlap = _per_text("meteor", batch, wordnet=wordnet, as_released=False)
    return [value + auto_coeff * other for value, other in zip(values, overlap, strict=True)]


def increasing_numbers(batch: TextBatch, *, min_tokens: int) -> list[float]:
    """How many of a text's numbers rise from the first on, per word of it or of half of `min_tokens`."""
    values = []
    for text in batch.generated:
        words = text.split()
        numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
        rises = takewhile(lambda pair: pair[0] < pair[1], pairwise(numbers))
        rising = bool(numbers) + sum(1 for _ in rises)
        values.append(rising / max(len(words), min_tokens / 2))
    return values


def sentences_with_dates(batch: TextBatch) -> list[float]:
    """The share of a text's sentences that hold a date: a day, a month with a number, or a year."""
    values = []
    for text in batch.generated:
        sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
        dated = sum(_DATE.search(sentence) is not None for sentence in sentences)
        values.append(dated / len(sentences) if sentences else 0.0)
    return values


def _per_text(metric: str, batch: TextBatch, key: str | None = None, **metric_args: Any) -> list[float]:
    """The per-text values of a built-in metric: of the result of that key, or the only one."""
    scores = METRICS.function(metric)(batch, **metric_args)
    (score,) = [scores[key]] if key else scores.values()
    return score.per_sample


def _shaped(values: list[float], batch: TextBatch, shaping_fn: str | None) -> list[float]:
    """Values less 1 where a text repeats its CommonGen prompt, if that is asked for."""
    if shaping_fn is None:
        return values
    from rl4lms.metrics.meteor import repeats_prompt  # imports NLTK

    repeats = repeats_prompt(batch, COMMON_GEN_PREFIX)
    return [value - repeat for value, repeat in zip(values, repeats, strict=True)]
