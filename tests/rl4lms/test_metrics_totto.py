"""PARENT by hand; its golden values are in test_metrics_golden.py."""

import math

import pytest
from text_pairs import text_pairs

from rl4lms.metrics import TextBatch, build_metric
from rl4lms.metrics.totto import best_parent, parent

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


def test_the_best_of_three_references_counts_and_missing_ones_are_null() -> None:
    good, bad = "Ann Lee joined the Red Lions in 2001", "nothing of this"
    assert best_parent(good, [bad, good, bad], TABLE) == best_parent(good, [good, bad, bad], TABLE)
    assert best_parent(good, [good] * 3, TABLE).f_score == pytest.approx(1)
    assert best_parent(good, [bad] * 3 + [good], TABLE) == best_parent(good, [bad] * 3, TABLE)
    assert best_parent(good, [bad], TABLE) == best_parent(good, [bad, "<null>", "<null>"], TABLE)
    # Against a reference that no n-gram of it needs, only the table counts: here it backs the whole text.
    table_only = parent("ann lee red lions".split(), [], [["ann", "lee", "red", "lions"]], [["lions"], ["x"]])
    assert (table_only.precision, table_only.recall) == (pytest.approx(1), pytest.approx(1 / 2))


def test_zeros_of_the_orders_from_two_on_are_smoothed_and_that_of_words_is_not() -> None:
    known = [["red", "lions"]]
    short = parent(["red", "lions"], ["red"], known, known)
    assert short.precision == pytest.approx(1e-5 ** (2 / 4)), "no 3-gram, no 4-gram"
    foreign = parent(["other"], ["red", "lions"], known, known)
    assert (foreign.precision, foreign.f_score) == (0, 0)
    # No word of the reference: its recall is 1e-5 in all, whatever the longer n-grams would give.
    assert parent(["other"], ["red"], [["red"]], [["lions"]]).recall == pytest.approx(1e-5)


# A worked example of ToTTo's evaluation, computed with the released code.
WORKED = {
    "table_page_title": "Ada Quill",
    "table_section_title": "Career",
    "table_section_text": "",
    "overlap_subset": True,
    "highlighted_cells": [[1, 0], [1, 1]],
    "table": [
        [{"value": "Year"}, {"value": "Club"}],
        [{"value": "1990"}, {"value": "Oakham Rovers"}],
    ],
}
WORKED_REFERENCE = "In 1990 Ada Quill joined Oakham Rovers."


@pytest.mark.parametrize(
    ("text", "f_score", "precision", "recall", "bleu"),
    [
        # The closest length is that of "<null>", which is three tokens.
        ("Ada Quill joined Oakham", 0.529034, 1, 0.359650, 1),
        ("ADA QUILL JOINED OAKHAM ROVERS IN 1990 .", 0.728328, 0.840896, 0.642339, 0.614788),
        ("Ada Quill", 0.006246, 0.003162, 0.25, 0),
        ("", 0.00002, 0.056234, 0.00001, 0),
        (" \n", 0.00002, 0.056234, 0.00001, 0),
    ],
)
def test_worked_values(text: str, f_score: float, precision: float, recall: float, bleu: float) -> None:
    batch = TextBatch(["p"], [text], [[WORKED_REFERENCE]], [{"raw_table": WORKED}])
    parents, bleus = build_metric("parent_totto")(batch), build_metric("bleu_totto")(batch)
    for subset in ("overall", "overlap"):
        name = f"table_to_text/parent_{subset}"
        values = [parents[name + key].corpus for key in ("_f_score", "/precision", "/recall")]
        assert values == pytest.approx([f_score, precision, recall], abs=1e-6)
        assert bleus[f"table_to_text/bleu_{subset}"].corpus == pytest.approx(bleu, abs=1e-6)


def test_missing_references_empty_texts_and_case() -> None:
    texts, references = ["Ada QUILL", "", "x"], [["a", "b", "c", "ada quill"], [], ["", "", ""]]

    def scores(texts: list[str], references: list[list[str]]) -> list[float]:
        batch = TextBatch([""] * 3, texts, references, [{"raw_table": WORKED}] * 3)
        both = build_metric("parent_totto")(batch) | build_metric("bleu_totto")(batch)
        return [score.corpus for name, score in sorted(both.items()) if "non_overlap" not in name]

    filled = [["A", "B", "C"], ["<null>"] * 3, ["<null>", "", ""]]
    assert scores(texts, references) == scores(["ada quill", "<null>", "X"], filled)


def test_a_bar_in_a_value_is_a_hyphen_and_values_without_tokens_do_not_count() -> None:
    barred = {
        **WORKED,
        "table": [[{"value": "Year"}, {"value": "<skipped>"}], [{"value": "a|b"}, {"value": " "}]],
    }
    hyphened = {**WORKED, "table": [[{"value": "Year"}, {"value": ""}], [{"value": "a-b"}, {"value": ""}]]}
    text, references = "Ada Quill joined a-b in 1990", [WORKED_REFERENCE]
    assert best_parent(text, references, barred) == best_parent(text, references, hyphened)


def test_values_are_between_0_and_1_for_any_text() -> None:
    batch = text_pairs(100)
    batch = TextBatch(batch.prompts, batch.generated, batch.references, [{"raw_table": TABLE}] * len(batch))
    for metric in ("parent_totto", "bleu_totto"):
        for name, score in build_metric(metric)(batch).items():
            if "non_overlap" in name:
                assert math.isnan(score.corpus)
            else:
                assert all(0 <= value <= 1 + 1e-9 for value in [*(score.per_sample or []), score.corpus])


def test_tokens_are_those_of_13a() -> None:
    """Only then does the table back every word of the text: "o'neil's" is two tokens, "9.81" is one."""
    table = {**WORKED, "table": [[{"value": "O'Neil"}, {"value": "9.81"}]], "highlighted_cells": [[0, 1]]}
    assert best_parent("O'Neil 9.81 Ada Quill Career", [], table).precision == pytest.approx(1)
    assert best_parent("Neil 9 Ada Quill Career", [], table).precision < 1


@pytest.mark.parametrize("metric", ["parent_totto", "bleu_totto"])
def test_a_text_without_table(metric: str) -> None:
    batch = TextBatch(["a", "b"], ["a", "b"], [["a"], ["b"]], [{"raw_table": TABLE}, {}])
    with pytest.raises(ValueError, match=r"text 1 is not about a ToTTo table: .* go with datapool totto"):
        build_metric(metric)(batch)
