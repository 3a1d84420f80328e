"""PARENT (Dhingra et al. 2019) and BLEU of sentences about ToTTo tables, as ToTTo's evaluation computes them.

They are computed on all tables, on those whose header and title a training table has too ("overlap"), and on
the others. The value of a subset without a table is NaN. Both sides are lower-cased. A table has three
references; for those that it lacks, and for an empty text, stands "<null>" (three tokens, which shortens the
closest reference of BLEU).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sacrebleu.metrics import BLEU

from rl4lms.metrics.overlap import split_tokens
from rl4lms.text import Score, TextBatch

Tokens = list[str]

_MAX_ORDER = 4
_REFERENCES = 3
_NULL = "<null>"
_SMOOTHING = 1e-5


class Parent(NamedTuple):
    """PARENT of one text."""

    f_score: float
    precision: float
    recall: float


def parent_totto(batch: TextBatch) -> dict[str, Score]:
    """Score PARENT of each text against its best reference; the corpus value is the mean."""
    values = [
        best_parent(text, references, table)
        for text, references, table in zip(batch.generated, batch.references, read_tables(batch), strict=True)
    ]
    scores = {}
    for subset, inside in _subsets(batch).items():
        name = f"table_to_text/parent_{subset}"
        for key, part in (("/precision", "precision"), ("/recall", "recall"), ("_f_score", "f_score")):
            part_values = [getattr(value, part) for value in values]
            per_sample = [
                value if member else math.nan for value, member in zip(part_values, inside, strict=True)
            ]
            members = [value for value, member in zip(per_sample, inside, strict=True) if member]
            scores[name + key] = Score(per_sample, fmean(members) if members else math.nan)
    return scores


def bleu_totto(batch: TextBatch) -> dict[str, Score]:
    """Score SacreBLEU / 100 against the three references of a table."""
    metric = BLEU()
    texts = [_line(text) for text in batch.generated]
    references = [_three(group) for group in batch.references]

    def value(indices: Sequence[int]) -> float:
        if not indices:
            return math.nan
        streams = [list(stream) for stream in zip(*(references[i] for i in indices), strict=True)]
        return metric.corpus_score([texts[i] for i in indices], streams).score / 100

    scores = {}
    for subset, inside in _subsets(batch).items():
        members = [i for i, member in enumerate(inside) if member]
        per_sample = [value([i] if member else []) for i, member in enumerate(inside)]
        scores[f"table_to_text/bleu_{subset}"] = Score(per_sample, value(members))
    return scores


def read_tables(batch: TextBatch) -> list[dict[str, Any]]:
    """Read the tables the texts are about. Raises ValueError for a text without one."""
    for i, meta in enumerate(batch.meta):
        if "raw_table" not in meta:
            raise ValueError(
                f"text {i} is not about a ToTTo table: its meta data have no 'raw_table'; "
                "metrics and rewards of tables go with datapool totto"
            )
    return [meta["raw_table"] for meta in batch.meta]


def _subsets(batch: TextBatch) -> dict[str, list[bool]]:
    overlap = [bool(table["overlap_subset"]) for table in read_tables(batch)]
    return {"overall": [True] * len(batch), "overlap": overlap, "non_overlap": [not x for x in overlap]}


def _line(text: str) -> str:
    """Write a text as ToTTo's evaluation does: one lower-case line, "<null>" for an empty one."""
    return " ".join(text.lower().split()) or _NULL


def _three(references: list[str]) -> list[str]:
    """Write three references: those beyond are left out, for missing ones stands "<null>".

    One that is there but empty stays so: BLEU passes over it. If all three are, "<null>" is the first.
    """
    lines = [" ".join(reference.lower().split()) for reference in references[:_REFERENCES]]
    lines += [_NULL] * (_REFERENCES - len(lines))
    return lines if any(lines) else [_NULL, *lines[1:]]


def best_parent(text: str, references: list[str], table: dict[str, Any]) -> Parent:
    """Score against the best reference: precision by the whole table, recall by its highlighted cells."""
    cells = [cell["value"] for row in table["table"] for cell in row]
    highlighted = [table["table"][row][column]["value"] for row, column in table["highlighted_cells"]]
    titles = [table["table_page_title"], table["table_section_title"]]
    known = _tokenize_values([*cells, *titles, table.get("table_section_text", "")])
    required = _tokenize_values([*highlighted, *titles])
    words = split_tokens(_line(text), "13a")
    scores = [
        parent(words, split_tokens(reference, "13a"), known, required) for reference in _three(references)
    ]
    return max(scores, key=lambda score: score.f_score)


def _tokenize_values(values: list[str]) -> list[Tokens]:
    """Split the values of a table into 13a tokens; a bar is a hyphen, as in the evaluation's table files."""
    lines = [" ".join(value.lower().replace("|", "-").split()) for value in values]
    return [words for line in lines if (words := split_tokens(line, "13a"))]


def parent(text: Tokens, reference: Tokens, known: list[Tokens], required: list[Tokens]) -> Parent:
    """Score PARENT of a text against one reference (the paper's section 3).

    known: values of the table that back an n-gram up. required: the values that the text should mention.
    A precision or recall of 0 is 1e-5 for orders 2 to 4; of single words, it makes the precision of the text
    0 and its recall of the reference 1e-5.
    """
    vocabulary = {word for value in known for word in value}

    def backed(ngram: tuple[str, ...]) -> float:  # w(g), the word overlap model
        return sum(word in vocabulary for word in ngram) / len(ngram)

    precisions, recalls = [], []
    for order in range(1, _MAX_ORDER + 1):
        ours, theirs = _ngrams(text, order), _ngrams(reference, order)
        common = ours & theirs
        entailed = sum(
            common[ngram] + (count - common[ngram]) * backed(ngram) for ngram, count in ours.items()
        )
        precisions.append(entailed / ours.total() if ours else 0.0)
        relevant = sum(count * backed(ngram) for ngram, count in theirs.items())
        recalled = sum(count * backed(ngram) for ngram, count in common.items())
        recalls.append(recalled / relevant if relevant else 1.0)

    precision = _smoothed_mean(precisions)
    reference_recall = _smoothed_mean(recalls) or _SMOOTHING
    # The more of the table a reference holds, the more it alone decides what has to be said.
    weight = _mentioned(required, reference)
    recall = reference_recall**weight * (_mentioned(required, text) or _SMOOTHING) ** (1 - weight)
    return Parent(2 * precision * recall / (precision + recall + 1e-8), precision, recall)


def _ngrams(words: Tokens, order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(order)), strict=False))


def _smoothed_mean(values: list[float]) -> float:
    """Geometric mean over the orders, in which a 0 of the orders from 2 on is 1e-5; 0 if the first is 0."""
    first, *others = values
    return math.exp(fmean(map(math.log, [first, *(x or _SMOOTHING for x in others)]))) if first else 0.0


def _mentioned(values: list[Tokens], text: Tokens) -> float:
    """Mean share of a value's words that stand in the text in their order; 0 for a table without values."""
    return fmean(_lcs_length(value, text) / len(value) for value in values) if values else 0.0


def _lcs_length(a: Tokens, b: Tokens) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        above = row
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
    return row[-1]
