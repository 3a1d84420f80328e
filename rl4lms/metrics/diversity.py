"""How varied the texts of a batch are among themselves; no reference is looked at."""

from __future__ import annotations

import math
import string
from collections import Counter
from statistics import fmean, median, pstdev

from rl4lms.metrics.words import words
from rl4lms.text import Score, TextBatch

_MAX_ORDER = 3
_PUNCTUATION = frozenset(string.punctuation)


def diversity(batch: TextBatch, *, window_size: int) -> dict[str, Score]:
    """Compute lengths, n-gram counts, distinct-n, entropies in bits, mean segmental type-token ratio.

    Each is computed with all tokens and without punctuation marks ("nopunct"), on lower-case words;
    n-grams stay within a text.
    """
    everything = [[word.lower() for word in words(text)] for text in batch.generated]
    wordy = [[word for word in tokens if word not in _PUNCTUATION] for tokens in everything]
    values: dict[str, float] = {
        f"msttr-{window_size}": _segmental_type_token_ratio(everything, window_size),
        f"msttr-{window_size}_nopunct": _segmental_type_token_ratio(wordy, window_size),
    }
    values |= _statistics(everything)
    values |= {f"{name}-nopunct": value for name, value in _statistics(wordy).items()}
    return {f"diversity_metrics/{name}": Score(None, value) for name, value in values.items()}


def _segmental_type_token_ratio(texts: list[list[str]], window: int) -> float:
    """Share of distinct tokens in a window, mean over the texts' successive full windows; NaN without one."""
    tokens = [token for text in texts for token in text]
    ratios = [len(set(tokens[i : i + window])) / window for i in range(0, len(tokens) - window + 1, window)]
    return round(fmean(ratios), 5) if ratios else float("nan")


def _statistics(texts: list[list[str]]) -> dict[str, float]:
    lengths = [len(text) for text in texts] or [0]
    values: dict[str, float] = {
        "total_length": sum(lengths),
        "mean_pred_length": fmean(lengths),
        "std_pred_length": pstdev(lengths),
        "median_pred_length": median(lengths),
        "min_pred_length": min(lengths),
        "max_pred_length": max(lengths),
    }
    shorter: Counter[tuple[str, ...]] = Counter()
    for order in range(1, _MAX_ORDER + 1):
        counts = Counter(
            ngram for text in texts for ngram in zip(*(text[i:] for i in range(order)), strict=False)
        )
        values[f"distinct-{order}"] = len(counts) / counts.total() if counts else 0.0
        values[f"vocab_size-{order}"] = len(counts)
        values[f"unique-{order}"] = sum(count == 1 for count in counts.values())
        values[f"entropy-{order}"] = _entropy(counts)
        if order > 1:
            values[f"cond_entropy-{order}"] = _conditional_entropy(counts, shorter)
        shorter = counts
    return values


def _entropy(counts: Counter[tuple[str, ...]]) -> float:
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def _conditional_entropy(counts: Counter[tuple[str, ...]], shorter: Counter[tuple[str, ...]]) -> float:
    """Entropy of an n-gram's last word given the others, whose frequency is that among the (n-1)-grams.

    Those at the end of a text count there too: in short texts the value can be negative.
    """
    total, shorter_total = counts.total(), shorter.total()
    return sum(
        count / total * math.log2(total / count * shorter[ngram[:-1]] / shorter_total)
        for ngram, count in counts.items()
    )
