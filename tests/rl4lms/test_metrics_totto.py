"""PARENT by hand; its golden values are in test_metrics_golden.py."""

import math

import pytest
from text_pairs import text_pairs

from rl4lms.metrics import TextBatch, build_metric
from rl4lms.metrics.totto import best_parent, parent, tokens

TABLE = {
    "table_page_title": "Ann Lee",
    "table_section_title": "",
    "overlap_subset": True,
    "highlighted_cells": [[1, 0], [1, 1]],
    "table": [
        [{"value": "Year"}, {"value": "Team"}],
        [{"value": "2001"}, {"value": "Red Lions"}],
    ],
}


def test_parent_by_hand() -> None:
    """Known words: year, team, 2001, red, lions, ann, lee. Wanted values: 2001; red lions; ann lee."""
    text, reference = "ann played for lions", "ann lee joined red lions"
    known = [["year"], ["team"], ["2001"], ["red", "lions"], ["ann", "lee"]]
    wanted = [["2001"], ["red", "lions"], ["ann", "lee"]]
    # Precision. Unigrams: ann, lions are in the reference, played, for are not and nothing backs them: 2/4.
    # Bigrams: (ann played) 1/2, (played for) 0, (for lions) 1/2. Trigrams: 1/3, 1/3. The 4-gram: 2/4.
    precision = (2 / 4 * (1 / 3) * (1 / 3) * (1 / 2)) ** 0.25
    # Recall of the reference, n-grams weighted by how far the table backs them. Unigrams: ann, lions of the
    # four ann, lee, red, lions. Of the longer ones none: smoothed.
    reference_recall = (2 / 4 * 1e-5**3) ** 0.25
    # Of the wanted values' words the text mentions 0 of 1, 1 of 2, 1 of 2; the reference 0, 2, 2.
    mentioned, weight = (0 + 1 / 2 + 1 / 2) / 3, (0 + 1 + 1) / 3
    recall = reference_recall**weight * mentioned ** (1 - weight)
    found = parent(text.split(), reference.split(), known, wanted)
    assert found.precision == pytest.approx(precision)
    assert found.recall == pytest.approx(recall)
    assert found.f_score == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-6)
    assert best_parent(text, [reference] * 3, TABLE) == pytest.approx(found)


def test_the_best_reference_counts_and_missing_ones_are_empty() -> None:
    good, bad = "Ann Lee joined the Red Lions in 2001", "nothing of this"
    assert best_parent(good, [bad, good, bad], TABLE) == best_parent(good, [good, bad, bad], TABLE)
    assert best_parent(good, [good] * 3, TABLE).f_score == pytest.approx(1)
    # Against an empty reference only the table counts: all of "red lions" and of nothing else is backed.
    alone = best_parent("red lions", [bad], TABLE)
    assert alone == best_parent("red lions", [bad, "", ""], TABLE)
    assert alone.f_score == 0, "too short for a 4-gram"
    table_only = parent("ann lee red lions".split(), [], [["ann", "lee", "red", "lions"]], [["lions"], ["x"]])
    assert (table_only.precision, table_only.recall) == (1, pytest.approx(1 / 2))


def test_empty_texts_score_zero() -> None:
    assert best_parent("", ["Ann Lee"], TABLE) == (0, 0, 0)
    assert best_parent("", [], TABLE) == (0, 0, 0)


def test_values_are_between_0_and_1_for_any_text() -> None:
    batch = text_pairs(100)
    batch = TextBatch(batch.prompts, batch.generated, batch.references, [{"raw_table": TABLE}] * len(batch))
    for metric in ("parent_totto", "bleu_totto"):
        for name, score in build_metric(metric)(batch).items():
            if "non_overlap" in name:
                assert math.isnan(score.corpus)
            else:
                assert all(0 <= value <= 1 + 1e-9 for value in [*(score.per_sample or []), score.corpus])


def test_tokens() -> None:
    assert tokens("O'Neil's 9.81 s (1,234) in the U.S., state-of-the-art.") == (
        [
            "o",
            "'neil",
            "'s",
            "9.81",
            "s",
            "(",
            "1,234",
            ")",
            "in",
            "the",
            "u.s.",
            ",",
            "state-of-the-art",
            ".",
        ]
    )


@pytest.mark.parametrize("metric", ["parent_totto", "bleu_totto"])
def test_a_text_without_table(metric: str) -> None:
    batch = TextBatch(["a", "b"], ["a", "b"], [["a"], ["b"]], [{"raw_table": TABLE}, {}])
    with pytest.raises(ValueError, match=r"text 1 is not about a ToTTo table: .* go with datapool totto"):
        build_metric(metric)(batch)
