"""METEOR (Lavie and Agarwal 2007) as NLTK computes it: reward of CommonGen, CNN/DailyMail and DailyDialog."""

from __future__ import annotations

from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import meteor_score

from rl4lms.metrics.words import words
from rl4lms.requirements import open_wordnet
from rl4lms.text import Score, TextBatch, averaged

NO_WORDNET = "_no_wordnet"  # end of the result key of METEOR without synonyms: the values differ


def meteor(batch: TextBatch, *, wordnet: bool, as_released: bool) -> dict[str, Score]:
    """Score each text against its best reference.

    wordnet: match synonyms too, after equal words and equal stems; False has a result key of its own.
    as_released: against the printed list of references ("['a cat']"), the numbers of the paper.
    """
    return {f"lexical/meteor{'' if wordnet else NO_WORDNET}": averaged(_values(batch, wordnet, as_released))}


def meteor_common_gen_repeat_penalty(
    batch: TextBatch, *, wordnet: bool, as_released: bool, prefix: str
) -> dict[str, Score]:
    """Score as METEOR does, less 1 for a text that repeats its prompt (`repeats_prompt`)."""
    values = _values(batch, wordnet, as_released)
    penalised = [value - hit for value, hit in zip(values, repeats_prompt(batch, prefix), strict=True)]
    key = f"lexical/meteor_common_gen_repeat_penalty{'' if wordnet else NO_WORDNET}"
    return {key: averaged(penalised)}


def repeats_prompt(batch: TextBatch, prefix: str) -> list[bool]:
    """Whether a text holds, in whatever case, the prompt's concepts, the prefix, "generate" or "sentence".

    The concepts count as one string: the prompt after the prefix without its last character.
    """
    hits = []
    for prompt, text in zip(batch.prompts, batch.generated, strict=True):
        concepts = prompt.removeprefix(prefix)[:-1]
        forbidden = [part.lower() for part in (concepts, prefix, "generate", "sentence") if part]
        hits.append(any(part in text.lower() for part in forbidden))
    return hits


def _values(batch: TextBatch, wordnet: bool, as_released: bool) -> list[float]:
    synonyms = _wordnet() if wordnet else SimpleNamespace(synsets=lambda word: [])
    values = []
    for text, references in zip(batch.generated, batch.reference_sets(), strict=True):
        against = [str(references)] if as_released else references
        tokens = [words(reference) for reference in against]
        values.append(
            meteor_score(
                tokens,
                words(text),
                stemmer=_stemmer(),
                wordnet=synonyms,  # only its `synsets` is called
                alpha=0.9,
                beta=3,
                gamma=0.5,
            )
        )
    return values


@cache
def _stemmer() -> Any:
    """NLTK's Porter stemmer with a memory."""
    return SimpleNamespace(stem=lru_cache(maxsize=100_000)(PorterStemmer().stem))


@cache
def _wordnet() -> Any:
    """WordNet with a memory, in the form that NLTK's METEOR asks: all synonyms as one synset."""
    wordnet = open_wordnet()

    @lru_cache(maxsize=100_000)
    def synsets(word: str) -> list[Any]:
        lemmas = [SimpleNamespace(name=lambda name=name: name) for name in wordnet.synonyms(word)]
        return [SimpleNamespace(lemmas=lambda: lemmas)]

    return SimpleNamespace(synsets=synsets)
