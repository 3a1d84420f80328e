"""Criteria and verdicts, and that the document says what the code does."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_tables import inputs

from figures.claims import MEASURES, Results, evaluate, judge
from figures.controlled_measures import EXACT_GRPO
from figures.criteria import CRITERIA, criteria_markdown
from figures.criterion import CONTRAST_TASK, HARD_TASK
from figures.paper_numbers import MARKS, PAPER
from sft_vs_rft.group_theory import group_rows

DOCUMENT = Path(__file__).parents[2] / "docs" / "laptop_study.md"


def verdict(results, name):
    (criterion,) = [criterion for criterion in CRITERIA if criterion.name == name]
    return judge(criterion, results)


def test_the_document_holds_the_criteria_that_are_evaluated():
    assert criteria_markdown() in DOCUMENT.read_text()


def test_every_criterion_is_measured_and_has_its_own_name():
    assert sorted(MEASURES) == sorted(criterion.name for criterion in CRITERIA)


def test_numbers_of_the_paper_say_how_sure_they_are():
    assert {number.mark for numbers in PAPER.values() for number in numbers} <= MARKS.keys()
    assert PAPER.keys() <= {criterion.item for criterion in CRITERIA}


def test_nothing_is_tested_without_runs():
    verdicts = evaluate(Results())
    assert {found.outcome for found in verdicts} == {"not tested"}
    assert all(found.detail and math.isnan(found.value) for found in verdicts)


def test_at_a_scale_that_shows_nothing_only_the_theory_is_tested():
    times = pd.DataFrame({"panel": "time", "series": "SFT", "std": [0.002, 0.004], "value": [12.0, 11.0]})
    meta = {"num_models": 9, "largest_ratios": {"a": 0.1}, "slopes": {"RFT": -1.994}}
    table = inputs({HARD_TASK: hard()})
    results = Results(inputs=table, theory=meta, theory_numbers=times)
    full = {verdict.criterion.name: verdict for verdict in evaluate(results)}
    small = {verdict.criterion.name: verdict for verdict in evaluate(results, is_full_scale=False)}
    assert full["figure1_dead"].outcome == "holds" and small["figure1_dead"].outcome == "not tested"
    assert small["figure1_dead"].value == full["figure1_dead"].value, "the number is given all the same"
    assert small["figure1_dead"].detail.endswith("; not tested at this scale, which is too small to show it")
    tested = {name for name, verdict in small.items() if verdict.outcome != "not tested"}
    assert tested == {"theory_bounds", "theory_rft", "theory_sft"}
    assert small["figure4_test"].detail == full["figure4_test"].detail, "without runs the reason is that"


def hard(rft=0.0, sft=1.0, dead=9):
    """Ten inputs, of which `dead` are."""
    start = ([0.0] * dead + [0.5] * (10 - dead), [0.0] * dead + [0.5] * (10 - dead))
    return {"pretrained": start, "rft": ([rft] * 10, [0.1] * 10), "sft": ([sft] * 10, [0.1] * 10)}


def test_figure1_is_decided_by_the_worst_seed():
    table = inputs({HARD_TASK: hard(), CONTRAST_TASK: hard(rft=0.5, sft=0.5, dead=0)}, seeds=(0, 1))
    results = Results(inputs=table)
    for name in ("dead", "rft", "sft", "contrast_dead", "contrast_rft"):
        assert verdict(results, f"figure1_{name}").outcome == "holds"
    seed = (table["seed"] == 1) & (table["task"] == HARD_TASK)
    table.loc[seed & (table["method"] == "rft") & (table["input"] < 3), "mean"] = 0.1
    found = verdict(Results(inputs=table), "figure1_rft")
    assert (found.outcome, found.value) == ("fails", pytest.approx(3 / 9))
    assert found.detail == "seeds 0, 1: 0.000, 0.333"
    table.loc[seed & (table["method"] == "sft") & (table["input"] < 3), "mean"] = 0.09
    assert verdict(Results(inputs=table), "figure1_sft").value == pytest.approx(6 / 9)


def test_without_dead_inputs_nobody_revives_them():
    results = Results(inputs=inputs({HARD_TASK: hard(dead=0)}))
    assert verdict(results, "figure1_dead").outcome == "fails"
    assert verdict(results, "figure1_rft").outcome == "not tested"


def tasks(count, gain=lambda i: i):
    """Tasks with a percentile and a pretrain mean that rise together, and RFT that gains more with them."""
    rng = np.random.default_rng(0)
    start = rng.permutation(count) / (10 * count)
    return {
        f"task {i}": {
            "pretrained": ([start[i]] * 9, [0.01 * (i + 1)] * 9),
            "rft": ([start[i] + 0.01 * gain(i)] * 9, [0.0] * 9),
            "sft": ([start[i] + 0.5] * 9, [0.0] * 9),
        }
        for i in range(count)
    }


def test_figure2_needs_enough_tasks_and_looks_at_the_interval():
    results = Results(inputs=inputs(tasks(8)))
    found = verdict(results, "figure2_trend")
    assert found.outcome == "holds" and found.value < 1
    assert verdict(results, "figure2_rft_part").outcome == "holds"
    assert verdict(Results(inputs=inputs(tasks(8, lambda i: i % 3))), "figure2_trend").outcome == "fails"
    few = verdict(Results(inputs=inputs(tasks(6))), "figure2_trend")
    assert (few.outcome, few.detail) == ("not tested", "6 tasks have finished runs, 7 are needed")


def test_a_trend_of_sft_alone_is_seen_as_such():
    table = inputs(tasks(9, lambda i: 1 + 0.1 * (-1) ** i))
    sft = table["method"] == "sft"
    table.loc[sft, "mean"] -= table[sft]["task"].str[-1].astype(int) * 0.05
    results = Results(inputs=table)
    assert verdict(results, "figure2_trend").outcome == "holds"
    assert verdict(results, "figure2_rft_part").outcome == "fails"


def test_table1_counts_tasks_with_dead_inputs():
    std = np.linspace(0, 0.3, 80)
    rng = np.random.default_rng(0)
    models = {
        "pretrained": ([0.0] * 80, std.tolist()),
        "rft": ((std + 0.02 * rng.standard_normal(80)).tolist(), [0.0] * 80),
        "sft": (rng.random(80).tolist(), [0.0] * 80),
    }
    few_dead = dict(models, pretrained=([0.0] * 80, (std + 0.05).tolist()))
    many_dead = dict(models, pretrained=([0.0] * 80, [0.0] * 20 + std[20:].tolist()))
    results = Results(inputs=inputs({"a": many_dead, "b": few_dead}))
    found = verdict(results, "table1_rft")
    assert (found.outcome, found.value) == ("holds", 1)
    assert found.detail.startswith("a +0.") and "b +" not in found.detail and "biased" in found.detail
    assert verdict(results, "table1_order").outcome == "holds"
    assert verdict(Results(inputs=inputs({"b": few_dead})), "table1_rft").outcome == "not tested"


def test_table1_leaves_out_tasks_whose_rewards_are_all_equal():
    flat = {
        "pretrained": ([0.0] * 9, [0.0] * 9),
        "rft": ([0.0] * 9, [0.0] * 9),
        "sft": ([1.0] * 9, [0.0] * 9),
    }
    measured = verdict(Results(inputs=inputs({"flat": flat})), "table1_rft")
    assert (measured.outcome, measured.detail) == ("not tested", "undefined, left out: flat")
    std = [0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    rising = {
        "pretrained": ([0.0] * 9, std),
        "rft": (std, [0.0] * 9),
        "sft": ([1 - value for value in std], [0.0] * 9),
    }
    table = inputs({"flat": flat, "rising": rising})
    for name, value in (("rft", "+1.00 [+1.00, +1.00]"), ("order", "+2.00 [+2.00, +2.00]")):
        measured = verdict(Results(inputs=table), f"table1_{name}")
        assert (measured.outcome, measured.value) == ("holds", 1)
        assert measured.detail.startswith(f"rising {value}; undefined, left out: flat; without a second")


def controlled(sft=0.8, finished=True):
    rows = [
        {"method": method, "group": group, "epoch": epoch, "reward": reward, "grad_norm": norm}
        for method, ends in (("RFT", (-1.0, -0.9)), ("SFT", (-1.0, sft)))
        for group, norm in (("small", 0.02), ("large", 1.0))
        for epoch, reward in enumerate(ends)
    ]
    return pd.DataFrame(rows).assign(environment="MLP\ndigits", finished=finished)


def test_controlled_runs_are_measured_by_what_was_to_gain():
    results = Results(controlled={"figure3": controlled()})
    found = verdict(results, "figure3")
    assert (found.outcome, found.value) == ("holds", pytest.approx(1.7 / 2))
    assert verdict(results, "figure3_gradient").value == pytest.approx(0.02)
    assert verdict(Results(controlled={"figure3": controlled(sft=0.05)}), "figure3").outcome == "fails"
    assert (
        verdict(Results(controlled={"figure3": controlled(finished=False)}), "figure3").outcome
        == "not tested"
    )


def test_theory():
    times = pd.DataFrame({"panel": "time", "series": "SFT", "std": [0.002, 0.004], "value": [12.0, 11.0]})
    meta = {"num_models": 2800, "largest_ratios": {"a": 0.1, "b": 1 + 1e-9}, "slopes": {"RFT": -1.994}}
    results = Results(theory=meta, theory_numbers=times)
    assert verdict(results, "theory_bounds").outcome == "holds"
    assert verdict(results, "theory_rft").value == pytest.approx(0.006)
    assert verdict(results, "theory_sft").value == pytest.approx(math.log(12 / 11) / math.log(2))
    broken = meta | {"largest_ratios": {"a": 1.01}}
    assert verdict(Results(theory=broken, theory_numbers=times), "theory_bounds").outcome == "fails"


def with_groups(environment, sft, rft, groups):
    ends = {"RFT": rft, "SFT": sft, **dict(zip(EXACT_GRPO, groups, strict=True))}
    rows = [
        {"method": method, "group": group, "epoch": epoch, "reward": reward, "grad_norm": norm}
        for number, (method, end) in enumerate(ends.items())
        for group, norm in (("small", 0.02 * (1 + number)), ("large", 1.0))
        for epoch, reward in enumerate((-1.0, end))
    ]
    return pd.DataFrame(rows).assign(environment=environment, finished=True)


def test_grpo_is_measured_by_its_best_size_in_the_worst_environment():
    tables = [
        with_groups("MLP, digits\nAdam", 0.8, -0.9, (-0.9, -0.8, -0.6)),
        with_groups("ResNet18, digits\nAdam", 0.9, -0.9, (-0.9, -0.9, -0.9)),
        with_groups("BERT-mini, pairs\nAdam", 0.3, 0.2, (0.2, 0.3, 0.35)),
    ]
    results = Results(controlled={"figure3_group": pd.concat(tables, ignore_index=True)})
    best = verdict(results, "group_figure3")
    assert (best.outcome, best.value) == ("holds", pytest.approx(1.4 / 2))
    assert best.detail == "MLP, digits, Adam: 0.700; ResNet18, digits, Adam: 0.900"
    bert = verdict(results, "group_figure3_bert")
    assert (bert.outcome, bert.value) == ("holds", pytest.approx(0.15 / 2))
    assert "RFT 0.020, GRPO, G = 8 0.060, GRPO, G = 64 0.080, GRPO, G infinite 0.100" in bert.detail
    without = tables[0][tables[0]["method"] != "GRPO, G = 64"]
    missing = verdict(Results(controlled={"figure3_group": without}), "group_figure3")
    assert missing.outcome == "not tested"
    assert missing.detail == (
        "no environment with MLP or ResNet18 with finished runs of RFT, SFT, GRPO, G = 8, GRPO, G = 64 and "
        "GRPO, G infinite"
    )
    far = Results(controlled={"figure3_group": with_groups("BERT-mini, a", 0.3, -0.9, (0.0, 0.0, 0.0))})
    assert verdict(far, "group_figure3_bert").outcome == "fails"


def test_the_power_of_groups_is_read_at_one_std():
    rows = pd.DataFrame(group_rows((0.003, 0.1)))
    results = Results(group_theory_numbers=rows)
    assert verdict(results, "group_exponent").outcome == "holds"
    assert verdict(results, "group_exponent").value < 1e-3
    assert verdict(results, "group_exponent_infinite").outcome == "holds"
    wrong = rows.assign(value=rows["value"] - 0.5 * (rows["series"] == "GRPO, G = 64"))
    assert verdict(Results(group_theory_numbers=wrong), "group_exponent").outcome == "fails"
