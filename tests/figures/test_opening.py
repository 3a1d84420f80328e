"""How the page opens: three sentences, their numbers of this run, their verdicts, their pictures."""

from dataclasses import replace

import pandas as pd
import pytest
from study_tables import BASE, Model, inputs, run, runs

from figures.claims import NOT_AT_SCALE, Results, Verdict
from figures.criteria import CRITERIA
from figures.opening import SENTENCES, make_opening
from figures.report import Item, render


def verdicts(outcome="holds", value=0.25, detail="seeds 0: 0.250"):
    """One of every criterion."""
    return [Verdict(criterion, outcome, value, detail) for criterion in CRITERIA]


def not_run():
    return verdicts("not tested", float("nan"), "no finished run of it")


def model(mean: float, std: float = 0.0) -> Model:
    return [mean] * 4, [std] * 4


def two_rewards() -> dict[str, dict[str, Model]]:
    """RFT gains a tenth and a half of what SFT does, in another task a half and a tenth of it."""
    tasks = {}
    for name, shares in (("repair", (0.1, 0.5)), ("dashes", (0.5, 0.1))):
        for reward, std, share in (("bleu", 0.01, shares[0]), ("rouge", 0.2, shares[1])):
            models = {"pretrained": model(0.0, std), "rft": model(share), "sft": model(1.0)}
            tasks[f"{name}:{reward}"] = models
    return tasks


def sweep() -> pd.DataFrame:
    """RFT .1 to .2; 1% of the labels, 40% of the steps .3, then RFT .5; all of both .8, then RFT 1."""
    full, short = {"sft_labels": 1.0, "sft_updates": 300}, {"sft_labels": 0.01, "sft_updates": 120}
    table = runs(
        run("rft", 0.1, 0.2),
        run("sft", 0.1, 0.8, **full),
        run("sft_rft", 0.8, 1.0, **full),
        run("sft_rft", 0.3, 0.5, **short),
    )
    table.loc[table["split"] == "test", ["start_reward", "reward"]] /= 2
    return table.assign(task="identifier_bleu")


def test_every_sentence_has_criteria_of_the_item_whose_picture_it_has():
    items = {criterion.name: criterion.item for criterion in CRITERIA}
    assert [sentence.item for sentence in SENTENCES] == ["figure1", "figure2", "figure4"]
    for sentence in SENTENCES:
        assert {items[name] for name in sentence.criteria} == {sentence.item}
        assert sentence.picture.startswith(sentence.item)


def test_numbers_are_those_of_the_run():
    results = Results(inputs=inputs(two_rewards()), runs=sweep(), base=BASE)
    first, second, third = make_opening(results, verdicts(), [])
    assert "25% have a low reward without spread. RFT brings 25.0%" in first.measured
    assert second.measured == (
        "By the reward of smaller std RFT gains 30% of what full SFT gains, by that of larger std 30% (train "
        "reward, mean over tasks); less on 1 of 2 tasks (sign test: p = 0.25)."
    )
    too_few = make_opening(results, not_run(), [])[1].measured
    assert too_few.endswith("less on 1 of 2 tasks."), "for a test"
    assert third.measured == (
        "Mean test reward on the task of the picture: pretrained 0.050; RFT alone 0.100; short SFT 0.150; "
        "short SFT, then RFT 0.250; full SFT, then RFT 0.500 (short: 1% of the labels, 40% of the steps)."
    )
    assert [verdict.criterion.name for verdict in third.verdicts] == list(SENTENCES[2].criteria)
    assert not any(lead.lacks for lead in (first, second, third))


def test_what_was_not_run_is_said_and_grey(tmp_path):
    leads = make_opening(Results(), not_run(), [])
    assert [lead.measured for lead in leads] == ["", "", ""]
    assert leads[0].lacks == "no finished run of it"
    assert leads[1].lacks.startswith("no task has finished runs of RFT and SFT under two rewards")
    assert leads[2].lacks == ("no finished run of RFT alone (short: 1% of the labels, 40% of the steps)")
    page = render("T", "I", [], [], tmp_path, leads)
    assert page.count("<span class='badge not'>&ndash; not measured</span>") == 3
    assert "<img" not in page and "class='badge holds'" not in page


def test_a_scale_that_shows_nothing_gives_the_number_and_no_verdict(tmp_path):
    small = [replace(verdict, outcome="not tested", detail=NOT_AT_SCALE) for verdict in verdicts()]
    results = Results(inputs=inputs(two_rewards()), runs=sweep(), base=BASE)
    page = render("T", "I", [], [], tmp_path, make_opening(results, small, []))
    assert page.count("<b>This run:</b>") == 3 and page.count("not tested at this scale") == 9
    assert page.count("class='badge not'") == 9 and "class='badge holds'" not in page
    assert page.count("<b>0.25</b>") == 9


def test_verdicts_stand_beside_the_sentence_with_number_and_bound(tmp_path):
    results = Results(inputs=inputs(two_rewards()), runs=sweep(), base=BASE)
    leads = make_opening(results, verdicts("fails"), [])
    page = render("T", "I", [], [], tmp_path, leads[:1])
    assert page.count("class='badge fails'") == 3
    dead = next(criterion for criterion in CRITERIA if criterion.name == "figure1_dead")
    assert f"{dead.claim} <span class=dim><b>0.25</b>, holds if at least 0.5" in page
    assert f"<li>{dead.claim} {dead.measure}</li>" in page


@pytest.mark.parametrize("is_drawn", [True, False])
def test_the_picture_is_that_of_the_drawn_item(tmp_path, is_drawn):
    """The first is linked from its item and shown above alone."""
    first, pairs = tmp_path / "figure1_hard_question_rouge", tmp_path / "figure2_pairs"
    items = [
        Item("figure1", "Figure 1", "", [tmp_path / "figure1"], linked=[first] if is_drawn else []),
        Item("figure2", "Figure 2", "", [tmp_path / "figure2", *([pairs] if is_drawn else [])]),
    ]
    pictures = [lead.picture for lead in make_opening(Results(), not_run(), items)]
    assert pictures == ([first, pairs, None] if is_drawn else [None, None, None])


def test_the_sentences_come_first_on_the_page(tmp_path):
    page = render(
        "T", "I", [Item("figure1", "Figure 1: x", "")], [], tmp_path, make_opening(Results(), not_run(), [])
    )
    places = [page.index(f"{number}. {sentence.claim}") for number, sentence in enumerate(SENTENCES, 1)]
    assert places == sorted(places) and places[-1] < page.index("All claims") < page.index("Figure 1: x")
