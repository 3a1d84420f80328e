"""The words of a text, for METEOR and the diversity statistics."""

from __future__ import annotations

import re
from functools import lru_cache

from nltk.tokenize import NLTKWordTokenizer

# Up to NLTK 3.10.0 an opening single quote was split from words of one letter only; now it is from all, which
# moves METEOR where texts hold quotes. This is the rule of then.
_OPENING_SINGLE_QUOTE = (re.compile(r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b"), r"\1 \2")

_TOKENIZER = NLTKWordTokenizer()
_TOKENIZER.STARTING_QUOTES = [*NLTKWordTokenizer.STARTING_QUOTES[:-1], _OPENING_SINGLE_QUOTE]


@lru_cache(maxsize=20_000)  # references come again with each further text of their input
def words(text: str) -> tuple[str, ...]:
    """Penn Treebank tokens as NLTK makes them, of the text as a whole: without a split into sentences."""
    return tuple(_TOKENIZER.tokenize(text))
