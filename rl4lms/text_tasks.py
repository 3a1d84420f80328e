"""Self-supervised tasks: functions (text, random numbers) -> (input, target). The unit is the word."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Literal

from rl4lms.datapools.docstring_forms import DROPPED, FORMS

TextTask = Literal["span_corruption", "prefix_continuation", "denoising"]
SENTINELS = 10  # tokens that stand for spans left out
NOISE, MEAN_SPAN = 0.15, 3  # Raffel et al. 2020, Section 3.1.4
MIN_WORDS = 4
PASSAGE_WORDS = (3, 18)  # about 4 to 26 tokens: as long as the texts that a classifier judges
DENOISING_PREFIX = FORMS["restore"].prefix

Example = tuple[str, str]


def sentinel(number: int) -> str:
    """T5's name for the `number`-th span left out, from 0."""
    return f"<extra_id_{number}>"


def span_corruption(text: str, rng: Random) -> Example:
    """Leave out spans of words, 15% of the words; the target is what was (Raffel et al. 2020, Figure 2).

    A sentinel stands for each span, and before it in the target; one more ends the target. Unlike there, a
    text may also begin with a span: else a text with one span would always lose its end.
    """
    words = text.split()
    noise = max(1, round(NOISE * len(words)))
    spans = min(max(1, round(noise / MEAN_SPAN)), len(words) - noise + 1, SENTINELS - 1)
    # Numbers of words between the spans, of which those before the first and after the last may be 0.
    between = _split_number(len(words) - noise + 2, spans + 1, rng)
    between[0] -= 1
    between[-1] -= 1
    start = between[0]
    source, target = words[:start], []
    for number, (length, after) in enumerate(zip(_split_number(noise, spans, rng), between[1:], strict=True)):
        end = start + length
        source += [sentinel(number), *words[end : end + after]]
        target += [sentinel(number), *words[start:end]]
        start = end + after
    return " ".join(source), " ".join([*target, sentinel(spans)])


def prefix_continuation(text: str, rng: Random) -> Example:
    """Cut the text at a place between two words: what is before it, and the rest."""
    words = text.split()
    cut = rng.randint(1, len(words) - 1)
    return " ".join(words[:cut]), " ".join(words[cut:])


def denoising(text: str, rng: Random) -> Example:
    """Drop one word in five, after a prefix; the target is the whole text."""
    words = text.split()
    dropped = set(rng.sample(range(len(words)), max(1, round(DROPPED * len(words)))))
    remaining = [word for i, word in enumerate(words) if i not in dropped]
    return DENOISING_PREFIX + " ".join(remaining), text


def passage(text: str, rng: Random) -> str:
    """Take words in a row, from any place of the text on, also from the middle of a sentence."""
    words = text.split()
    number = min(rng.randint(*PASSAGE_WORDS), len(words))
    start = rng.randint(0, len(words) - number)
    return " ".join(words[start : start + number])


TEXT_TASKS: dict[TextTask, Callable[[str, Random], Example]] = {
    "span_corruption": span_corruption,
    "prefix_continuation": prefix_continuation,
    "denoising": denoising,
}


def _split_number(total: int, parts: int, rng: Random) -> list[int]:
    """Split `total` into a sum of whole numbers above 0, every such sum as likely."""
    cuts = sorted(rng.sample(range(1, total), parts - 1))
    return [end - start for start, end in pairwise([0, *cuts, total])]
